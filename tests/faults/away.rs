//! What the faults have in common: a store of a test's own that can be paused and killed, and waiting for its return.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use crate::broker_process::Broker;
use crate::support::load::number_from_env;
use crate::support::server::Server;
use crate::support::{http, services, within_for};

/// How long a fault lasts: `default` in the ordinary run, or as the environment variable `name` says.
pub fn seconds(name: &str, default: u64) -> Duration {
    Duration::from_secs(number_from_env(name, default))
}

/// Waits until the server says that it and all it needs are well.
pub async fn is_ready(server: &Server) {
    let ready = async {
        while http::get(server.admin, "/health/ready").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_for(Duration::from_secs(60), "the server to be ready", ready).await;
}

/// FerretDB on PostgreSQL, of a test's own.
pub struct Ferret {
    folder: TempDir,
    pub uri: String,
}

impl Ferret {
    /// Starts both; `None`, said on stderr, when they are not to be had.
    pub fn start() -> Option<Ferret> {
        if std::env::var_os("TEST_MONGO_URI").is_none() {
            services::skip("TEST_MONGO_URI is not set, so one's own is not wanted either");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut ferret = Ferret {
            folder,
            uri: String::new(),
        };
        let said = ferret.service("up");
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("export TEST_MONGO_URI="));
        ferret.uri = line.expect("an address").to_owned();
        Some(ferret)
    }

    /// Starts again whichever was killed, on the same ports and data.
    pub fn restart(&self) {
        self.service("up");
    }

    /// Stops FerretDB where it stands, or PostgreSQL with all its processes.
    pub fn pause(&self, name: &str) {
        self.signal(name, Signal::STOP);
    }

    pub fn resume(&self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    pub fn kill(&self, name: &str) {
        self.signal(name, Signal::KILL);
    }

    fn signal(&self, name: &str, signal: Signal) {
        let file = self.folder.path().join(name).join("pid");
        let text = std::fs::read_to_string(file).expect("a process id");
        let parent: i32 = text.split(' ').next().unwrap().parse().unwrap();
        for pid in children(parent).into_iter().chain([parent]) {
            // A child may have ended meanwhile.
            let _gone = kill_process(Pid::from_raw(pid).unwrap(), signal);
        }
    }

    fn service(&self, what: &str) -> String {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let mut command = Command::new(script);
        command.arg(what).arg("--dir").arg(self.folder.path());
        for name in ["TEST_MONGO_URI", "TEST_MONGO_PID", "TEST_POSTGRES_PID"] {
            command.env_remove(name);
        }
        let done = command.arg("mongo").stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "scripts/services {what}: {told}");
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Ferret {
    fn drop(&mut self) {
        for name in ["postgres", "mongo"] {
            if self.folder.path().join(name).join("pid").exists() {
                self.resume(name);
            }
        }
        self.service("down");
    }
}

fn children(parent: i32) -> Vec<i32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}
