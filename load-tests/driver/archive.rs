//! The server's archive while a run goes on and after it, as its admin listener tells.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(250);

/// How long the archive may take after the last message.
const STORED_WITHIN: Duration = Duration::from_secs(300);

/// From the first message sent until the last one is stored.
#[derive(Debug, Default, Serialize)]
pub struct Stored {
    /// Messages that the archive inserted.
    pub messages: u64,
    /// The server's CPU time per message, until the last one was stored.
    pub cpu_us_per_message: f64,
    /// Seconds from the end of sending until the last one was stored.
    pub after_seconds: f64,
    /// Messages in the log that the store did not have, at most.
    pub lag_max: u64,
    /// Messages of one insert, on average.
    pub batch_mean: f64,
    /// Seconds of one insert, on average.
    pub insert_seconds_mean: f64,
    /// Messages of one append to the log, on average.
    pub append_batch_mean: f64,
    /// Seconds of one append to the log, on average.
    pub append_seconds_mean: f64,
}

/// Watches the archive of one server.
pub struct Watch {
    admin: SocketAddr,
    pid: u32,
    cpu_before: Duration,
    before: Numbers,
    lag_max: u64,
}

/// Sums and counts of the server's metrics.
#[derive(Clone, Copy, Default)]
struct Numbers {
    lag: f64,
    batch: [f64; 2],
    insert: [f64; 2],
    append_batch: [f64; 2],
    append: [f64; 2],
}

impl Watch {
    pub async fn start(admin: SocketAddr, pid: u32) -> Result<Self, String> {
        Ok(Self {
            admin,
            pid,
            cpu_before: process::cpu(pid).ok_or("there is no such process")?,
            before: Numbers::read(admin).await?,
            lag_max: 0,
        })
    }

    /// Looks at the lag for as long as it is polled.
    pub async fn look(&mut self) -> Result<(), String> {
        loop {
            tokio::time::sleep(EVERY).await;
            let lag = Numbers::read(self.admin).await?.lag as u64;
            self.lag_max = self.lag_max.max(lag);
        }
    }

    /// Waits until everything is stored.
    pub async fn finish(mut self) -> Result<Stored, String> {
        let ended = Instant::now();
        let after = loop {
            let now = Numbers::read(self.admin).await?;
            self.lag_max = self.lag_max.max(now.lag as u64);
            if now.lag == 0.0 {
                break now;
            }
            if ended.elapsed() > STORED_WITHIN {
                return Err(format!("{} messages are not stored yet", now.lag));
            }
            tokio::time::sleep(EVERY).await;
        };
        let cpu = process::cpu(self.pid).ok_or("the server is gone")? - self.cpu_before;
        let since = |of: fn(&Numbers) -> [f64; 2]| {
            let (after, before) = (of(&after), of(&self.before));
            [after[0] - before[0], after[1] - before[1]]
        };
        let mean = |[sum, count]: [f64; 2]| if count > 0.0 { sum / count } else { 0.0 };
        let messages = since(|n| n.batch)[0];
        Ok(Stored {
            messages: messages as u64,
            cpu_us_per_message: cpu.as_secs_f64() * 1e6 / messages.max(1.0),
            after_seconds: ended.elapsed().as_secs_f64(),
            lag_max: self.lag_max,
            batch_mean: mean(since(|n| n.batch)),
            insert_seconds_mean: mean(since(|n| n.insert)),
            append_batch_mean: mean(since(|n| n.append_batch)),
            append_seconds_mean: mean(since(|n| n.append)),
        })
    }
}

impl Numbers {
    async fn read(admin: SocketAddr) -> Result<Self, String> {
        let text = metrics(admin).await;
        let text = text.map_err(|error| format!("cannot read {admin}/metrics: {error}"))?;
        let number = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok())
        };
        let pair = |name: &str| {
            let of = |what| number(&format!("{name}_{what} ")).unwrap_or_default();
            [of("sum"), of("count")]
        };
        Ok(Self {
            lag: number("chat_archive_lag_records ").ok_or("no chat_archive_lag_records")?,
            batch: pair("chat_archive_batch_messages"),
            insert: pair("chat_archive_seconds"),
            append_batch: pair("chat_append_batch_messages"),
            append: pair("chat_append_seconds"),
        })
    }
}

async fn metrics(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

impl Stored {
    pub fn print(&self) {
        println!(
            "  stored {} messages, {:.1} us each until the last one was stored, {:.1} s after the end",
            self.messages, self.cpu_us_per_message, self.after_seconds
        );
        println!(
            "  inserts of {:.0} in {:.1} ms  appends of {:.0} in {:.2} ms  lag {} at most",
            self.batch_mean,
            self.insert_seconds_mean * 1e3,
            self.append_batch_mean,
            self.append_seconds_mean * 1e3,
            self.lag_max
        );
    }
}
