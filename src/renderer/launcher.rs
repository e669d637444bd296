//! The one thread from which every child process is born and by which it is
//! reaped.
//!
//! The jail's `--die-with-parent` follows the *thread* that spawned it, not the
//! process, and threads of an async runtime come and go. So children are
//! spawned from a thread of their own, which also reads what they say on
//! stderr and reaps them at once (no zombies). It ends when the last
//! [`Launcher`] is dropped *and* the last child has been reaped.
//!
//! ```text
//! spawn ─▶ running ── exits, is killed, or its Child is dropped (SIGKILL) ─▶ reaped
//! ```
//!
//! Failures: a program that cannot be started ([`SpawnError`]); after that a
//! child only ends, and its [`Child::exited`] says how.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::sync::{mpsc, oneshot, watch};

/// How much of a child's stderr is kept: the last 16 KiB.
const STDERR_TAIL: usize = 16 * 1024;

/// Spawns that may wait for the thread.
const ORDERS: usize = 32;

/// A child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program could not be executed.
    #[error("could not start {}", program.display())]
    Exec {
        /// What was to be started.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Two descriptors were to have the same number in the child.
    #[error("two descriptors for the same number in {}", program.display())]
    Descriptors {
        /// What was to be started.
        program: PathBuf,
    },
    /// The launcher's thread is gone, which it should never be.
    #[error("the launcher thread has ended")]
    Ended,
}

/// What to start.
#[derive(Debug)]
pub struct SpawnRequest {
    /// The program, by path.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors, and the numbers that they have in the child.
    pub fds: Vec<(OwnedFd, i32)>,
    /// Whether it leads a process group, all of which is killed when it ends.
    pub group: bool,
}

/// Spawns children from one permanent thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    orders: Option<mpsc::Sender<Order>>,
    wake: Arc<OwnedFd>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread must find the queue closed when it wakes.
        drop(self.orders.take());
        wake(&self.wake);
    }
}

#[derive(Debug)]
struct Order {
    request: SpawnRequest,
    reply: oneshot::Sender<Result<Child, SpawnError>>,
}

/// A running child. Dropping it kills it; the thread reaps it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    handle: Arc<OwnedFd>,
    exit: watch::Receiver<Option<ExitStatus>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
}

impl Launcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn start() -> std::io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, queue) = mpsc::channel(ORDERS);
        let thread_wake = Arc::clone(&wake);
        std::thread::Builder::new()
            .name("launcher".to_owned())
            .spawn(move || Thread { queue, wake: thread_wake, running: Vec::new() }.run())?;
        Ok(Self { inner: Arc::new(Inner { orders: Some(orders), wake }) })
    }

    /// Starts a child. Its stdin and stdout are `/dev/null`.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub async fn spawn(&self, request: SpawnRequest) -> Result<Child, SpawnError> {
        let (reply, answer) = oneshot::channel();
        let orders = self.inner.orders.as_ref().ok_or(SpawnError::Ended)?;
        orders.send(Order { request, reply }).await.map_err(|_| SpawnError::Ended)?;
        wake(&self.inner.wake);
        answer.await.unwrap_or(Err(SpawnError::Ended))
    }
}

impl Child {
    /// Its process id. Valid until [`exited`](Self::exited) has resolved.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGKILL, to exactly this process even if its id is used anew.
    pub fn kill(&self) {
        // The only error is that it has been reaped: then it is dead enough.
        pidfd_send_signal(&*self.handle, Signal::KILL).ok();
    }

    /// Resolves when it has been reaped; `None` if someone else reaped it, so
    /// that how it ended is not known. Cancel safe.
    pub async fn exited(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// How it ended, if it has been reaped.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// The end of what it wrote to stderr.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.kill();
        }
    }
}

fn wake(eventfd: &OwnedFd) {
    // It fails only when the counter is full, and then the thread is awake.
    rustix::io::write(eventfd, &1u64.to_ne_bytes()).ok();
}

/// A child as the thread sees it.
struct Running {
    child: std::process::Child,
    handle: Arc<OwnedFd>,
    pid: Pid,
    group: bool,
    pipe: Option<ChildStderr>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    exit: watch::Sender<Option<ExitStatus>>,
}

