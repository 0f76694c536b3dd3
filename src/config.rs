//! Every knob on one page: flags, environment variables, defaults, units. What makes no sense is refused at start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

mod engine;
mod kafka;
mod parse;

pub use engine::{EngineConfig, Transport};
pub use kafka::KafkaOptions;
use parse::millis;

/// A chat server for unchanged Socket.IO clients: log first, durable, fast.
///
/// Every option can also be given as the environment variable named in brackets, or in a file `.env` in the working
/// directory. Durations are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Parser)]
#[command(name = "chat-svc", version, max_term_width = 110)]
pub struct Config {
    /// Address to listen on
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    pub host: IpAddr,

    /// Port of the chat: Socket.IO, REST and the page at `/`; 0 takes a free one
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub port: u16,

    /// Address of the admin listener (metrics, readiness, quote events): keep it private
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9464")]
    pub admin_addr: SocketAddr,

    /// Folder of the embedded journal and store
    #[arg(long, env = "DATA_DIR", default_value = "data")]
    pub data_dir: PathBuf,

    /// Folder of uploaded files
    #[arg(long, env = "UPLOAD_PATH", default_value = "uploads")]
    pub upload_path: PathBuf,

    /// Place of uploaded files as a URL, instead of UPLOAD_PATH: file:///FOLDER, s3://BUCKET/PREFIX (with AWS_ ones)
    #[arg(long, env = "UPLOAD_URL")]
    pub upload_url: Option<String>,

    /// Web origins that may use the service from a browser, comma-separated; not set: any, without credentials
    #[arg(long, env = "CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,

    /// Whether such origins may send cookies; not set: those of CORS_ORIGINS may, and without them only Socket.IO
    /// clients 1.x and 2.x, which cannot do without
    #[arg(long, env = "CORS_CREDENTIALS")]
    pub cors_credentials: Option<bool>,

    /// Threads that run connections; 0 takes one per core
    #[arg(long, env = "WORKER_THREADS", default_value_t = 0)]
    pub worker_threads: usize,

    /// What to log, for example `info`, `chat_svc=debug`
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// Log one JSON object a line instead of text
    #[arg(long, env = "LOG_JSON", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub log_json: bool,

    #[command(flatten)]
    pub engine: EngineConfig,

    #[command(flatten)]
    pub limits: Limits,

    #[command(flatten)]
    pub journal: JournalLimits,

    /// Time to stop in: connections close, queues are written out (ms)
    #[arg(long = "drain-timeout-ms", value_name = "MS", env = "DRAIN_TIMEOUT_MS", default_value = "10000", value_parser = millis, help_heading = "Stopping")]
    pub drain_timeout: Duration,

    #[command(flatten)]
    pub kafka: KafkaOptions,

    #[command(flatten)]
    pub mongo: MongoOptions,

    /// Time in which brokers and store must be reached at start (ms)
    #[arg(long = "start-timeout-ms", value_name = "MS", env = "START_TIMEOUT_MS", default_value = "30000", value_parser = millis, help_heading = "Starting")]
    pub start_timeout: Duration,
}

