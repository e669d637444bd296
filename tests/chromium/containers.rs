//! The seccomp profile for Docker, without Docker: its filter is put around this
//! test, which has the few capabilities that Docker leaves to root and gets no new
//! ones, and starts a jail in there.

use std::process::{Command, Stdio};

use crate::support::{self, PATIENCE};

/// Set in the test that runs within the filter.
const FILTERED: &str = "TILLROLL_TEST_FILTERED";

/// What Docker leaves to root. Of these the jail needs SETFCAP: without it, the
/// kernel lets nobody map root into a user namespace. An ordinary user needs none.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The machine's name in a filter, and the numbers of its calls.
#[cfg(target_arch = "x86_64")]
const MACHINE: (u32, &str) = (0xc000_003e, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h");
#[cfg(target_arch = "aarch64")]
const MACHINE: (u32, &str) = (0xc000_00b7, "/usr/include/asm-generic/unistd.h");

/// The profile as a program for the kernel: every call that it names is refused.
fn filter() -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;

    let header = std::fs::read_to_string(MACHINE.1).expect("the tests need libc6-dev");
    let number = |name: &str| {
        let lines = header.lines().filter_map(|line| line.strip_prefix("#define __NR_"));
        let mut words = lines.map(str::split_whitespace);
        let found = words.find_map(|mut words| (words.next()? == name).then(|| words.next()));
        found.flatten().and_then(|number| number.parse::<u32>().ok())
    };
    let profile =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("worker-config/docker-seccomp.json");
    let profile: serde_json::Value =
        serde_json::from_slice(&std::fs::read(profile).unwrap()).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
    let names = profile["syscalls"].as_array().unwrap().iter();
    let names = names.flat_map(|group| group["names"].as_array().unwrap());
    // Those of 32-bit programs have no number here.
    let denied: Vec<u32> = names.filter_map(|name| number(name.as_str().unwrap())).collect();
    assert!(denied.len() > 40, "{} calls", denied.len());

    let mut steps =
        vec![(LOAD, 0, 0, 4), (IF_EQUAL, 1, 0, MACHINE.0), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, 0)];
    for call in denied {
        steps.extend([(IF_EQUAL, 0, 1, call), (RETURN, 0, 0, ERRNO | 1)]);
    }
    steps.push((RETURN, 0, 0, ALLOW));
    let bytes = steps.into_iter().flat_map(|(code, then, otherwise, value): (u16, u8, u8, u32)| {
        [&code.to_ne_bytes()[..], &[then, otherwise], &value.to_ne_bytes()].concat()
    });
    bytes.collect()
}

/// Runs this test again, by its full name, within the filter. True in that second run.
fn is_within(name: &str) -> bool {
    if std::env::var_os(FILTERED).is_some() {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("filter");
    std::fs::write(&file, filter()).unwrap();
    let left = CAPABILITIES.map(|name| format!("--cap-add CAP_{name}")).join(" ");
    let script = format!(
        "filter=$1; shift; \
         exec bwrap --dev-bind / / --cap-drop ALL {left} --seccomp 9 -- \"$@\" 9<\"$filter\""
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(&file);
    command.arg(std::env::current_exe().unwrap()).args([name, "--exact", "--nocapture"]);
    let status = command.env(FILTERED, "1").stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{name} within the filter: {status}");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jail_comes_up_and_holds_under_the_profile_for_docker() {
    if !is_within("containers::the_jail_comes_up_and_holds_under_the_profile_for_docker") {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t00000000a80425fb"] {
        assert!(status.contains(line), "no {line:?} in:\n{status}");
    }
    // Its start looks whether the jail holds, from outside and from inside.
    let browser = support::browser().await;
    let context = support::context(&browser).await;
    assert!(support::pdf(&context, "<p>Total 12.00").await.unwrap().starts_with(b"%PDF-"));
    context.close(PATIENCE).await.unwrap();
    browser.close().await;
}
