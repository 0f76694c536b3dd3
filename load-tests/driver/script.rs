//! A fixed script, for counts that must come out the same: so many messages from one client to another, in lock step or
//! written at once.

use std::io;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::options::{Mode, Options};
use crate::process;
use crate::report::{Report, Traffic};
use crate::stamp::{Marks, STAMP_BYTES, push_stamp, read_stamp};
use crate::wire::{Connection, TEXT, push_frame, user};

/// Sends the messages and waits until each is acknowledged and delivered: before the next is sent, or after all.
pub async fn run(options: &Options) -> Result<Report, String> {
    let started = Instant::now();
    let mut pair = Pair::open(options)
        .await
        .map_err(|error| error.to_string())?;
    let together = match options.mode {
        Mode::Burst => options.messages.max(1),
        _ => 1,
    };
    let mut sent = 0;
    while sent < options.messages {
        let step = pair.exchange(sent, together.min(options.messages - sent));
        let done = timeout(STEP_MAX, step).await;
        let done = done.map_err(|_| format!("nothing came for {STEP_MAX:?}"))?;
        done.map_err(|error| error.to_string())?;
        sent += together;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (acked, delivered) = (&pair.acked, &pair.delivered);
    let mut traffic = Traffic {
        sent: options.messages,
        acknowledged: acked.count,
        delivered: delivered.count,
        doubled: acked.doubled + delivered.doubled,
        reordered: delivered.reordered,
        ..Traffic::default()
    };
    traffic.acknowledged_per_second = acked.count as f64 / seconds;
    traffic.delivered_per_second = delivered.count as f64 / seconds;
    Ok(Report {
        mode: format!("{:?}", options.mode).to_lowercase(),
        clients: 2,
        seconds,
        traffic: Some(traffic),
        driver_cores: process::cpu(std::process::id())
            .map_or(0.0, |cpu| cpu.as_secs_f64() / seconds),
        ..Report::default()
    })
}

/// Who writes, and who is written to.
struct Pair {
    sender: Connection,
    receiver: Connection,
    head: String,
    tail: String,
    acked: Marks,
    delivered: Marks,
}

impl Pair {
    async fn open(options: &Options) -> io::Result<Pair> {
        let users = [user(0), user(1)];
        let sender = Connection::open(options.url, 0, &users[0]).await?;
        let receiver = Connection::open(options.url, 1, &users[1]).await?;
        let [from, to] = users;
        let head = format!(
            "42[\"chatMessage\",{{\"sender_id\":\"{from}\",\"receiver_id\":\"{to}\",\"text_content\":\""
        );
        let tail = "x".repeat(options.text_bytes.max(STAMP_BYTES) - STAMP_BYTES);
        Ok(Pair {
            sender,
            receiver,
            head,
            tail: format!("{tail}\"}}]"),
            acked: Marks::default(),
            delivered: Marks::default(),
        })
    }

    /// Sends `count` messages from number `first` on, and reads until both clients have heard of all of them.
    async fn exchange(&mut self, first: u64, count: u64) -> io::Result<()> {
        let mut out = Vec::new();
        for number in first..first + count {
            let mut payload = self.head.clone().into_bytes();
            push_stamp(&mut payload, number, 0);
            payload.extend_from_slice(self.tail.as_bytes());
            push_frame(&mut out, TEXT, &payload);
        }
        let goal = first + count;
        let (mut reader, mut writer) = self.sender.stream.split();
        let written = async { writer.write_all(&out).await };
        let acked = async {
            while self.acked.count < goal {
                let read = reader.read(self.sender.input.space()).await?;
                self.sender.input.filled_more(read)?;
                while let Some(frame) = self.sender.input.next_frame()? {
                    mark(&mut self.acked, frame.payload, b"42[\"messageSent\"")?;
                }
            }
            io::Result::Ok(())
        };
        let delivered = async {
            while self.delivered.count < goal {
                let read = self
                    .receiver
                    .stream
                    .read(self.receiver.input.space())
                    .await?;
                self.receiver.input.filled_more(read)?;
                while let Some(frame) = self.receiver.input.next_frame()? {
                    mark(&mut self.delivered, frame.payload, b"42[\"newMessage\"")?;
                }
            }
            io::Result::Ok(())
        };
        tokio::try_join!(written, acked, delivered)?;
        Ok(())
    }
}

/// Notes an event about a message; a refusal ends the script. Pings are not answered: a script is over before the
/// server minds.
fn mark(marks: &mut Marks, payload: &[u8], event: &[u8]) -> io::Result<()> {
    if payload.starts_with(b"42[\"messageError\"") {
        let refusal = String::from_utf8_lossy(payload);
        return Err(io::Error::other(format!(
            "a message was refused: {refusal}"
        )));
    }
    if payload.starts_with(event)
        && let Some(at) = memmem::find(payload, TEXT_KEY)
        && let Some((number, _)) = read_stamp(&payload[at + TEXT_KEY.len()..])
    {
        marks.mark(number);
    }
    Ok(())
}

const TEXT_KEY: &[u8] = b"\"text_content\":\"";
/// Longest wait for one step's answers.
const STEP_MAX: Duration = Duration::from_secs(20);
