//! What is in reach from inside: of a process that was started in the jail, and
//! of a document whose scripts run. With the jail off, the same questions show
//! what the jail is for.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use tillroll::renderer::browser::Browser;
use tillroll::renderer::context::ContextOptions;
use tillroll::renderer::jail::{self, Host, Jail};
use tillroll::renderer::launcher::{Launcher, SpawnRequest};
use tillroll::renderer::processes::Kind;

use crate::support::{self, PATIENCE};

/// A secret that anybody on this machine may read.
fn canary() -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().prefix("tillroll-canary").tempfile_in("/tmp").unwrap();
    std::fs::write(file.path(), "canary-77b2").unwrap();
    file
}

/// Asks everything with what a shell has built in; `name=value` on stderr.
const PROBE: &str = r#"
say() { echo "$1=$2" >&2; }
say root "$(echo /*)"
say etc "$(echo /etc/*)"
say usr "$(echo /usr/*)"
say shell "$([ -x /bin/sh ] && echo yes || echo no)"
say passwd "$([ -r /etc/passwd ] && echo read || echo no)"
say canary "$([ -r "$CANARY" ] && echo read || echo no)"
say processes "$(echo /proc/[0-9]*)"
say parent "$(kill -0 "$HOST_PID" 2>/dev/null && echo reached || echo no)"
say dbus "$([ -e /run/dbus/system_bus_socket ] && echo there || echo no)"
export -p | while read -r _ line; do say environment "${line%%=*}"; done
while read -r line; do case "$line" in *:*) say interface "${line%%:*}";; esac; done </proc/net/dev
[ -r /proc/net/if_inet6 ] && while read -r line; do say address6 "$line"; done </proc/net/if_inet6
while read -r line; do case "$line" in *"host LOCAL"*) say address4 "$before";; esac; before="$line"; done </proc/net/fib_trie
while read -r line; do case "$line" in NoNewPrivs:*|CapEff:*) say "${line%%:*}" "${line##*	}";; esac; done </proc/self/status
host=; { read -r host </proc/sys/kernel/hostname; } 2>/dev/null; say hostname "$host"
# Opened, never written to: these are the host's where the jail does not hold.
for place in / /etc /usr /usr/share /dev /dev/shm /tmp; do
  [ -w "$place" ] && say writable "$place"
done
for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/mtrr /proc/irq/default_smp_affinity; do
  (: >>"$file") 2>/dev/null && say writable "$file"
done
while read -r _ at kind options _; do [ "$at" = /tmp ] && say tmp "$kind $options"; done </proc/mounts
say core "$(ulimit -c)"
say file "$(ulimit -f)"
say done yes
"#;

/// The answers, several of one name in order.
async fn answers(jail: &Jail) -> BTreeMap<String, Vec<String>> {
    // In the jail, only the engine's directory is there beside libraries and
    // fonts: so a shell stands in for the engine.
    let (dir, canary) = (tempfile::tempdir().unwrap(), canary());
    let probe = dir.path().join("probe");
    std::fs::copy("/bin/sh", &probe).unwrap();
    let flags = ["-c", PROBE].map(Into::into).to_vec();
    let host = Host::probe(jail);
    let mut line = jail::command_line(jail, &host, &probe, flags, Path::new("/tmp"));
    line.env.push(("CANARY".into(), canary.path().into()));
    line.env.push(("HOST_PID".into(), std::process::id().to_string().into()));
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((gate_in, gate), (_info, info_out)) = (pipe(), pipe());
    let fds: Vec<(OwnedFd, i32)> = vec![(gate_in, jail::GATE_FD), (info_out, jail::INFO_FD)];
    let launcher = Launcher::start().unwrap();
    let (program, args, env) = (line.program, line.args, line.env);
    let child =
        launcher.spawn(SpawnRequest { program, args, env, fds, group: true }).await.unwrap();
    rustix::io::write(&gate, b"\n").unwrap();
    tokio::time::timeout(PATIENCE, child.exited()).await.expect("the probe ends");
    let said = child.stderr_tail();
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in said.lines().filter_map(|line| line.split_once('=')) {
        answers.entry(name.to_owned()).or_default().push(value.trim().to_owned());
    }
    assert_eq!(answers.get("done").map(Vec::len), Some(1), "{said}");
    answers
}