/// Bounds on what clients can make grow.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Open connections at most, polling and websocket and HTTP together
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 100_000)]
    pub connections_max: usize,

    /// What may wait to be sent to one socket; more, and it is closed as slow (bytes)
    #[arg(long, env = "OUTBOX_BYTES_MAX", default_value_t = 1 << 20)]
    pub outbox_bytes_max: usize,

    /// Rooms one socket may join
    #[arg(long, env = "ROOMS_PER_SOCKET_MAX", default_value_t = 1_000)]
    pub rooms_per_socket_max: usize,

    /// Queues between the sockets and the log; 0 takes one per worker thread
    #[arg(long, env = "LANES", default_value_t = 0)]
    pub lanes: usize,

    /// Messages that may wait in one lane; more are refused as busy
    #[arg(long, env = "LANE_MESSAGES_MAX", default_value_t = 8_192)]
    pub lane_messages_max: usize,

    /// Bytes that may wait in one lane; more are refused as busy
    #[arg(long, env = "LANE_BYTES_MAX", default_value_t = 32 << 20)]
    pub lane_bytes_max: usize,

    /// Messages in one insert into MongoDB; the embedded store takes 8 times as many, an append to the log 4 times
    #[arg(long, env = "BATCH_MAX", default_value_t = 1_024)]
    pub batch_max: usize,

    /// Messages on a history page when no limit is asked for
    #[arg(long, env = "PAGE_DEFAULT", default_value_t = 50)]
    pub page_default: usize,

    /// Messages on a history page at most
    #[arg(long, env = "PAGE_MAX", default_value_t = 200)]
    pub page_max: usize,

    /// Messages that the log has and the store does not have yet; more, and history answers 503 (bytes)
    #[arg(long, env = "TAIL_BYTES_MAX", default_value_t = 256 << 20)]
    pub tail_bytes_max: usize,

    /// Ids remembered to recognise a resend in the log
    #[arg(long, env = "RECENT_IDS_MAX", default_value_t = 262_144)]
    pub recent_ids_max: usize,

    /// Largest uploaded file (bytes)
    #[arg(long, env = "UPLOAD_BYTES_MAX", default_value_t = 25 << 20)]
    pub upload_bytes_max: u64,

    /// Uploads under way at once
    #[arg(long, env = "UPLOADS_MAX", default_value_t = 64)]
    pub uploads_max: usize,

    /// Files of a bucket are got by signed links that are valid so many seconds; 0: through this service
    #[arg(long, env = "UPLOAD_LINK_SECONDS", default_value_t = 0)]
    pub upload_link_seconds: u32,

    /// Time to send a request's head (ms)
    #[arg(long = "header-timeout-ms", value_name = "MS", env = "HEADER_TIMEOUT_MS", default_value = "30000", value_parser = millis)]
    pub header_timeout: Duration,

    /// Time a request's body may stand still (ms)
    #[arg(long = "body-idle-timeout-ms", value_name = "MS", env = "BODY_IDLE_TIMEOUT_MS", default_value = "30000", value_parser = millis)]
    pub body_idle_timeout: Duration,

    /// chatMessage events a socket may send per second, with bursts of as many; 0: no limit
    #[arg(long, env = "MESSAGES_PER_SECOND_MAX", default_value_t = 0)]
    pub messages_per_second_max: u32,

    /// typing and stopTyping events a socket may send per second, more are dropped; 0: no limit
    #[arg(long, env = "TYPING_PER_SECOND_MAX", default_value_t = 0)]
    pub typing_per_second_max: u32,

    /// typing and stopTyping that may wait on their way to other nodes; more are dropped
    #[arg(long, env = "SIGNALS_MAX", default_value_t = 1_024)]
    pub signals_max: usize,

    /// Free disk space below which messages and uploads are refused (bytes)
    #[arg(long, env = "DISK_FREE_MIN", default_value_t = 64 << 20)]
    pub disk_free_min: u64,
}

/// The embedded journal.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Embedded journal")]
pub struct JournalLimits {
    /// Size at which the journal begins its next file (bytes)
    #[arg(long, env = "JOURNAL_SEGMENT_BYTES", default_value_t = 64 << 20)]
    pub journal_segment_bytes: u64,

    /// How long messages stay in the journal after the store has them (ms)
    #[arg(long = "journal-retention-ms", value_name = "MS", env = "JOURNAL_RETENTION_MS", default_value = "600000", value_parser = millis)]
    pub journal_retention: Duration,

    /// How many bytes of them stay at most (bytes)
    #[arg(long, env = "JOURNAL_RETAINED_BYTES_MAX", default_value_t = 256 << 20)]
    pub journal_retained_bytes_max: u64,

    /// Size of the file of dead letters at which the store waits for it to be moved away (bytes)
    #[arg(long, env = "DEAD_LETTERS_BYTES_MAX", default_value_t = 1 << 30)]
    pub dead_letters_bytes_max: u64,

