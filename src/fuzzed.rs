//! What the fuzzer calls: every parser of bytes that somebody else wrote, with
//! what must hold for any input. One function a target of `fuzz/`, which compiles
//! this file and the parsers once more; here the tests run every file of the
//! corpus (`fuzz/corpus/<target>/`) through the same functions.
//!
//! | target | input | who writes it |
//! |---|---|---|
//! | [`wire`] | an element of the inbox | producers |
//! | [`options`] | the header's `options`: lengths, paper, page ranges | producers |
//! | [`settings`] | values of the configuration: sizes, durations, lists | operators |
//! | [`cdp`] | the pipe from Chromium | a browser that was taken over |
//! | [`pdf`] | a finished PDF | the same |
//! | [`proc`] | `/proc` and control groups | the kernel, a container's host |
//! | [`ledger`] | what workers tell each other through Redis and shared memory | whoever has these |
//! | [`document`] | markup that is looked at before it is rendered | whoever fills in a receipt |
//! | [`urls`] | what a document asks for; the URL of Redis | the same; operators |
//! | [`asset`] | a file that is stored for a tenant: its name, a line end, its bytes | operators, from whoever sent it to them |
//! | [`image`] | the header of an image | producers; whoever fills in a receipt |
//! | [`rules`] | a tenant's isolation and scripts, as Redis keeps them: a line each | whoever has Redis; a newer release |

#![allow(unreachable_pub, reason = "in the fuzzer's crate they are reached")]

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::macros::datetime;

use crate::config::units::{parse_bytes, parse_duration, show_bytes, show_duration};
use crate::config::values::{
    ByteLimit, Concurrency, Count, Isolation, Memory, Nice, QueueName, RedisUrl, Setting, Size,
    redact_url,
};
use crate::job::length::{Height, Length, MAX_POINTS, Paper};
use crate::job::options::{self as job_options, Info};
use crate::job::{
    Asset, Isolation as Sharing, MAX_ELEMENT_BYTES, Name, Priority, Rules, font, image as images,
    sniff,
};
use crate::memory::document::Features;
use crate::memory::predictor::{KINDS, Kind, Predictor};
use crate::memory::probe::Probe;
use crate::memory::sampler::{Pace, Sampler};
use crate::memory::table::Record;
use crate::memory::verdicts::{VERDICTS, Verdicts, read};
use crate::renderer::assets::{Found, Shelf, shown};
use crate::renderer::cdp::frame::{Frame, FrameDecoder, Message, parse as parse_frame};
use crate::renderer::pdf::{Document, Finished, Stamp};
use crate::renderer::{markup, tags};

/// No message quotes more than a few shortened values.
const LONGEST_MESSAGE: usize = 2_000;

/// An element is a job with valid names, or a rejection that can be sent back.
pub fn wire(data: &[u8]) {
    let read = |data| crate::job::parse(data, Priority::Bulk, || "made-here".to_owned());
    match read(data) {
        Ok(job) => {
            assert!(data.len() <= MAX_ELEMENT_BYTES);
            assert_eq!(Name::parse(&job.name.to_string()).as_ref(), Some(&job.name));
            assert!(!job.html.trim().is_empty() && job.html.len() <= data.len());
            let carried: usize = job.assets.iter().map(|asset| asset.bytes.len()).sum();
            assert!(carried + job.html.len() <= data.len());
            assert!(job.assets.iter().all(|asset| !asset.bytes.is_empty()));
            assert!(job.max_attempts > 0 && job.digest.len() == 64);
            assert_eq!(read(data).as_ref(), Ok(&job), "the same bytes are the same job");
        }
        Err(rejection) => {
            assert!(!rejection.problem.code.is_empty() && !rejection.problem.remedy.is_empty());
            assert!(rejection.problem.message.len() < LONGEST_MESSAGE);
            if let Some(name) = &rejection.name {
                assert_eq!(Name::parse(&name.to_string()).as_ref(), Some(name));
            }
        }
    }
}

/// Options that are accepted can be printed with.
pub fn options(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(length) = Length::parse(text) {
            assert!(length.points().is_finite() && length.points() >= 0.0);
        }
        assert_eq!(Paper::named(text), Paper::named(&text.to_ascii_uppercase()));
    }
    let Ok(Value::Object(object)) = serde_json::from_slice(data) else { return };
    match job_options::parse(&object) {
        Ok(options) => {
            let fits = |side: Length| side.points() >= 10.0 && side.points() <= MAX_POINTS;
            if let Some(paper) = options.paper {
                assert!(fits(paper.width));
                assert!(!matches!(paper.height, Height::Fixed(height) if !fits(height)));
            }
            assert!((0.1..=2.0).contains(&options.scale) && !options.timeout.is_zero());
            let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b',' | b'+');
            assert!(options.pages.bytes().all(plain), "{}", options.pages);
        }
        Err(problem) => {
            assert!(problem.message.len() < LONGEST_MESSAGE && !problem.code.is_empty())
        }
    }
}

