//! What processes take, from `/proc`, and what machine this is.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tillroll::renderer::processes::{self, Kind, private_bytes};

/// Of the kernel's clock that counts CPU time.
const TICKS_A_SECOND: f64 = 100.0;
const MB: f64 = 1e6;
/// At what processes hold, before it is looked again which there are.
const LOOKS: usize = 8;

/// Seconds of CPU that a process took itself.
pub(crate) fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in parentheses, and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ').skip(11);
    fields.take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_A_SECOND
}

/// Seconds of CPU of all processes below `pid`, as far as they are alive.
pub(crate) fn cpu_below(pid: u32) -> f64 {
    tree(pid).into_iter().filter(|(below, _)| *below != pid).map(|(below, _)| cpu(below)).sum()
}

fn tree(pid: u32) -> Vec<(u32, Kind)> {
    let tree = processes::tree(Path::new("/proc"), pid);
    tree.into_iter().map(|process| (process.pid, process.kind)).collect()
}

/// Each renderer below `pid`.
pub(crate) fn renderer_pids(pid: u32) -> Vec<u32> {
    let renderers = tree(pid).into_iter().filter(|(_, kind)| *kind == Kind::Renderer);
    renderers.map(|(pid, _)| pid).collect()
}

/// Private megabytes of each renderer below `pid`, the largest first.
pub(crate) fn renderers(pid: u32) -> Vec<f64> {
    let mut sizes: Vec<f64> = renderer_pids(pid).into_iter().filter_map(private).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    sizes
}

/// Private megabytes of a process.
pub(crate) fn private(pid: u32) -> Option<f64> {
    private_bytes(Path::new("/proc"), pid).map(|bytes| bytes as f64 / MB)
}

/// Private megabytes of a process and all below it.
pub(crate) fn private_of_all(pid: u32) -> f64 {
    tree(pid).into_iter().filter_map(|(pid, _)| private(pid)).sum()
}

/// Resident megabytes of a process, shared libraries included.
pub(crate) fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kilobytes(&status, "VmRSS:").unwrap_or(f64::NAN)
}

/// Megabytes of a process and all below it, where what several share counts in parts;
/// the error names a process that may not be looked into.
pub(crate) fn proportional(pid: u32) -> Result<f64, String> {
    let mut sum = 0.0;
    for (pid, _) in tree(pid) {
        let place = format!("/proc/{pid}/smaps_rollup");
        match fs::read_to_string(&place) {
            // A process without memory of its own (a zombie) has no such line.
            Ok(text) => sum += kilobytes(&text, "Pss:").unwrap_or(0.0),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(format!("{place}: {error}"));
            }
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    Ok(sum)
}

fn kilobytes(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / MB)
}

/// The most that was seen while it watched, in private bytes.
pub(crate) struct Peak {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    all: Arc<AtomicU64>,
    renderer: Arc<AtomicU64>,
}

impl Peak {
    /// Watches a process and all below it, every 10 ms.
    pub(crate) fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (all, renderer) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, all, renderer) =
                (Arc::clone(&stop), Arc::clone(&all), Arc::clone(&renderer));
            move || {
                loop {
                    // The last look is at those that came a moment ago, too.
                    let last = stop.load(Ordering::Relaxed);
                    // Who is there takes longer to find out than what they hold.
                    let processes = tree(pid);
                    for _ in 0..LOOKS {
                        let mut sum = 0;
                        for (pid, kind) in &processes {
                            let bytes = private_bytes(Path::new("/proc"), *pid).unwrap_or(0);
                            sum += bytes;
                            if *kind == Kind::Renderer {
                                renderer.fetch_max(bytes, Ordering::Relaxed);
                            }
                        }
                        all.fetch_max(sum, Ordering::Relaxed);
                        if last {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        });
        Self { stop, thread, all, renderer }
    }

    /// Megabytes of all together, and of the largest renderer.
    pub(crate) fn stop(self) -> (f64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let megabytes = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed) as f64 / MB;
        (megabytes(&self.all), megabytes(&self.renderer))
    }
}

/// What the figures are to be read with.
pub(crate) fn describe(engine: &str, redis: &str) -> Value {
    let cores = std::thread::available_parallelism().unwrap().get();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cores": cores,
        "processor": model.map_or("", |(_, model)| model.trim()),
        "load_at_start": load.split(' ').next().and_then(|load| load.parse::<f64>().ok()),
        "engine": engine,
        "redis": redis,
    })
}