    /// Number of the log's life: raise it when the log was replaced, so that new messages stand after old ones
    #[arg(long, env = "LOG_EPOCH", default_value_t = 1)]
    pub log_epoch: u32,
}

/// MongoDB as the store, in place of the embedded one.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "MongoDB, in place of the embedded store")]
pub struct MongoOptions {
    /// Connection string; not set: the embedded store
    #[arg(long, env = "MONGO_URI", hide_env_values = true)]
    pub mongo_uri: Option<String>,

    /// Collection of the messages
    #[arg(long, env = "MONGO_COLLECTION", default_value = "messages")]
    pub mongo_collection: String,
}

/// What a number is, and what it may be.
struct Number {
    name: &'static str,
    given: u64,
    min: u64,
    max: u64,
}

impl Config {
    /// Reads flags and environment; ends the process with a usage message when they cannot be read.
    pub fn from_command_line() -> Self {
        Self::parse()
    }

    /// Checks what no single value shows. The error is one sentence that says what to change.
    pub fn check(&self) -> Result<(), String> {
        self.check_numbers()?;
        let limits = &self.limits;
        if limits.page_default > limits.page_max {
            return Err("PAGE_DEFAULT must not be above PAGE_MAX".into());
        }
        self.engine.check()?;
        self.kafka.check()?;
        if limits.lane_bytes_max < self.engine.payload_bytes_max {
            return Err("LANE_BYTES_MAX must be at least MAX_PAYLOAD".into());
        }
        self.check_names()
    }

    /// A number beyond these makes a server that cannot work, or one that fails later, when it is full.
    fn check_numbers(&self) -> Result<(), String> {
        let mut numbers = self
            .times()
            .into_iter()
            .chain(self.counts())
            .chain(self.sizes());
        let wrong = numbers.find(
            |Number {
                 given, min, max, ..
             }| given < min || given > max,
        );
        wrong.map_or(Ok(()), |Number { name, min, max, .. }| {
            Err(format!("{name} must be {min} to {max}"))
        })
    }

    fn times(&self) -> [Number; 11] {
        const DAY_MS: u64 = 24 * 3_600_000;
        let (limits, engine) = (&self.limits, &self.engine);
        let time = |name, time: Duration, min, max| {
            let given = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Number {
                name,
                given,
                min,
                max,
            }
        };
        let retention = self.journal.journal_retention;
        [
            time("PING_INTERVAL_MS", engine.ping_interval, 1, DAY_MS),
            time("PING_TIMEOUT_MS", engine.ping_timeout, 1, DAY_MS),
            time("CONNECT_TIMEOUT_MS", engine.connect_timeout, 1, DAY_MS),
            time("UPGRADE_TIMEOUT_MS", engine.upgrade_timeout, 1, DAY_MS),
            time("RECOVERY_MS", engine.recovery_window, 0, DAY_MS),
            time("HEADER_TIMEOUT_MS", limits.header_timeout, 1, DAY_MS),
            time("BODY_IDLE_TIMEOUT_MS", limits.body_idle_timeout, 1, DAY_MS),
            time("DRAIN_TIMEOUT_MS", self.drain_timeout, 0, DAY_MS),
            time("JOURNAL_RETENTION_MS", retention, 0, 3_650 * DAY_MS),
            time("START_TIMEOUT_MS", self.start_timeout, 1, DAY_MS),
            time(
                "KAFKA_DELIVERY_TIMEOUT_MS",
                self.kafka.kafka_delivery_timeout,
                3_000,
                DAY_MS,
            ),
        ]
    }

