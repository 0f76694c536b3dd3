//! The server as a process: the real binary on free ports and folders of its own, stopped in every way a server stops.
//!
//! What it prints is kept, and shown when the test fails. Dropping it kills it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{DEADLINE, services, within_for};

/// A running (or stopped) server.
pub struct Server {
    /// Where clients connect.
    pub address: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    process: Process,
    folder: Arc<Folder>,
    settings: Vec<(String, String)>,
}

impl Server {
    /// Starts on empty folders; `settings` are environment variables beside the usual ones.
    pub async fn start(settings: &[(&str, &str)]) -> Server {
        Self::launch(Arc::new(Folder::temporary()), owned(settings)).await
    }

    /// As [`Server::start`], with settings that were made.
    pub async fn start_with(settings: Vec<(String, String)>) -> Server {
        Self::launch(Arc::new(Folder::temporary()), settings).await
    }

    /// Starts on the folders that stand under `root` (`data/`, `uploads/`); they are left there afterwards.
    pub async fn start_in(root: &Path, settings: &[(&str, &str)]) -> Server {
        Self::launch(Arc::new(Folder::Kept(root.into())), owned(settings)).await
    }

    /// Starts something that is expected to give up: its exit status and all it printed.
    pub async fn start_refused(settings: &[(&str, &str)]) -> (ExitStatus, String) {
        Self::start_refused_in(Folder::temporary().root(), settings).await
    }

    /// As [`Server::start_refused`], on the folders under `root`.
    pub async fn start_refused_in(root: &Path, settings: &[(&str, &str)]) -> (ExitStatus, String) {
        let mut process = Process::spawn(root, &owned(settings));
        let status = process.exit(START_DEADLINE, "a refused start to end").await;
        // It may have ended before what it said was read.
        for thread in process.threads.drain(..) {
            thread.join().ok();
        }
        (status, process.output())
    }

    async fn launch(folder: Arc<Folder>, settings: Vec<(String, String)>) -> Server {
        let mut process = Process::spawn(folder.root(), &settings);
        let address = process.announced("chat").await;
        let admin = process.announced("admin").await;
        Server {
            address,
            admin,
            process,
            folder,
            settings,
        }
    }

    /// Stops it at once, as a crash would.
    pub async fn kill9(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.exit(DEADLINE, "a killed server to end").await;
    }

    /// Asks it to stop and waits for that, at most `deadline`.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process
            .exit(deadline, "the server to drain and exit")
            .await
    }

    /// Starts again on the same folders with the same settings; kills it first when it still runs. The port is the
    /// same only when the settings name one.
    pub async fn restart(mut self) -> Server {
        self.process.signal(Signal::KILL);
        self.process.exit(DEADLINE, "a killed server to end").await;
        Self::launch(self.folder.clone(), self.settings.clone()).await
    }

    /// Freezes every thread of the server, runs `f`, lets it go on. What `f` sees on disk is what a crash at that
    /// moment would leave behind.
    pub async fn frozen<T>(&mut self, f: impl FnOnce(&Path) -> T) -> T {
        self.process.freeze().await;
        let result = f(self.folder.root());
        self.process.signal(Signal::CONT);
        result
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        self.process.exit(deadline, "the server to exit").await
    }

    pub fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// All it has printed so far, both streams.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits until it has printed these words.
    pub async fn prints(&self, words: &str, deadline: Duration) {
        let mut lines = self.process.lines.clone();
        let printed = lines.wait_for(|lines| lines.iter().any(|line| line.contains(words)));
        let printed = within_for(deadline, words, printed).await.map(drop);
        printed.unwrap_or_else(|_| panic!("the server ended without printing {words:?}"));
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.root().join("data")
    }

    pub fn uploads(&self) -> PathBuf {
        self.folder.root().join("uploads")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Where a server keeps its data: `data/` and `uploads/` below the root.
enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn temporary() -> Folder {
        Folder::Temporary(tempfile::tempdir().expect("a temporary folder"))
    }

    fn root(&self) -> &Path {
        match self {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(root) => root,
        }
    }
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    settings.iter().map(own).collect()
}

// === Process ===

/// A child with its output collected by two threads, and a third that reaps it.
struct Process {
    pid: Pid,
    lines: watch::Receiver<Vec<String>>,
    status: watch::Receiver<Option<ExitStatus>>,
    threads: Vec<JoinHandle<()>>,
}