/// What is read is shown in a form that reads back as the same.
pub fn settings(data: &[u8]) {
    fn same<T: Setting + PartialEq>(text: &str) {
        if let Ok(value) = T::parse(text) {
            let shown = value.show();
            assert!(T::parse(&shown).is_ok_and(|again| again == value), "{text:?}: {shown:?}");
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
    if let Ok(bytes) = parse_bytes(text) {
        assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
    }
    same::<ByteLimit>(text);
    same::<Concurrency>(text);
    same::<Count>(text);
    same::<Isolation>(text);
    same::<Memory>(text);
    same::<Nice>(text);
    same::<QueueName>(text);
    same::<Size>(text);
    same::<Duration>(text);
    same::<Option<std::net::SocketAddr>>(text);
}

/// However the bytes are cut, the frames are what stands between the NULs.
pub fn cdp(data: &[u8]) {
    const LIMIT: usize = 4096;
    let (&cut, data) = data.split_first().unwrap_or((&0, &[]));
    let mut decoder = FrameDecoder::new(LIMIT);
    let mut expected = data.split_inclusive(|byte| *byte == 0);
    for piece in data.chunks(usize::from(cut) + 1) {
        decoder.room().extend_from_slice(piece);
        while let Some(frame) = decoder.next_frame() {
            let whole = expected.next().and_then(|frame| frame.strip_suffix(&[0]));
            match frame {
                Frame::Whole(frame) => {
                    assert_eq!(Some(&frame[..]), whole);
                    assert!(frame.len() <= LIMIT);
                    envelope(&frame);
                }
                // Of what is too long only its address is read, whatever stands there.
                Frame::Cut(cut) => {
                    assert!(whole.is_some_and(|frame| frame.len() > LIMIT));
                    let _address = (cut.id(), cut.session().map(str::len));
                }
            }
        }
    }
    assert!(expected.next().is_none_or(|frame| !frame.ends_with(&[0])));
}

/// What a frame carries stands inside it.
fn envelope(frame: &[u8]) {
    match parse_frame(frame) {
        Ok(Message::Reply { result: range, .. } | Message::Event { params: range, .. }) => {
            let inside = frame.get(range).is_some_and(|json| {
                json.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok()
            });
            assert!(inside, "{}", String::from_utf8_lossy(frame));
        }
        // Of an error that cannot be read there are words of ours.
        Ok(Message::Failure { error, .. }) => assert!(error.message.len() <= frame.len().max(32)),
        Err(why) => assert!(!why.is_empty()),
    }
}

/// What is read can be finished, or is refused; what was finished reads back, and stays as it is.
pub fn pdf(data: &[u8]) {
    let Ok(document) = Document::read(data) else { return };
    let info = Info { title: Some("Beleg № 1 (Kopie)".to_owned()), ..Info::default() };
    let date = datetime!(2026-03-31 12:00:05 +05:30);
    let stamp = Stamp { info: &info, date, size: (226.772, None) };
    let Ok(Finished { pdf: finished, .. }) = document.finish(&stamp) else { return };
    assert!(finished.len() <= data.len() * 2 + 4096, "{} of {}", finished.len(), data.len());
    // An object may be written over another in a file that no Chromium wrote; then
    // it need not read back. If it does, it says the same.
    if let Ok(again) = Document::read(&finished)
        && again.pages().len() == document.pages().len()
        && let Ok(twice) = again.finish(&stamp)
    {
        assert!(Document::read(&twice.pdf).is_ok());
    }
}

/// Whatever the kernel's files say, there is a reading or an error, and no overflow.
pub fn proc(data: &[u8]) {
    const FILES: [&str; 13] = [
        "proc/self/cgroup",
        "proc/self/mountinfo",
        "proc/meminfo",
        "proc/7/status",
        "proc/7/task/7/children",
        "proc/7/stat",
        "proc/pressure/memory",
        "proc/vmstat",
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory.current",
        "sys/fs/cgroup/memory.stat",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
    ];
    thread_local! {
        static TREE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    TREE.with_borrow_mut(|tree| {
        let tree = match tree {
            Some(tree) => tree,
            // Not in /tmp, which may be a disk.
            None => tree.insert(new_tree(&FILES)),
        };
        // The parts stand between lines of one tilde; what is missing is empty.
        let text = String::from_utf8_lossy(data);
        let mut parts = text.split("~\n");
        for file in FILES {
            let written = fs::write(tree.path().join(file), parts.next().unwrap_or_default());
            assert!(written.is_ok(), "{file}: {written:?}");
        }
        look_at(tree.path());
    });
}

fn new_tree(files: &[&str]) -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").and_then(|tree| {
        for file in files {
            let path = tree.path().join(file);
            fs::create_dir_all(path.parent().unwrap_or(tree.path()))?;
        }
        Ok(tree)
    });
    match made {
        Ok(tree) => tree,
        Err(error) => unreachable!("a directory in /dev/shm: {error}"),
    }
}