    fn counts(&self) -> [Number; 12] {
        let limits = &self.limits;
        let count = |name, given: usize, min, max| Number {
            name,
            given: given as u64,
            min,
            max,
        };
        [
            count("WORKER_THREADS", self.worker_threads, 0, 1_024),
            count("LANES", limits.lanes, 0, 1_024),
            count("CONNECTIONS_MAX", limits.connections_max, 1, 1 << 30),
            count(
                "ROOMS_PER_SOCKET_MAX",
                limits.rooms_per_socket_max,
                1,
                1 << 30,
            ),
            count("LANE_MESSAGES_MAX", limits.lane_messages_max, 1, 1 << 30),
            count("BATCH_MAX", limits.batch_max, 1, 1 << 20),
            count("PAGE_DEFAULT", limits.page_default, 1, 1 << 20),
            count("PAGE_MAX", limits.page_max, 1, 1 << 20),
            count("RECENT_IDS_MAX", limits.recent_ids_max, 1, 1 << 30),
            count(
                "KAFKA_PARTITIONS",
                self.kafka.kafka_partitions as usize,
                1,
                100_000,
            ),
            count("UPLOADS_MAX", limits.uploads_max, 1, 1 << 30),
            count("SIGNALS_MAX", limits.signals_max, 1, 1 << 20),
        ]
    }

    fn sizes(&self) -> [Number; 11] {
        const TIB: u64 = 1 << 40;
        let (limits, engine) = (&self.limits, &self.engine);
        let (payload, replay) = (engine.payload_bytes_max, engine.recovery_messages_bytes_max);
        let sessions = engine.recovery_sessions_bytes_max as u64;
        let outbox = limits.outbox_bytes_max as u64;
        let letters = self.journal.dead_letters_bytes_max;
        let size = |name, given, min, max| Number {
            name,
            given,
            min,
            max,
        };
        [
            size("MAX_PAYLOAD", payload as u64, 1, 16 << 20),
            size("OUTBOX_BYTES_MAX", outbox, 64 << 10, 1 << 32),
            size("RECOVERY_MESSAGES_BYTES_MAX", replay as u64, 1 << 10, TIB),
            size("RECOVERY_SESSIONS_BYTES_MAX", sessions, 1 << 10, TIB),
            size("LANE_BYTES_MAX", limits.lane_bytes_max as u64, 1, TIB),
            size("TAIL_BYTES_MAX", limits.tail_bytes_max as u64, 1 << 20, TIB),
            size("UPLOAD_BYTES_MAX", limits.upload_bytes_max, 1, TIB),
            size(
                "JOURNAL_SEGMENT_BYTES",
                self.journal.journal_segment_bytes,
                1 << 10,
                TIB,
            ),
            size("DEAD_LETTERS_BYTES_MAX", letters, 16 << 20, TIB),
            // Seven days are what S3 takes at most.
            size(
                "UPLOAD_LINK_SECONDS",
                u64::from(limits.upload_link_seconds),
                0,
                604_800,
            ),
            size("LOG_EPOCH", u64::from(self.journal.log_epoch), 1, 8_191),
        ]
    }