fn of<'a>(answers: &'a BTreeMap<String, Vec<String>>, name: &str) -> Vec<&'a str> {
    answers.get(name).map(|all| all.iter().map(String::as_str).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_the_jail_finds_nothing_of_the_host() {
    let answers = answers(&support::jailed().jail).await;
    let is =
        |name: &str, want: &[&str]| assert_eq!(of(&answers, name), want, "{name}: {answers:#?}");
    is("root", &["/dev /etc /lib /lib64 /proc /tmp /usr /var"]);
    is("etc", &["/etc/fonts"]);
    is("usr", &["/usr/lib /usr/lib64 /usr/local /usr/share"]);
    is("shell", &["no"]);
    for name in ["passwd", "canary", "parent", "dbus"] {
        is(name, &["no"]);
    }
    // bubblewrap, the probe, and the part of it that asks.
    assert!(of(&answers, "processes")[0].split(' ').count() <= 3, "{answers:#?}");
    is("interface", &["lo"]);
    let addresses = of(&answers, "address4");
    assert!(addresses.iter().all(|address| address.contains("127.")), "{addresses:?}");
    let addresses = of(&answers, "address6");
    assert!(addresses.iter().all(|address| address.ends_with("lo")), "{addresses:?}");
    is("environment", &["CANARY", "HOME", "HOST_PID", "LANG", "PATH", "PWD", "TMPDIR", "TZ"]);
    is("hostname", &[""]);
    is("writable", &["/tmp"]);
    is("NoNewPrivs", &["1"]);
    is("CapEff", &["0000000000000000"]);
    let [tmp] = of(&answers, "tmp")[..] else { panic!("{answers:#?}") };
    assert!(tmp.starts_with("tmpfs") && tmp.contains("size=1048576k"), "{tmp}");
    println!("{answers:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_jail_a_process_finds_the_host() {
    let answers = answers(&Jail::None).await;
    let is =
        |name: &str, want: &[&str]| assert_eq!(of(&answers, name), want, "{name}: {answers:#?}");
    for (name, exposed) in
        [("shell", "yes"), ("passwd", "read"), ("canary", "read"), ("parent", "reached")]
    {
        is(name, &[exposed]);
    }
    assert!(of(&answers, "processes")[0].split(' ').count() > 3, "{answers:#?}");
    assert!(of(&answers, "usr")[0].contains("/usr/bin"), "{answers:#?}");
    assert_ne!(of(&answers, "hostname"), [""]);
    if rustix::process::geteuid().is_root() {
        for place in ["/etc", "/usr", "/proc/sys/kernel/core_pattern"] {
            assert!(of(&answers, "writable").contains(&place), "{place}: {answers:#?}");
        }
    }
}

/// Everything that a script can try, with what came of it.
const SCRIPT: &str = r"(async (canary, port) => {
  const within = (promise) => Promise.race([promise, new Promise((r) => setTimeout(r, 1500, 'time'))]);
  const tried = async (attempt) => { try { return String(await within(attempt())); } catch (e) { return 'refused'; } };
  const text = (url) => tried(async () => (await fetch(url)).text());
  const xhr = (url) => tried(() => { const x = new XMLHttpRequest(); x.open('GET', url, false); x.send(); return x.responseText; });
  const frame = (url) => tried(() => new Promise((done) => {
    const f = document.createElement('iframe'); f.src = url;
    f.onload = () => { try { done(f.contentDocument.body.innerText); } catch { done('refused'); } };
    document.body.append(f); }));
  const image = (url) => tried(() => new Promise((done) => {
    const i = new Image(); i.onload = () => done('loaded'); i.onerror = () => done('refused'); i.src = url; }));
  const script = (url) => tried(() => new Promise((done) => {
    const s = document.createElement('script'); s.onload = () => done('loaded'); s.onerror = () => done('refused');
    s.src = url; document.head.append(s); }));
  const socket = (url) => tried(() => new Promise((done) => {
    const s = new WebSocket(url); s.onopen = () => done('open'); s.onerror = () => done('refused'); }));
  const candidates = () => tried(() => new Promise(async (done) => {
    const found = []; const peer = new RTCPeerConnection();
    setTimeout(() => done(found.join(';') || 'none'), 1000);
    peer.onicecandidate = (e) => { if (e.candidate) found.push(e.candidate.candidate); else done(found.join(';') || 'none'); };
    peer.createDataChannel('x'); await peer.setLocalDescription(await peer.createOffer()); }));
  const web = `http://127.0.0.1:${port}/`;
  const [fetched, asked, framed, passwd, dir, proc, img, js, host, beacon, ws, ice] = await Promise.all([
    text('file://' + canary), xhr('file://' + canary), frame('file://' + canary), text('file:///etc/passwd'),
    frame('file:///'), text('file:///proc/self/environ'), image('file:///usr/share/pixmaps/debian-logo.png'),
    script('file://' + canary), text(web), tried(() => navigator.sendBeacon(web, 'x') ? 'refused' : 'refused'),
    socket(`ws://127.0.0.1:${port}/`), candidates()]);
  const storage = await tried(() => { localStorage.a = 1; return 'kept'; });
  return { fetched, asked, framed, passwd, dir, proc, img, js, host, beacon, ws, ice, storage };
})";