fn look_at(root: &Path) {
    let probe = Probe::at(root);
    if let Ok(memory) = probe.read() {
        assert!(memory.free() <= memory.available);
    }
    assert_eq!(probe.used_by_tree(7), {
        let tree = probe.tree(7, |_| false);
        tree.into_iter().fold(0_u64, |sum, pid| sum.saturating_add(probe.used_by(pid)))
    });
    let mut sampler = Sampler::at(root);
    sampler.watch(7, Pace::Busy);
    for now in [Duration::ZERO, Duration::from_secs(1)] {
        if let (Ok(reading), Ok(memory)) = (sampler.sample(now), probe.read()) {
            assert_eq!(reading.memory, memory, "probe and sampler agree");
            assert_eq!(reading.own, probe.used_by(7));
        }
    }
}

/// What other workers wrote, or somebody in their name, is bounded and can be told on.
pub fn ledger(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut predictor = Predictor::new();
    predictor.absorb(&text);
    assert!(predictor.len() <= KINDS);
    let features = Features { markup: 3_400, ..Features::default() };
    let kind = Kind::new("shop", &features);
    predictor.observe(&kind, 45 << 20);
    assert!(predictor.predict(&kind, &features) >= 45 << 20);
    let dump = predictor.dump(64 << 10);
    assert!(dump.len() <= 64 << 10);
    let mut other = Predictor::new();
    other.absorb(&dump);
    assert_eq!(other.dump(64 << 10), dump);

    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut verdicts = Verdicts::default();
    verdicts.absorb(&read(&lines));
    assert!(lines.len() > VERDICTS || verdicts.too_big(&[0; 32], u64::MAX).is_none());

    if let Some(record) = Record::parse(data)
        && !record.is_free()
    {
        assert_eq!(Record::parse(&record.words()), Some(record));
    }
}

/// Looking at markup changes nothing but what it is meant to change.
pub fn document(data: &[u8]) {
    let Ok(html) = std::str::from_utf8(data) else { return };
    let features = Features::of(html, false);
    assert!(features.markup <= html.len() as u64);
    let all = features.with_image(data);
    assert!(all.images >= features.images && all.prior() >= features.prior());
    let twice = Features::of(&[html, " ", html].concat(), true);
    assert!(twice.images >= features.images, "more images never take less");

    let disarmed = markup::disarm(html);
    assert_eq!(disarmed.len(), html.len());
    assert_eq!(markup::disarm(&disarmed), disarmed);
    assert_eq!(markup::loads_anything(&disarmed), markup::loads_anything(html));
    assert_eq!(markup::has_page_rules(&disarmed), markup::has_page_rules(html));

    let shape = tags::shape(html, u64::MAX, u64::MAX);
    assert!(shape.depth <= shape.nodes && shape.nodes <= html.len() as u64);
    let limited = tags::shape(html, 3, 2);
    assert_eq!(limited.nodes > 3 || limited.depth > 2, shape.nodes > 3 || shape.depth > 2);
    assert!(images::inline_pixels(html) == 0 || html.to_ascii_lowercase().contains("data:"));
    assert!(images::pixels(data).is_none_or(|pixels| pixels < u64::MAX));
    let look = markup::look(html, 1_000);
    assert!(look.tall == markup::Tall::No || markup::look(html, 1).tall != markup::Tall::No);
    assert!(!look.many_tags || html.len() > 2_000);
    assert_eq!(markup::look(html, 0).tall, markup::Tall::No);

    let shelf = Shelf::of(&Arc::from([]));
    let based = shelf.with_base(html, "");
    let base = format!("<base href=\"{}\">", shelf.origin());
    assert_eq!(based.replacen(&base, "", 1), html);
}

