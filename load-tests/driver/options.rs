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
    /// Websockets. In pairs for chat and typing: each writes to its partner; in pairs of rooms for rooms. Rounded up.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Events that one client has under way before it waits (closed loop) [default: 8; typing: open loop]. A message is
    /// under way until it is acknowledged; a typing signal until it comes out at the partner, at most 1 s: then it is
    /// given up and replaced.
    #[arg(long, conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    pub in_flight: Option<u64>,
    /// Events a second of all clients together, come what may (open loop) [default for typing: 10000]: latency counts
    /// from the moment an event was due.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Websockets of one user (mode rooms).
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub room: u32,
    /// One more pair of clients with so many messages in flight each (mode chat): checked like the others, told apart,
    /// and not in the latencies.
    #[arg(long, value_name = "IN_FLIGHT", value_parser = clap::value_parser!(u64).range(1..))]
    pub flood: Option<u64>,
    /// Each message carries a client_message_id of its own (modes chat and rooms).
    #[arg(long)]
    pub client_message_id: bool,
    /// Messages of a script (modes steps and burst).
    #[arg(long, default_value_t = 1000)]
    pub messages: u64,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds before that, sent but not measured.
    #[arg(long, default_value_t = 1.0)]
    pub warmup_seconds: f64,
    /// Length of a message's text in bytes; at least 26.
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
    /// Messages to users with many websockets: one of each room writes to the neighbouring room, where all must get it
    /// once, in order.
    Rooms,
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
            Mode::Typing if self.in_flight.is_none() => Some(self.rate.unwrap_or(10_000)),
            _ => self.rate,
        }
    }

    /// The closed loop's events under way, of one client.
    pub fn window(&self) -> u64 {
        self.in_flight.unwrap_or(8)
    }

    /// Websockets that share a user.
    pub fn room(&self) -> u32 {
        match self.mode {
            Mode::Rooms => self.room,
            _ => 1,
        }
    }

    /// Websockets measured: whole pairs of rooms (chat and typing: of clients).
    pub fn clients(&self) -> u32 {
        self.clients.next_multiple_of(2 * self.room())
    }

    /// Websockets of a run that writes, with the pair that floods.
    pub fn connections(&self) -> u32 {
        self.clients() + if self.flood.is_some() { 2 } else { 0 }
    }

    /// What the arguments' types cannot tell.
    pub fn check(&self) -> Result<(), String> {
        match self.mode {
            Mode::Chat => Ok(()),
            _ if self.flood.is_some() => Err("--flood is for mode chat".into()),
            _ => Ok(()),
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