async fn script(browser: &Browser) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let options = ContextOptions { frames: true, scripts: true };
    let context = browser.open_context(options, PATIENCE).await.unwrap();
    support::set(&context, "<!doctype html><title>x</title><p>x").await.unwrap();
    let canary_file = canary();
    let canary = json!(canary_file.path());
    let expression = format!("{SCRIPT}({canary}, {})", listener.local_addr().unwrap().port());
    let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
    let reply = context.session().call_raw("Runtime.evaluate", &ask, PATIENCE).await.unwrap();
    let reply: Value = reply.deserialize().unwrap();
    let knocked =
        listener.accept().map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |_| true);
    let mut found = reply["result"]["value"].clone();
    assert!(found.is_object(), "{reply}");
    found["knocked"] = knocked.into();
    context.close(PATIENCE).await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_in_the_jail_reaches_no_file_no_host_and_learns_no_address() {
    let browser = support::browser().await;
    let found = script(&browser).await;
    println!("{found:#}");
    for name in ["fetched", "asked", "passwd", "proc", "img", "js", "host", "ws", "storage"] {
        assert_eq!(found[name], "refused", "{name}: {found:#}");
    }
    for name in ["framed", "dir"] {
        assert!(
            ["refused", "", "time"].contains(&found[name].as_str().unwrap()),
            "{name}: {found:#}"
        );
    }
    assert_eq!((&found["ice"], &found["knocked"]), (&json!("none"), &json!(false)), "{found:#}");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_jail_only_chromiums_own_rules_keep_a_script_from_files_and_ports() {
    let root = tempfile::tempdir().unwrap();
    let launcher = Launcher::start().unwrap();
    let mut config = support::jailed();
    (config.jail, config.profile_root) = (Jail::None, root.path().to_owned());
    let browser = Browser::launch(&launcher, &config).await.unwrap();
    let found = script(&browser).await;
    println!("{found:#}");
    // They hold; but each is one mistake of Chromium's away from the host.
    for name in ["fetched", "asked", "passwd", "proc", "host", "ws"] {
        assert_eq!(found[name], "refused", "{name}: {found:#}");
    }
    assert_eq!(found["knocked"], false);
    let processes = browser.processes();
    let its = processes.iter().find(|process| process.kind == Kind::Browser).unwrap();
    let same = |name: &str| {
        let link = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/{name}")).unwrap();
        link("self") == link(&its.pid.to_string())
    };
    assert!(["net", "pid", "mnt", "user", "ipc"].into_iter().all(same), "it is in the host's");
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_renderer_is_under_seccomp_without_privileges() {
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    let pid = context.renderer_pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("CapEff"), "0000000000000000");
    // Chromium gives its renderers an empty root directory, within the jail's.
    let root = std::fs::read_dir(format!("/proc/{pid}/root/")).map_or(0, Iterator::count);
    assert_eq!(root, 0, "files in a renderer's root");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, most) in
        [("Max core file size", "1"), ("Max file size", "2147483648"), ("Max processes", "8192")]
    {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(most), "{line}");
    }
    browser.close().await;
}
