//! A Chromium in the worker's own jail with the worker's own flags, and nothing but a
//! pipe to it: one thread, messages built beforehand, no deadlines, no checks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use serde_json::{Value, json};
use tillroll::renderer::engine::{Engine, Search, find};
use tillroll::renderer::flags::{FlagOptions, flags};
use tillroll::renderer::jail::{self, Host, Jail};

use crate::rig::setting;

/// What the worker's configuration says of `renderer.nice`, unless it is set otherwise.
const NICE: i32 = 10;

fn nice() -> i32 {
    setting("renderer.nice").map_or(NICE, |nice| nice.parse().unwrap())
}

/// Of both pipes, as the worker makes them.
const PIPE_BYTES: usize = 1 << 20;

/// The worker's switches that are there because somebody measured what they gain.
const FOUND_BY_MEASURING: [&str; 5] = [
    "--disable-threaded-compositing",
    "--enable-begin-frame-control",
    "--enable-low-end-device-mode",
    "--disable-software-rasterizer",
    "--js-flags=--no-optimize-for-size,--initial-heap-size=8",
];

/// Features among the worker's that are off for the same reason.
const OFF_BY_MEASURING: [&str; 2] = [",DIPS", ",DeclarativePerformanceObserver"];

/// What a browser is started with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switches {
    TheWorkers,
    /// Those that everybody gives a Chromium that is to be quiet.
    TheUsual,
}

/// The engine that the worker finds.
pub(crate) fn engine() -> Engine {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let search = Search { path: directories(), home, ..Search::default() };
    find(&search).expect("Chromium is needed: scripts/install-deps run")
}

fn is_features(flag: &OsStr) -> bool {
    flag.to_str().is_some_and(|flag| flag.starts_with("--disable-features="))
}

fn directories() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

/// A browser, and what was read from it.
pub(crate) struct Pipe {
    child: Child,
    /// The first process of the jail, with which all others end.
    first: Pid,
    commands: File,
    replies: File,
    read: Vec<u8>,
    /// Where the next message begins, and up to where no end of it was found.
    next: usize,
    looked: usize,
    chunk: Vec<u8>,
    calls: u64,
}

/// An answer: to which call, and where it stands in what was read.
pub(crate) struct Answer {
    pub(crate) id: u64,
    place: Range<usize>,
}

impl Pipe {
    /// Starts a browser. To be called from the thread that lives longest: the jail
    /// ends with the thread that made it.
    pub(crate) fn launch() -> Self {
        Self::launch_with(Switches::TheWorkers)
    }

    /// The same with other switches.
    pub(crate) fn launch_with(switches: Switches) -> Self {
        let jail = Jail::find(&directories()).unwrap_or_else(|error| panic!("{error}"));
        let engine = engine();
        let mut flags = flags(FlagOptions {
            kind: engine.kind,
            profile: Path::new(jail::PROFILE_IN_JAIL),
            unjailed: false,
            root: rustix::process::geteuid().is_root(),
        });
        if switches == Switches::TheUsual {
            let all = flags.len();
            flags.retain(|flag| !FOUND_BY_MEASURING.iter().any(|found| flag == found));
            assert_eq!(flags.len(), all - FOUND_BY_MEASURING.len(), "one is no flag any more");
            for flag in flags.iter_mut().filter(|flag| is_features(flag)) {
                let features = flag.to_str().unwrap();
                assert!(OFF_BY_MEASURING.iter().all(|off| features.contains(off)), "{features}");
                *flag = OFF_BY_MEASURING
                    .iter()
                    .fold(features.to_owned(), |all, off| all.replace(off, ""))
                    .into();
            }
        }
        let program = std::fs::canonicalize(&engine.path).unwrap();
        let line =
            jail::command_line(&jail, &Host::probe(&jail), &program, flags, Path::new("/tmp"));
        let (commands_in, commands) = pipe();
        let (replies, replies_out) = pipe();
        let (gate_in, gate) = pipe();
        let (info, info_out) = pipe();
        for end in [&commands, &replies] {
            fcntl_setpipe_size(end, PIPE_BYTES).unwrap();
        }
        let fds = [
            (commands_in, jail::COMMANDS_FD),
            (replies_out, jail::REPLIES_FD),
            (gate_in, jail::GATE_FD),
            (info_out, jail::INFO_FD),
        ];
        let fds = fds.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        let mut command = Command::new(line.program);
        command.args(line.args).env_clear().envs(line.env).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.fd_mappings(fds.into()).unwrap().spawn().unwrap();
        // With it go our copies of the ends that are the child's now.
        drop(command);
        let first = first_process(File::from(info));
        setpriority_process(Some(first), nice()).unwrap();
        File::from(gate).write_all(b"\n").unwrap();
        let mut pipe = Self {
            child,
            first,
            commands: commands.into(),
            replies: replies.into(),
            read: Vec::new(),
            next: 0,
            looked: 0,
            chunk: vec![0; PIPE_BYTES],
            calls: 0,
        };
        pipe.call(None, "Browser.getVersion", &json!({}));
        regroup(first);
        pipe
    }

