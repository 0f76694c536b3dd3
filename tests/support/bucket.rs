//! An S3 server of a test's own, to be paused, killed and started again: a real one, by `scripts/services`, in a folder
//! of its own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Ends with its value. One at a time, for they are large.
pub struct Bucket {
    folder: TempDir,
    /// What `scripts/services` said: TEST_S3_URL, TEST_S3_PID and the AWS_ variables.
    variables: Vec<(String, String)>,
    _turn: MutexGuard<'static, ()>,
}

impl Bucket {
    /// Starts one, and returns when it is ready. `None`, said on stderr, when services are not wanted (no TEST_S3_URL):
    /// that is a failure when `CHAT_SVC_REQUIRE_SERVICES` is 1.
    pub fn start() -> Option<Bucket> {
        if std::env::var_os("TEST_S3_URL").is_none() {
            let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
            assert!(!required, "no TEST_S3_URL, and services are required");
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("a test");
            let line = format!("\nskipped: {test} (no TEST_S3_URL)\n");
            // Past the capture of passed tests' output, so that it is seen.
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("stderr");
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bucket = Bucket {
            folder: tempfile::tempdir().expect("folder"),
            variables: Vec::new(),
            _turn: turn,
        };
        bucket.up();
        Some(bucket)
    }

    /// Starts it again after [`Bucket::kill`], on the same port and data.
    pub fn up(&mut self) {
        let output = self.services("up", Stdio::inherit());
        let lines = output.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        self.variables = lines.collect();
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let stat = format!("/proc/{}/stat", self.variable("TEST_S3_PID"));
        // Nobody may reap it, so it may stay a zombie.
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::yield_now();
        }
    }

    /// From now on it takes connections and says nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What a service needs to keep its files here.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        let aws = self.variables.iter().filter(|(name, _)| is_aws(name));
        let mut settings: Vec<_> = aws.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        settings.push(("UPLOAD_URL", self.variable("TEST_S3_URL")));
        settings
    }

    pub fn variable(&self, name: &str) -> &str {
        let mut variables = self.variables.iter();
        let found = variables.find(|(n, _)| n == name);
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Every file on the server's disk that is in the bucket, parts of unfinished uploads among them, but not what a
    /// service writes to see that it can.
    pub fn files(&self) -> Vec<PathBuf> {
        let bucket = self.variable("TEST_S3_URL").trim_start_matches("s3://");
        let mut files = Vec::new();
        collect(&self.folder.path().join("s3/data").join(bucket), &mut files);
        files.retain(|file| !file.ends_with(".writable"));
        files
    }

    /// As [`Bucket::files`], but for uploads without parts: when the answer that names such a one was never heard, only
    /// a lifecycle rule can remove it.
    pub fn files_with_bytes(&self) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|file| file.metadata().is_ok_and(|file| file.len() > 0));
        files
    }

    fn signal(&self, signal: Signal) {
        let pid = self.variable("TEST_S3_PID").parse().expect("a number");
        kill_process(Pid::from_raw(pid).expect("a process"), signal).expect("signals");
    }

    fn services(&self, command: &str, told: Stdio) -> String {
        let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let output = Command::new(services)
            .args([command, "--dir"])
            .arg(self.folder.path())
            .arg("s3")
            .env_remove("TEST_S3_URL")
            .stdin(Stdio::null())
            .stderr(told)
            .output()
            .expect("scripts/services");
        assert!(output.status.success(), "scripts/services {command}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if !self.variables.is_empty() {
            // A paused one would not hear that it is to end; one that is dead already cannot be told.
            let pid = self.variable("TEST_S3_PID").parse().ok();
            let _gone = pid
                .and_then(Pid::from_raw)
                .map(|pid| kill_process(pid, Signal::CONT));
            self.services("down", Stdio::null());
        }
    }
}

fn is_aws(name: &str) -> bool {
    name.starts_with("AWS_")
}

/// Files come and go while one looks.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
}

static TURN: Mutex<()> = Mutex::new(());