/// No message shows what stands before a host or behind a question mark.
pub fn urls(data: &[u8]) {
    const SECRET: &str = "k7Qsecret";
    let text = String::from_utf8_lossy(data);
    let asset = |name: &str| Asset {
        name: name.to_owned(),
        media_type: "image/png",
        bytes: bytes::Bytes::from_static(b"x"),
    };
    let shelf = Shelf::of(&Arc::from([asset("logo.png"), asset("img/logo.png")]));
    if let Found::Asset(found) = shelf.find(&[shelf.origin(), &text].concat()) {
        assert!(text.contains(&found.name));
    }
    assert!(shelf.shown(&text).chars().count() <= 121 + "://".len());
    if !text.contains("://") && !text.contains('/') {
        let url = format!("https://me:{SECRET}{text}@shop.example/a.png?token={SECRET}");
        assert!(!shown(&url).contains(SECRET) || text.contains(['?', '#']), "{url}");
    }
    for url in [
        format!("redis://app:{text}{SECRET}@host:6379/0"),
        format!("rediss://:{SECRET}{text}@host"),
        format!("unix:///run/redis.sock?pass={text}{SECRET}"),
        format!("app:{SECRET}{text}@host:6379"),
    ] {
        assert!(!redact_url(&url).contains(SECRET), "{url}");
        if let Ok(Some(parsed)) = <Option<RedisUrl>>::parse(&url) {
            assert!(
                !format!("{parsed} {parsed:?} {}", Some(parsed.clone()).show()).contains(SECRET)
            );
        }
    }
    if let Err(why) = <Option<RedisUrl>>::parse(&text) {
        assert!(!why.is_empty());
    }
}

/// What is taken for an asset can be shown, and what is refused is refused with a remedy.
pub fn asset(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let file = parts.next().unwrap_or_default();
    match sniff::media_type(&name, file) {
        Ok("text/css" | "image/svg+xml") => assert!(std::str::from_utf8(file).is_ok()),
        Ok(media) if media.starts_with("font/") => {
            assert!(font::is_whole(file));
            // These two say how long they are.
            let says = media.starts_with("font/woff");
            assert!(!says || !font::is_whole(&file[..file.len() - 1]));
        }
        Ok(media) => {
            assert!(media.starts_with("image/"), "{media}");
            assert!(images::size(file).is_some_and(|(width, height)| width > 0 && height > 0));
        }
        Err(problem) => {
            assert!(!problem.remedy.is_empty() && problem.code.starts_with("asset_"));
            assert!(name.len() > 200 || problem.message.len() < LONGEST_MESSAGE);
        }
    }
}

/// A size that a beginning tells is that of the whole, inlined as well.
pub fn image(data: &[u8]) {
    let size = images::size(data);
    assert_eq!(images::pixels(data), size.map(|(w, h)| u64::from(w) * u64::from(h)));
    // An AVIF names several, of which the largest counts.
    if let Some(begun) = images::size(&data[..data.len() / 2])
        && data.get(4..8) != Some(b"ftyp")
    {
        assert_eq!(size, Some(begun));
    }
    if data.len() < 64 * 1024 {
        let inlined = format!("<img src='data:image/x;base64,{}'>", STANDARD.encode(data));
        assert_eq!(images::inline_pixels(&inlined), images::pixels(data).unwrap_or(0));
    }
}

/// Words that nobody knows are as strict as can be, and what was read is written as the same.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (isolation, scripts) = text.split_once('\n').unwrap_or((&text, ""));
    let rules = Rules::read(isolation, scripts);
    assert_eq!(rules.isolation.is_none(), isolation.is_empty());
    assert_eq!(rules.scripts.is_none(), scripts.is_empty());
    assert!(rules.scripts != Some(true) || scripts == "on");
    if let Some(sharing) = rules.isolation {
        assert!(sharing == Sharing::Job || sharing.as_str() == isolation);
        let scripts = rules.scripts.map_or("", |on| if on { "on" } else { "off" });
        assert_eq!(Rules::read(sharing.as_str(), scripts), rules);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 12] = [
        ("wire", wire),
        ("options", options),
        ("settings", settings),
        ("cdp", cdp),
        ("pdf", pdf),
        ("proc", proc),
        ("ledger", ledger),
        ("document", document),
        ("urls", urls),
        ("asset", asset),
        ("image", image),
        ("rules", rules),
    ];

    /// Every file of the corpus, by target.
    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir:?}: {error}"));
        let files = files.map(|file| file.unwrap().path());
        files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
    }

    #[test]
    fn every_file_of_the_corpus_is_taken() {
        for (name, target) in TARGETS {
            let files = corpus(name);
            assert!(files.len() >= 5, "{name} has {} files", files.len());
            for (file, data) in files {
                let run = std::panic::catch_unwind(|| target(&data));
                assert!(run.is_ok(), "{file}: see above");
            }
        }
    }

    #[test]
    fn every_target_is_known_to_the_fuzzer_and_has_a_corpus() {
        let manifest = include_str!("../fuzz/Cargo.toml");
        let built: Vec<&str> = manifest
            .split("[[bin]]\nname = \"")
            .skip(1)
            .filter_map(|part| part.split('"').next())
            .collect();
        assert_eq!(built, TARGETS.map(|(name, _)| name));
    }
}