struct Thread {
    queue: mpsc::Receiver<Order>,
    wake: Arc<OwnedFd>,
    running: Vec<Running>,
}

impl Thread {
    fn run(mut self) {
        loop {
            if self.wait().is_err() {
                // Out of kernel memory for poll: look at everything instead.
                std::thread::yield_now();
            }
            for child in &mut self.running {
                child.read_stderr();
            }
            for ended in self.running.extract_if(.., |child| child.has_ended()) {
                ended.reap();
            }
            let mut counter = [0u8; 8];
            // Would block when something else woke us.
            rustix::io::read(&*self.wake, &mut counter).ok();
            loop {
                match self.queue.try_recv() {
                    Ok(order) => self.obey(order),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        if self.running.is_empty() {
                            return;
                        }
                        break;
                    }
                }
            }
        }
    }

    fn wait(&self) -> rustix::io::Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.wake.as_fd()];
        for child in &self.running {
            fds.push(child.handle.as_fd());
            fds.extend(child.pipe.as_ref().map(AsFd::as_fd));
        }
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        poll(&mut polled, None).map(|_| ())
    }

    fn obey(&mut self, Order { request, reply }: Order) {
        match start(request) {
            Ok((running, child)) => {
                self.running.push(running);
                // If nobody waits any more, the child is dropped and so killed.
                drop(reply.send(Ok(child)));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }
}

fn start(request: SpawnRequest) -> Result<(Running, Child), SpawnError> {
    let SpawnRequest { program, args, env, fds, group } = request;
    let mut command = Command::new(&program);
    command.args(args).env_clear().envs(env).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if group {
        command.process_group(0);
    }
    let fds = fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    if command.fd_mappings(fds.collect()).is_err() {
        return Err(SpawnError::Descriptors { program });
    }
    let exec = |source| SpawnError::Exec { program: program.clone(), source };
    let mut child = command.spawn().map_err(exec)?;
    // From here on an error must not leave the child behind.
    match adopt(&mut child) {
        Ok((pid, handle, pipe)) => {
            let (exit, watched) = watch::channel(None);
            let tail = Arc::new(Mutex::new(VecDeque::new()));
            let handle = Arc::new(handle);
            let ours = Child {
                pid: child.id(),
                handle: Arc::clone(&handle),
                exit: watched,
                stderr: Arc::clone(&tail),
            };
            Ok((Running { child, handle, pid, group, pipe, tail, exit }, ours))
        }
        Err(source) => {
            let ended = child.kill().and_then(|()| child.wait());
            if let Err(error) = ended {
                tracing::error!(%error, "a child that could not be watched could not be killed");
            }
            Err(exec(source))
        }
    }
}

fn adopt(child: &mut std::process::Child) -> std::io::Result<(Pid, OwnedFd, Option<ChildStderr>)> {
    let pid = Pid::from_child(child);
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let pipe = child.stderr.take();
    if let Some(pipe) = &pipe {
        fcntl_setfl(pipe, OFlags::NONBLOCK)?;
    }
    Ok((pid, handle, pipe))
}

impl Running {
    fn read_stderr(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = [0u8; 4096];
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => break self.pipe = None,
                Ok(n) => {
                    let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
                    tail.extend(&chunk[..n]);
                    let excess = tail.len().saturating_sub(STDERR_TAIL);
                    tail.drain(..excess);
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => break,
                    std::io::ErrorKind::Interrupted => {}
                    _ => break self.pipe = None,
                },
            }
        }
    }

    fn has_ended(&self) -> bool {
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::PidFd(self.handle.as_fd()), flags), Ok(None))
    }

    /// Reaps it, with all that it leaves; then says so.
    fn reap(mut self) {
        self.read_stderr();
        if self.group {
            // While the leader is not reaped, its group's number is its own.
            kill_process_group(self.pid, Signal::KILL).ok();
        }
        let Self { mut child, handle, pipe, tail, exit, .. } = self;
        // It has ended, so this does not wait.
        let status = child.wait();
        // Whoever hears of the end finds no descriptor of ours any more.
        drop((child, handle, pipe, tail));
        match status {
            Ok(status) => drop(exit.send_replace(Some(status))),
            // Someone else reaped it: it is gone, but how is not known.
            Err(error) => tracing::error!(%error, "a child could not be reaped"),
        }
    }
}
