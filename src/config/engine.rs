//! Engine.IO and Socket.IO, by the reference server's names.

use std::path::PathBuf;
use std::time::Duration;

use super::parse::millis;

/// Engine.IO and Socket.IO, by the reference server's names.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Engine.IO and Socket.IO")]
pub struct EngineConfig {
    /// Path of Socket.IO
    #[arg(long, env = "SOCKET_PATH", default_value = "/socket.io/")]
    pub socket_path: String,

    /// Time between two pings (ms)
    #[arg(long = "ping-interval-ms", value_name = "MS", env = "PING_INTERVAL_MS", default_value = "25000", value_parser = millis)]
    pub ping_interval: Duration,

    /// Time a client has to answer a ping (ms)
    #[arg(long = "ping-timeout-ms", value_name = "MS", env = "PING_TIMEOUT_MS", default_value = "20000", value_parser = millis)]
    pub ping_timeout: Duration,

    /// Time a client has to CONNECT to a namespace (ms)
    #[arg(long = "connect-timeout-ms", value_name = "MS", env = "CONNECT_TIMEOUT_MS", default_value = "45000", value_parser = millis)]
    pub connect_timeout: Duration,

    /// Time an upgrade to websocket may take (ms)
    #[arg(long = "upgrade-timeout-ms", value_name = "MS", env = "UPGRADE_TIMEOUT_MS", default_value = "10000", value_parser = millis)]
    pub upgrade_timeout: Duration,

    /// Largest message of a client, and largest polling body (bytes)
    #[arg(long = "max-payload", env = "MAX_PAYLOAD", default_value_t = 1_000_000)]
    pub payload_bytes_max: usize,

    /// Transports that clients may use, comma-separated
    #[arg(long, env = "TRANSPORTS", value_delimiter = ',', default_values = ["polling", "websocket"])]
    pub transports: Vec<Transport>,

    /// Whether a polling session may go on by websocket
    #[arg(long, env = "ALLOW_UPGRADES", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub allow_upgrades: bool,

    /// Whether clients of Engine.IO 3 (Socket.IO clients 1.x and 2.x) are served
    #[arg(long, env = "ALLOW_EIO3", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub allow_eio3: bool,

    /// Whether polling may be by JSONP, which old browsers use across origins
    #[arg(long, env = "ALLOW_JSONP", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub allow_jsonp: bool,

    /// Whether polling answers from 1 KiB are compressed for clients that can read them so (gzip, deflate)
    #[arg(long, env = "HTTP_COMPRESSION", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub http_compression: bool,

    /// Name of a cookie with the session's id on the first polling answer, for proxies that stick by cookie; not set:
    /// none
    #[arg(long, env = "COOKIE")]
    pub cookie: Option<String>,

    /// Time in which a client (Socket.IO 3 or later) may take its session up again when its connection broke; 0: never.
    /// With it, every newMessage carries an offset as a second argument (ms)
    #[arg(long = "recovery-ms", value_name = "MS", env = "RECOVERY_MS", default_value = "0", value_parser = millis)]
    pub recovery_window: Duration,

    /// Messages kept in memory for such clients; who has missed older ones begins anew (bytes)
    #[arg(long, env = "RECOVERY_MESSAGES_BYTES_MAX", default_value_t = 32 << 20)]
    pub recovery_messages_bytes_max: usize,

    /// Sessions kept for such clients, with their rooms; more, and the oldest are given up (bytes)
    #[arg(long, env = "RECOVERY_SESSIONS_BYTES_MAX", default_value_t = 16 << 20)]
    pub recovery_sessions_bytes_max: usize,

    /// Folder with the client's files (socket.io.js and so on), served under SOCKET_PATH; not set: none
    #[arg(long, env = "SERVE_CLIENT")]
    pub serve_client: Option<PathBuf>,
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    Polling,
    Websocket,
}

impl EngineConfig {
    /// One sentence on what makes no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        match &self.cookie {
            Some(name) if name.is_empty() || !name.bytes().all(is_token) => {
                Err("COOKIE must be a name of letters, digits, - or _".into())
            }
            _ => Ok(()),
        }
    }
}
