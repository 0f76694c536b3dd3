//! What to do, from the command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

#[derive(Clone, Debug, Parser)]
#[command(
    name = "load",
    about = "Loads a chat server and counts what comes back"
)]
pub struct Options {
    /// The server.
    #[arg(long, default_value = "ws://127.0.0.1:3001", value_parser = parse_url)]
    pub url: SocketAddr,
    #[arg(long, value_enum, default_value = "chat")]
    pub mode: Mode,
    /// Websockets. In pairs for chat and typing: each writes to its partner.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Messages that one client leaves unacknowledged before it waits (closed loop; chat only).
    #[arg(long, default_value_t = 8, conflicts_with = "rate")]
    pub in_flight: u64,
    /// Events a second of all clients together, come what may (open loop): latency counts from the moment an event was
    /// due. Typing has no acknowledgements, so it needs a rate (10,000 unless given).
    #[arg(long)]
    pub rate: Option<u64>,
    /// Messages of a script (modes steps and burst).
    #[arg(long, default_value_t = 1000)]
    pub messages: u64,
    /// Time measured.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Time before that, sent but not measured.
    #[arg(long, default_value_t = 1.0)]
    pub warmup_seconds: f64,
    /// Length of a message's text; at least 26.
    #[arg(long, default_value_t = 120)]
    pub text_bytes: usize,
    /// The server's process: its CPU time and resident memory are reported.
    #[arg(long)]
    pub pid: Option<u32>,
    /// The server's admin listener: a chat run then waits until everything is stored, and counts CPU time until then.
    #[arg(long, requires = "pid")]
    pub admin: Option<SocketAddr>,
    /// Threads of the driver.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Writes the report there too.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Durable 1:1 messages: acknowledgement and delivery are timed.
    Chat,
    /// Typing signals, which may be dropped.
    Typing,
    /// Connections that do nothing: memory a connection.
    Idle,
    /// Connections opened and closed again and again.
    Connect,
    /// Script: one client writes to another, the next message when the last one has been acknowledged and delivered.
    Steps,
    /// Script: one client writes to another, all messages at once.
    Burst,
}

impl Options {
    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_seconds)
    }

    /// The open loop's rate; `None` for a closed loop.
    pub fn open_rate(&self) -> Option<u64> {
        match self.mode {
            Mode::Typing => Some(self.rate.unwrap_or(10_000)),
            Mode::Chat | Mode::Idle | Mode::Connect | Mode::Steps | Mode::Burst => self.rate,
        }
    }
}

fn parse_url(url: &str) -> Result<SocketAddr, String> {
    let rest = url
        .strip_prefix("ws://")
        .or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or("must begin with ws:// or http://")?;
    let address = rest.trim_end_matches('/');
    let mut found = address
        .to_socket_addrs()
        .map_err(|error| error.to_string())?;
    found
        .next()
        .ok_or_else(|| format!("no address for {address}"))
}
