//! A Kafka broker of a test's own, to be paused and killed: a real one, in a folder of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
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
    /// The same over TLS, also by SCRAM; of [`Broker::start_secured`] only.
    pub secured: String,
    /// Where a certificate is asked for, over TLS; of [`Broker::start_secured`] only.
    pub mutual: String,
    /// Where a token is asked for that is not signed; connections end with it. Of [`Broker::start_secured`] only.
    pub tokens: String,
    _turn: MutexGuard<'static, ()>,
}

impl Broker {
    /// Starts one, which will be ready in some seconds; `None`, said on stderr, when Kafka's jars are not in the cache
    /// of services. That is a failure when `CHAT_SVC_REQUIRE_SERVICES` is 1.
    pub fn start() -> Option<Broker> {
        Self::start_with(false)
    }

    /// As [`Broker::start`], with listeners for TLS. Their certificates are in [`Broker::file`]s: `ca.pem` (the
    /// authority's), `client.pem` and `client.key` (one that it vouches for), `other.pem` (another authority's).
    pub fn start_secured() -> Option<Broker> {
        Self::start_with(true)
    }

    fn start_with(secured: bool) -> Option<Broker> {
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
        let ports = free_ports();
        let mut settings = settings(folder.path(), ports, secured);
        let mut format = vec![
            "kafka.tools.StorageTool",
            "format",
            "-t",
            "MkU3OEVBNTcwNTJENDM2Qg",
            "-c",
            SETTINGS,
        ];
        if secured {
            certificates(folder.path());
            settings.push_str(SECURED);
            for mechanism in SCRAM {
                format.extend(["--add-scram", mechanism]);
            }
        }
        fs::write(folder.path().join(SETTINGS), settings).expect("settings");
        let formatted = java(&jars, folder.path(), &format).wait().expect("java");
        assert!(formatted.success());
        Some(Broker {
            process: java(&jars, folder.path(), &["kafka.Kafka", SETTINGS]),
            jars,
            folder,
            address: at(ports[0]),
            guarded: at(ports[1]),
            secured: at(ports[3]),
            mutual: at(ports[4]),
            tokens: at(ports[5]),
            _turn: turn,
        })
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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
        .join(format!("kafka-{}", version_of_jars()))
}

/// As `scripts/services` names it, by what the jars are made from.
fn version_of_jars() -> String {
    let made_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/kafka/pom.xml");
    let digest = Sha256::digest(std::fs::read(made_from).expect("pom.xml"));
    digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
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

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// An authority, what it vouches for (broker and client), and another authority.
fn certificates(folder: &Path) {
    let openssl = |line: &str| {
        let done = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .stdin(Stdio::null())
            .output();
        let done = done.expect("openssl");
        assert!(done.status.success(), "openssl {line}: {done:?}");
    };
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        ));
    }
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").expect("names");
    for name in ["broker", "client"] {
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
    let parts = ["broker.key", "broker.pem"].map(|part| fs::read(folder.join(part)).expect(part));
    fs::write(folder.join("keystore.pem"), parts.concat()).expect("keystore");
}

/// Below what the system hands out by itself, and below those of `scripts/services`: while a broker is away,
/// neither somebody's listener nor a client's own end of a connection may take its place.
fn free_ports() -> [u16; 6] {
    let free = |_| {
        let listener = (0..100).find_map(|_| {
            let port = 10_000 + getrandom::u32().expect("random") % 10_000;
            TcpListener::bind(("127.0.0.1", port as u16)).ok()
        });
        listener.expect("one of a hundred ports is free")
    };
    let listeners = [(); 6].map(free);
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}

fn settings(folder: &Path, ports: [u16; 6], secured: bool) -> String {
    let data = folder.join("data");
    let [open, guarded, controller, tls, mutual, tokens] = ports;
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{open},GUARDED://127.0.0.1:{guarded}");
    if secured {
        listeners += &format!(
            ",SECURED://127.0.0.1:{tls},MUTUAL://127.0.0.1:{mutual},TOKENS://127.0.0.1:{tokens}"
        );
    }
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=\
         PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT,SECURED:SASL_SSL,MUTUAL:SSL,TOKENS:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.guarded.sasl.enabled.mechanisms=PLAIN
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

/// The listeners over TLS.
const SECURED: &str = "ssl.keystore.type=PEM
ssl.keystore.location=keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=ca.pem
listener.name.mutual.ssl.client.auth=required
listener.name.secured.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_chat=\"right\";
listener.name.secured.scram-sha-256.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secured.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tokens.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.tokens.oauthbearer.connections.max.reauth.ms=3600000
listener.name.tokens.oauthbearer.sasl.jaas.config=\
         org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"broker\";
";

const SCRAM: [&str; 2] = [
    "SCRAM-SHA-256=[name=chat,password=right]",
    "SCRAM-SHA-512=[name=chat,password=right]",
];

const SETTINGS: &str = "server.properties";

static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
static NEXT: AtomicUsize = AtomicUsize::new(0);
