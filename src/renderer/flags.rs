//! Chromium's command line: every flag with its reason. Pure.

use std::ffi::OsString;
use std::path::Path;

use super::engine::EngineKind;

/// Flags that every engine gets. "Measured" means receipts per second and
/// renderer memory on warm pages, with and without.
const FLAGS: &[(&str, &str)] = &[
    ("--headless", "no window system"),
    ("--remote-debugging-pipe", "commands on descriptor 3, replies on 4; no port to connect to"),
    ("--no-startup-window", "no first tab: every page is one that we opened"),
    ("--enable-begin-frame-control", "targets that never draw a frame: a third less CPU"),
    ("--block-new-web-contents", "window.open and links open nothing"),
    ("--enable-low-end-device-mode", "measured: 38 instead of 92 MB a renderer"),
    (
        "--js-flags=--no-optimize-for-size,--initial-heap-size=8",
        "measured: a tenth less CPU for 5 MB more. Low-end mode gives the heap's pages back to the \
         kernel with each collection, to take them again at once, 300 page faults a receipt; \
         without, a first collection at 8 MB keeps a renderer as small",
    ),
    (
        "--disable-threaded-compositing",
        "nothing is drawn; of the 66 ms of CPU that a new context costs, 1.5",
    ),
    ("--disable-gpu", "there is none"),
    ("--disable-software-rasterizer", "measured: 11 MB less in the GPU process; nothing is drawn"),
    ("--disable-dev-shm-usage", "containers have 64 MB of /dev/shm, less than one large print"),
    ("--user-agent=Tillroll", "the version of Chromium is nobody's business"),
    ("--lang=en-US", "the same output everywhere"),
    ("--force-color-profile=srgb", "the same colours everywhere"),
    ("--font-render-hinting=none", "glyph positions that do not depend on a screen"),
    ("--hide-scrollbars", "a viewport as wide as the paper"),
    ("--mute-audio", "nobody listens"),
    ("--no-first-run", "no dialogs, no downloads"),
    ("--no-default-browser-check", "no dialogs"),
    ("--disable-extensions", "none are wanted"),
    ("--disable-sync", "no talk to the outside"),
    ("--disable-default-apps", "no talk to the outside"),
    ("--disable-background-networking", "no talk to the outside"),
    ("--disable-component-update", "no talk to the outside"),
    ("--disable-domain-reliability", "no talk to the outside"),
    ("--disable-client-side-phishing-detection", "no talk to the outside"),
    ("--disable-field-trial-config", "no experiments: the same behaviour everywhere"),
    ("--metrics-recording-only", "nothing is reported"),
    ("--disable-breakpad", "a crash dump holds the document"),
    ("--disable-crash-reporter", "a crash dump holds the document"),
    ("--password-store=basic", "no key ring, no D-Bus"),
    ("--use-mock-keychain", "no key ring"),
    ("--disable-hang-monitor", "deadlines are ours"),
    ("--disable-prompt-on-repost", "no dialogs"),
    ("--disable-popup-blocking", "a blocked window must not differ from an opened one"),
    ("--disable-ipc-flooding-protection", "it slows down many calls in a row"),
    ("--disable-background-timer-throttling", "nobody sees a page, and none is to wait for that"),
    ("--disable-backgrounding-occluded-windows", "likewise"),
    ("--disable-renderer-backgrounding", "priorities are ours"),
    ("--disable-back-forward-cache", "a page kept alive is memory"),
    ("--force-webrtc-ip-handling-policy=disable_non_proxied_udp", "no way around the proxy"),
    ("--log-level=2", "errors only: a console message can hold a document's content"),
];

/// Those of them that only the headless shell gets: the full browser does not know
/// the first two, so it must block windows as it does by itself, and it draws.
const SHELL_ONLY: [&str; 4] = [
    "--enable-begin-frame-control",
    "--block-new-web-contents",
    "--disable-popup-blocking",
    "--disable-threaded-compositing",
];

