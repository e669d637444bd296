//! The search for an engine, in a root directory of the test's own.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, path: &str, content: &str) -> PathBuf {
        let path = self.0.path().canonicalize().unwrap().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn search(&self) -> Search {
        let root = self.0.path().canonicalize().unwrap();
        Search {
            configured: None,
            home: Some(root.join("home/u")),
            path: vec![root.join("usr/bin")],
            root,
        }
    }
}

const ELF: &str = "\x7fELF program";

#[test]
fn the_headless_shell_comes_before_the_full_browser() {
    let root = Root::new();
    root.put("usr/lib/chromium/chromium", ELF);
    assert_eq!(find(&root.search()).unwrap().kind, EngineKind::Chromium);
    let shell = root.put("usr/lib/chromium/chromium-headless-shell", ELF);
    let engine = find(&root.search()).unwrap();
    assert_eq!(engine, Engine { path: shell, kind: EngineKind::HeadlessShell });
}

#[test]
fn the_newest_version_in_a_cache_is_taken() {
    let root = Root::new();
    let program = "chrome-headless-shell-linux64/chrome-headless-shell";
    let cache = "home/u/.cache/puppeteer/chrome-headless-shell";
    root.put(&format!("{cache}/linux-99.0.1.2/{program}"), ELF);
    let newest = root.put(&format!("{cache}/linux-131.0.1.2/{program}"), ELF);
    assert_eq!(find(&root.search()).unwrap().path, newest);
}

#[test]
fn a_wrapper_script_is_resolved_to_its_program_or_refused() {
    let root = Root::new();
    let wrapper = root.put("usr/bin/chromium-headless-shell", "#!/bin/sh\nx\n");
    let search = Search { configured: Some(wrapper), ..root.search() };
    let error = find(&search).unwrap_err();
    assert!(matches!(error, EngineError::Configured { refusal: Refusal::Wrapper, .. }), "{error}");
    let program = root.put("usr/lib/chromium/chromium-headless-shell", ELF);
    assert_eq!(find(&search).unwrap().path, program);
}

#[test]
fn a_snap_is_refused_by_name() {
    let root = Root::new();
    let snap = root.put("usr/bin/snap", ELF);
    std::fs::create_dir_all(root.search().root.join("snap/bin")).unwrap();
    symlink(&snap, root.search().root.join("snap/bin/chromium")).unwrap();
    root.put("usr/bin/chromium-browser", "#!/bin/sh\nexec /snap/bin/chromium \"$@\"\n");
    let EngineError::NotFound { looked } = find(&root.search()).unwrap_err() else {
        panic!("nothing is configured")
    };
    assert_eq!(looked.iter().filter(|(_, why)| *why == Refusal::Snap).count(), 2, "{looked:?}");
}

#[test]
fn the_error_names_the_remedy_and_every_place() {
    let error = find(&Root::new().search()).unwrap_err().to_string();
    assert!(error.contains("apt-get install chromium-headless-shell"), "{error}");
    assert!(error.contains("usr/lib/chromium/chromium-headless-shell: not found"), "{error}");
}

#[test]
fn a_configured_path_that_is_wrong_is_not_replaced_by_another() {
    let root = Root::new();
    root.put("usr/lib/chromium/chromium-headless-shell", ELF);
    for (path, why) in [
        (root.put("etc/text", "hello"), Refusal::NotAProgram),
        (root.put("etc/empty", ""), Refusal::NotAProgram),
        (root.search().root.join("nowhere"), Refusal::Missing),
    ] {
        let error = find(&Search { configured: Some(path), ..root.search() }).unwrap_err();
        assert!(matches!(error, EngineError::Configured { refusal, .. } if refusal == why));
    }
}