impl Process {
    fn spawn(root: &Path, settings: &[(String, String)]) -> Process {
        let mut child = Self::command(root, settings)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary().display()));
        let pid = Pid::from_child(&child);
        let (line_sender, lines) = watch::channel(Vec::new());
        let line_sender = Arc::new(line_sender);
        let mut threads = vec![
            collect("out", child.stdout.take().unwrap(), line_sender.clone()),
            collect("err", child.stderr.take().unwrap(), line_sender),
        ];
        let (status_sender, status) = watch::channel(None);
        threads.push(std::thread::spawn(move || {
            let status = child.wait().expect("waiting for one's own child");
            status_sender.send_replace(Some(status));
        }));
        Process {
            pid,
            lines,
            status,
            threads,
        }
    }

    /// The environment holds nothing of the caller's but the way to programs, and the working folder has no `.env`.
    fn command(root: &Path, settings: &[(String, String)]) -> Command {
        let mut command = Command::new(binary());
        command
            .current_dir(root)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .env("PORT", "0")
            .env("HOST", "127.0.0.1")
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("DATA_DIR", root.join("data"))
            .env("UPLOAD_PATH", root.join("uploads"))
            .envs(services::chosen(root))
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Waits for the line that says where listener `name` listens.
    async fn announced(&mut self, name: &str) -> SocketAddr {
        let mut status = self.status.clone();
        let found = self
            .lines
            .wait_for(|lines| announced(lines, name).is_some());
        let found = tokio::time::timeout(START_DEADLINE, async {
            tokio::select! {
                found = found => found.is_ok(),
                _ = status.wait_for(Option::is_some) => false,
            }
        });
        if !matches!(found.await, Ok(true)) {
            panic!(
                "the server did not announce its {name} address; status {:?}, it printed:\n{}",
                self.status.borrow(),
                self.output()
            );
        }
        announced(&self.lines.borrow(), name).expect("the line was there a moment ago")
    }

    /// Signals it unless it has ended.
    fn signal(&self, signal: Signal) {
        if self.status.borrow().is_none() {
            rustix::process::kill_process(self.pid, signal).ok();
        }
    }

    async fn exit(&mut self, deadline: Duration, what: &str) -> ExitStatus {
        let ended = self.status.wait_for(Option::is_some);
        let status = within_for(deadline, what, ended).await;
        status
            .expect("the reaping thread answers before it ends")
            .expect("waited for just that")
    }

    /// SIGSTOP, then waits until the kernel shows every thread stopped.
    async fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = async {
            while !all_threads_stopped(self.pid) {
                tokio::task::yield_now().await;
            }
        };
        within_for(DEADLINE, "all threads of the server to stop", stopped).await;
    }

    fn output(&self) -> String {
        self.lines.borrow().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
        if std::thread::panicking() {
            let status = self.status.borrow().map(|status| match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => status.to_string(),
            });
            eprintln!(
                "--- the server (pid {}, ended by {}) printed:\n{}\n---",
                self.pid.as_raw_nonzero(),
                status.unwrap_or_default(),
                self.output()
            );
        }
    }
}

/// The binary under test: this package's, or another one named by `CHAT_SVC_BIN`.
fn binary() -> PathBuf {
    std::env::var_os("CHAT_SVC_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_chat-svc").into())
        .into()
}

fn collect(
    stream: &'static str,
    pipe: impl Read + Send + 'static,
    lines: Arc<watch::Sender<Vec<String>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = format!("{stream}: {}", String::from_utf8_lossy(&line));
            lines.send_modify(|lines| {
                if lines.len() < LINES_MAX {
                    lines.push(line);
                }
            });
        }
    })
}

/// Finds `  NAME  http://HOST:PORT…` among the lines of standard output.
fn announced(lines: &[String], name: &str) -> Option<SocketAddr> {
    lines.iter().find_map(|line| {
        let line = line.strip_prefix("out:")?.trim_start();
        let rest = line.strip_prefix(name)?;
        let address = rest.trim_start().strip_prefix("http://")?;
        let end = address.find(|c: char| c == '/' || c.is_whitespace());
        address[..end.unwrap_or(address.len())].parse().ok()
    })
}

fn all_threads_stopped(pid: Pid) -> bool {
    let folder = format!("/proc/{}/task", pid.as_raw_nonzero());
    let Ok(threads) = std::fs::read_dir(folder) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which stands in parentheses and may hold anything.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.is_empty() || state.starts_with('T')
    })
}

/// Longest wait for a server to announce itself: it may wait for its services as long as START_TIMEOUT_MS.
const START_DEADLINE: Duration = Duration::from_secs(40);

/// Lines kept of what a server prints; a test that needs more looks at the wrong thing.
const LINES_MAX: usize = 20_000;