    /// The process below which all of the browser is.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the browser writes to, to wait for several of them.
    pub(crate) fn replies(&self) -> &File {
        &self.replies
    }

    /// What the browser calls itself.
    pub(crate) fn product(&mut self) -> String {
        let version = self.call(None, "Browser.getVersion", &json!({}));
        version["product"].as_str().unwrap().to_owned()
    }

    /// Sends a message that lacks only its id, and what is given in between.
    pub(crate) fn send(&mut self, id: u64, parts: &[&[u8]]) {
        let mut message = format!("{{\"id\":{id}").into_bytes();
        for part in parts {
            message.extend_from_slice(part);
        }
        self.commands.write_all(&message).unwrap();
    }

    /// Calls a method and waits for its result, while nothing else is under way.
    pub(crate) fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        self.send(id, &[&message(session, method, params)]);
        loop {
            let answer = self.answer();
            if answer.id == id {
                return self.result(&answer);
            }
        }
    }

    /// Waits for the next answer; events are passed over.
    pub(crate) fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.told() {
                return answer;
            }
            self.read_more();
        }
    }

    /// The next answer in what was read already, if there is one; events are passed over.
    pub(crate) fn told(&mut self) -> Option<Answer> {
        loop {
            let place = self.message()?;
            let text = &self.read[place.clone()];
            let Some(rest) = text.strip_prefix(b"{\"id\":") else { continue };
            let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap();
            let id = std::str::from_utf8(&rest[..digits]).unwrap().parse().unwrap();
            let told = String::from_utf8_lossy(&text[..text.len().min(400)]);
            assert!(rest[digits..].starts_with(b",\"result\":"), "Chromium refuses: {told}");
            let begin = place.end - rest.len() + digits + b",\"result\":".len();
            return Some(Answer { id, place: begin..place.end });
        }
    }

    /// What stands from the beginning of an answer's result to the end of the message.
    pub(crate) fn text(&self, answer: &Answer) -> &[u8] {
        &self.read[answer.place.clone()]
    }

    /// An answer's result, read.
    pub(crate) fn result(&self, answer: &Answer) -> Value {
        let text = self.text(answer);
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
        values.next().unwrap().unwrap()
    }

    /// Reads what there is, and waits where there is nothing. Answers from before are
    /// gone then.
    pub(crate) fn read_more(&mut self) {
        // What was answered is not looked at any more.
        self.read.drain(..self.next);
        (self.next, self.looked) = (0, self.read.len());
        let count = self.replies.read(&mut self.chunk).unwrap();
        assert!(count > 0, "Chromium has ended");
        self.read.extend_from_slice(&self.chunk[..count]);
    }

    fn message(&mut self) -> Option<Range<usize>> {
        let end = self.read[self.looked..].iter().position(|byte| *byte == 0)?;
        let end = self.looked + end;
        let place = self.next..end;
        (self.next, self.looked) = (end + 1, end + 1);
        Some(place)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Either may have ended by itself.
        kill_process(self.first, Signal::KILL).unwrap_or_default();
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

/// A message as far as it is known before its id.
pub(crate) fn message(session: Option<&str>, method: &str, params: &Value) -> Vec<u8> {
    let session = session.map(|id| format!(",\"sessionId\":\"{id}\"")).unwrap_or_default();
    format!(",\"method\":\"{method}\"{session},\"params\":{params}}}\0").into_bytes()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// Waits until bubblewrap tells which process is the jail's first.
fn first_process(mut info: File) -> Pid {
    let (mut text, mut chunk) = (Vec::new(), [0; 512]);
    loop {
        if let Ok(info) = serde_json::from_slice::<Value>(&text) {
            return Pid::from_raw(i32::try_from(info["child-pid"].as_i64().unwrap()).unwrap())
                .unwrap();
        }
        let count = info.read(&mut chunk).unwrap();
        assert!(count > 0, "bubblewrap ended before the jail was there");
        text.extend_from_slice(&chunk[..count]);
    }
}

/// Where the kernel groups processes by session, the jail's must be as nice.
fn regroup(first: Pid) {
    let group = |of: &str| std::fs::read_to_string(format!("/proc/{of}/autogroup")).ok();
    let of = first.as_raw_nonzero().to_string();
    if group(&of).is_some_and(|theirs| Some(theirs) != group("self")) {
        // Only a hint to the kernel, which an ordinary user may be refused.
        std::fs::write(format!("/proc/{of}/autogroup"), nice().to_string()).unwrap_or_default();
    }
}