/// Features that are switched off; Chromium reads only one such list.
const FEATURES_OFF: &[(&str, &str)] = &[
    ("SpareRendererForSitePerProcess", "an idle renderer of 25 MB in every browser"),
    ("Translate", "no talk to the outside"),
    ("MediaRouter", "looks for devices in the network"),
    ("DialMediaRouteProvider", "looks for devices in the network"),
    ("OptimizationHints", "no talk to the outside"),
    ("DIPS", "a database of redirects in every context"),
    ("DeclarativePerformanceObserver", "a database of page loads in every context"),
    ("BackForwardCache", "a page kept alive is memory"),
    ("AcceptCHFrame", "no client hints"),
    ("HttpsUpgrades", "URLs stay as the document has them, so that they can be answered"),
    ("LazyFrameLoading", "a frame below the fold is printed too"),
    ("PaintHolding", "nothing is painted"),
    ("AudioServiceOutOfProcess", "a process less"),
    ("IsolateSandboxedIframes", "a frame's process of its own would belong to no context"),
    ("WebUIOmniboxPopup", "a hidden renderer of 70 MB in the full browser"),
    ("WebUIOmniboxAimPopup", "a hidden renderer of 70 MB in the full browser"),
    ("WebUIReloadButton", "browser chrome that nobody sees"),
];

/// Without a jail the network is denied by the browser itself.
const NETWORK_OFF: &[(&str, &str)] = &[
    ("--proxy-server=http://127.0.0.1:9", "the discard port: every connection is refused"),
    ("--proxy-bypass-list=<-loopback>", "loopback goes to the dead proxy too"),
    ("--host-resolver-rules=MAP * ~NOTFOUND", "no name resolves"),
    ("--disable-quic", "no way around the proxy"),
];

/// What about the command line is not constant.
#[derive(Debug, Clone, Copy)]
pub struct FlagOptions<'a> {
    /// The engine's kind.
    pub kind: EngineKind,
    /// The profile directory, as Chromium sees it.
    pub profile: &'a Path,
    /// Whether there is no jail, so that the network is denied by flags.
    pub unjailed: bool,
    /// Whether Chromium runs as root, where its sandbox refuses to start. In
    /// the jail it never does.
    pub root: bool,
}

/// The arguments for Chromium, without its name.
#[must_use]
pub fn flags(options: FlagOptions<'_>) -> Vec<OsString> {
    let mut all: Vec<OsString> = FLAGS
        .iter()
        .filter(|(flag, _)| options.kind == EngineKind::HeadlessShell || !SHELL_ONLY.contains(flag))
        .map(|(flag, _)| flag.into())
        .collect();
    let features: Vec<&str> = FEATURES_OFF.iter().map(|(feature, _)| *feature).collect();
    all.push(format!("--disable-features={}", features.join(",")).into());
    let mut profile = OsString::from("--user-data-dir=");
    profile.push(options.profile);
    all.push(profile);
    if options.unjailed {
        all.extend(NETWORK_OFF.iter().map(|(flag, _)| OsString::from(flag)));
        if options.root {
            // Root has no sandbox; the jail is the way to have one.
            all.push("--no-sandbox".into());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: EngineKind, unjailed: bool, root: bool) -> Vec<String> {
        flags(FlagOptions { kind, profile: Path::new("/tmp/ud"), unjailed, root })
            .into_iter()
            .map(|flag| flag.into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_sandbox_stays_on_in_the_jail() {
        for root in [true, false] {
            let flags = text(EngineKind::HeadlessShell, false, root);
            assert!(!flags.iter().any(|f| f.contains("sandbox") || f.contains("proxy")));
        }
        assert!(!text(EngineKind::HeadlessShell, true, false).contains(&"--no-sandbox".into()));
        assert!(text(EngineKind::HeadlessShell, true, true).contains(&"--no-sandbox".into()));
    }

    #[test]
    fn no_flag_is_given_twice() {
        let flags = text(EngineKind::HeadlessShell, true, true);
        let mut names: Vec<&str> = flags.iter().filter_map(|f| f.split('=').next()).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn the_full_browser_knows_no_begin_frame_control() {
        for flag in SHELL_ONLY.map(str::to_owned) {
            assert!(!text(EngineKind::Chromium, false, false).contains(&flag));
            assert!(text(EngineKind::HeadlessShell, false, false).contains(&flag));
        }
    }
}