    fn check_names(&self) -> Result<(), String> {
        let path = &self.engine.socket_path;
        if !path.starts_with('/') || !path.ends_with('/') || path.len() < 3 {
            return Err("SOCKET_PATH must begin and end with a slash, as /socket.io/ does".into());
        }
        if self.kafka.kafka_topic_quote_events == self.kafka.kafka_topic_chat_messages {
            return Err(
                "KAFKA_TOPIC_QUOTE_EVENTS must not be the same as KAFKA_TOPIC_CHAT_MESSAGES".into(),
            );
        }
        for origin in &self.cors_origins {
            let rest = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            if rest.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
                return Err(format!(
                    "CORS_ORIGINS: {origin:?} is no origin; write it as https://chat.example, no path"
                ));
            }
        }
        Ok(())
    }

    /// Messages in one insert. The embedded store writes those of one conversation together, so many cost little more
    /// than few; a server is better asked more often, and answers in time.
    pub fn insert_max(&self) -> usize {
        let is_embedded = self.mongo.mongo_uri.as_deref().is_none_or(str::is_empty);
        let times = if is_embedded { 8 } else { 1 };
        self.limits.batch_max.saturating_mul(times)
    }

    /// Messages in one append. Far more than come while one is under way, unless the server is overrun: then each
    /// append waits for its turn behind all the sockets, and what it does not take, nothing does until the next.
    pub fn append_max(&self) -> usize {
        let batch = self.limits.batch_max;
        batch
            .saturating_mul(4)
            .min((APPENDS_MAX / self.lanes()).max(batch))
    }

    /// Memory that the limits allow all connections and queues together to take, in bytes.
    pub fn memory_bytes_max(&self) -> u64 {
        let limits = &self.limits;
        let payload = self.engine.payload_bytes_max;
        // One push may bring two answers of a payload's size to a queue that is half full.
        let outbox = limits
            .outbox_bytes_max
            .max(limits.outbox_bytes_max / 2 + 2 * payload);
        // A room's name stands with the socket and with the room.
        let rooms = limits
            .rooms_per_socket_max
            .saturating_mul(2 * ROOM_BYTES_MAX);
        let session = outbox.saturating_add(rooms) as u64;
        let connections = limits.connections_max as u64;
        // As many sessions on polling as connections, and one on each of those.
        let sessions = connections.saturating_mul(2).saturating_mul(session);
        let sockets = connections
            .saturating_mul(payload as u64)
            .saturating_add(sessions);
        let lanes = (self.lanes() as u64).saturating_mul(limits.lane_bytes_max as u64);
        let engine = &self.engine;
        let recovery = match engine.recovery_window.is_zero() {
            true => 0,
            false => engine.recovery_messages_bytes_max + engine.recovery_sessions_bytes_max,
        };
        sockets
            .saturating_add(lanes)
            .saturating_add(recovery as u64)
            .saturating_add(limits.tail_bytes_max as u64)
    }

    /// Worker threads, resolved.
    pub fn workers(&self) -> usize {
        match self.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            given => given,
        }
    }

    /// Lanes, resolved.
    pub fn lanes(&self) -> usize {
        if self.limits.lanes == 0 {
            self.workers()
        } else {
            self.limits.lanes
        }
    }
}

/// Bytes of a room's name, a user's id.
pub const ROOM_BYTES_MAX: usize = 1_024;

/// Messages of all lanes' appends together: the queue to Kafka has room for 200,000.
const APPENDS_MAX: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Config {
        Config::try_parse_from(std::iter::once("chat-svc").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = config(&[]);
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.engine.ping_interval, Duration::from_secs(25));
        assert_eq!(config.limits.page_max, 200);
    }

    #[test]
    fn a_value_that_makes_no_sense_is_one_sentence() {
        for args in [
            ["--batch-max", "0"],
            ["--socket-path", "socket.io"],
            ["--cors-origins", "https://a.example,b.example"],
            ["--cors-origins", "https://a.example/"],
            ["--log-epoch", "0"],
            ["--page-default", "201"],
            ["--outbox-bytes-max", "65535"],
            ["--kafka-partitions", "0"],
            ["--kafka-topic-quote-events", "chat.messages"],
            ["--dead-letters-bytes-max", "16777215"],
        ] {
            let error = config(&args).check().unwrap_err();
            assert!(!error.contains('\n') && error.len() > 20, "{error}");
        }
        assert_eq!(
            config(&["--cors-origins", "https://a.example,http://b:8080"]).check(),
            Ok(())
        );
        assert_eq!(config(&["--outbox-bytes-max", "65536"]).check(), Ok(()));
    }

    #[test]
    fn appends_of_all_lanes_fit_the_logs_queue_but_one_takes_a_batch() {
        let append_max = |lanes: &str, batch: &str| {
            config(&["--lanes", lanes, "--batch-max", batch]).append_max()
        };
        assert_eq!(append_max("1", "1024"), 4_096);
        assert_eq!(append_max("32", "1024"), 4_096);
        assert_eq!(append_max("33", "1024"), APPENDS_MAX / 33);
        assert_eq!(append_max("1000", "1024"), 1_024);
    }
}
