//! A Kafka broker of a test's own, to be paused and killed: a real one, in a folder of its own.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Ends with its value. Two at a time, for they are large.
pub struct Broker {
    process: Child,
    jars: PathBuf,
    folder: TempDir,
    /// Where everybody is let in.
    pub address: String,
    /// Where the user `chat` has to give the password `right`.
    pub guarded: String,
    _turn: MutexGuard<'static, ()>,
}

impl Broker {
    /// Starts one, which will be ready in some seconds; `None`, said on stderr, when Kafka's jars are not in the cache
    /// of services. That is a failure when `CHAT_SVC_REQUIRE_SERVICES` is 1.
    pub fn start() -> Option<Broker> {
        let jars = jars();
        if !jars.is_dir() {
            let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
            assert!(!required, "{jars:?} is missing, and services are required");
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("a test");
            let line = format!("skipped: {test} ({} is missing)\n", jars.display());
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("stderr");
            return None;
        }
        let turn = &TURNS[NEXT.fetch_add(1, Ordering::Relaxed) % TURNS.len()];
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("folder");
        let [open, guarded, controller] = free_ports();
        let settings = settings(folder.path(), open, guarded, controller);
        fs::write(folder.path().join(SETTINGS), settings).expect("settings");
        let format = [
            "kafka.tools.StorageTool",
            "format",
            "-t",
            "MkU3OEVBNTcwNTJENDM2Qg",
            "-c",
            SETTINGS,
        ];
        let formatted = java(&jars, folder.path(), &format).wait().expect("java");
        assert!(formatted.success());
        Some(Broker {
            process: java(&jars, folder.path(), &["kafka.Kafka", SETTINGS]),
            jars,
            folder,
            address: format!("127.0.0.1:{open}"),
            guarded: format!("127.0.0.1:{guarded}"),
            _turn: turn,
        })
    }

    /// Stops it where it stands; connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill().expect("kills");
        self.process.wait().expect("ends");
    }

    /// Starts it again on its folder.
    pub fn restart(&mut self) {
        self.process = java(&self.jars, self.folder.path(), &["kafka.Kafka", SETTINGS]);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("signals");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn jars() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache
        .unwrap_or_else(home)
        .join("chat-svc-services")
        .join("kafka")
}

fn java(jars: &Path, folder: &Path, arguments: &[&str]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"));
    let log = log.expect("log");
    Command::new("java")
        .args(["-Xmx256m", "-cp"])
        .arg(jars.join("*"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log"))
        .stderr(log)
        .spawn()
        .expect("java")
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}

fn settings(folder: &Path, open: u16, guarded: u16, controller: u16) -> String {
    let data = folder.join("data");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{open},GUARDED://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{open},GUARDED://127.0.0.1:{guarded}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_chat=\"right\";
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
",
        data.display()
    )
}

const SETTINGS: &str = "server.properties";

static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
static NEXT: AtomicUsize = AtomicUsize::new(0);
