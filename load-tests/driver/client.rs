//! One client of a run: it writes what it may, and marks what comes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memchr::memmem;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::WriteHalf;
use tokio::sync::watch;

use crate::options::Mode;
use crate::pacer::Schedule;
use crate::stamp::{Marks, NUMBER_DIGITS, STAMP_BYTES, push_digits, push_stamp, read_stamp};
use crate::traffic::{Counts, Latencies, Run};
use crate::underway::UnderWay;
use crate::wire::{Connection, Frame, Input, TEXT, push_frame, user};

/// One connection's state; as the result of its task, its books.
pub struct Client {
    run: Arc<Run>,
    pub number: u32,
    pace: Pace,
    words: Words,
    payload: Vec<u8>,
    out: Vec<u8>,
    pub sent: u64,
    undecided: u64,
    under_way: UnderWay,
    pub acked: Marks,
    pub delivered: Marks,
    /// Signals of the partner that came with the last read.
    seen: Vec<u64>,
    pub refused: BTreeMap<String, u64>,
    pub cut: Option<io::Error>,
}

/// When a client writes.
enum Pace {
    /// Never: it listens.
    Never,
    /// Whatever is due; which of the schedule's writers it is.
    Open(Schedule, u64),
    /// So many unacknowledged.
    Acked(u64),
    /// So many not seen by the partner.
    Seen(u64),
}

impl Client {
    pub fn new(run: Arc<Run>, number: u32) -> Client {
        let floods = number >= run.clients;
        let pace = match run.schedule {
            _ if !number.is_multiple_of(run.room) => Pace::Never,
            _ if floods => Pace::Acked(run.flood),
            Some(schedule) => Pace::Open(schedule, u64::from(number / run.room)),
            None if run.mode == Mode::Typing => Pace::Seen(run.window),
            None => Pace::Acked(run.window),
        };
        Client {
            pace,
            words: Words::new(&run, number),
            run,
            number,
            payload: Vec::new(),
            out: Vec::new(),
            sent: 0,
            undecided: 0,
            under_way: UnderWay::default(),
            acked: Marks::default(),
            delivered: Marks::default(),
            seen: Vec::new(),
            refused: BTreeMap::new(),
            cut: None,
        }
    }

    /// Writes and reads until told to stop, or cut.
    pub async fn work(
        mut self,
        mut connection: Connection,
        mut stopped: watch::Receiver<bool>,
    ) -> Client {
        let run = self.run.clone();
        let wake = &run.wake[self.number as usize];
        let (mut reader, writer) = connection.stream.split();
        let mut input = connection.input;
        input.reserve(READ_BYTES);
        loop {
            self.produce();
            if let Err(error) = self.flush(&writer) {
                self.cut = Some(error);
                return self;
            }
            let result = tokio::select! {
                biased;
                read = reader.read(input.space()) => match read {
                    Ok(count) => input.filled_more(count).and_then(|()| self.take(&mut input)),
                    Err(error) => Err(error),
                },
                ready = writer.writable(), if !self.out.is_empty() => ready,
                () = wake.notified() => Ok(()),
                _ = stopped.changed() => return self,
            };
            if let Err(error) = result {
                self.cut = Some(error);
                return self;
            }
        }
    }

    /// Adds what is to be sent now to `out`.
    fn produce(&mut self) {
        let now = self.run.now();
        let (before, end) = (self.sent, self.run.end);
        match self.pace {
            Pace::Never => {}
            Pace::Open(schedule, writer) => loop {
                let due = schedule.due(writer, self.sent);
                if due > now || due >= end || self.out.len() > OUT_BYTES_MAX {
                    break;
                }
                self.push(due);
            },
            Pace::Acked(window) => {
                while now < end && self.undecided < window {
                    self.push(now);
                }
            }
            Pace::Seen(window) => {
                self.under_way
                    .settle(&self.run.echoes[self.number as usize], now);
                while now < end && self.under_way.count() < window {
                    self.under_way.add(self.sent, now);
                    self.push(now);
                }
            }
        }
        if self.sent > before {
            self.counts()
                .sent
                .fetch_add(self.sent - before, Ordering::Relaxed);
        }
    }

    fn push(&mut self, intended: u64) {
        self.words.write(&mut self.payload, self.sent, intended);
        push_frame(&mut self.out, TEXT, &self.payload);
        self.sent += 1;
        self.undecided += 1;
    }

    fn flush(&mut self, writer: &WriteHalf<'_>) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        match writer.try_write(&self.out) {
            Ok(written) => drop(self.out.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes every whole frame of `input`.
    fn take(&mut self, input: &mut Input) -> io::Result<()> {
        let run = self.run.clone();
        let now = run.now();
        let (acked, delivered, undecided) =
            (self.acked.count, self.delivered.count, self.undecided);
        let shard = self.number as usize % run.latencies.len();
        let mut latencies = run.latencies[shard].lock();
        while let Some(frame) = input.next_frame()? {
            self.take_frame(&frame, now, &mut latencies);
        }
        drop(latencies);
        if !self.seen.is_empty() {
            let partner = (self.number ^ 1) as usize;
            run.echoes[partner].tell(&mut self.seen);
            run.wake[partner].notify_one();
        }
        let counts = self.counts();
        let add = |to: &std::sync::atomic::AtomicU64, count| to.fetch_add(count, Ordering::Relaxed);
        add(&counts.acked, self.acked.count - acked);
        add(&counts.delivered, self.delivered.count - delivered);
        add(&counts.decided, undecided - self.undecided);
        Ok(())
    }

    fn take_frame(&mut self, frame: &Frame<'_>, now: u64, latencies: &mut Latencies) {
        let payload = frame.payload;
        if payload.starts_with(b"42[\"newMessage\"") {
            if let Some((number, intended)) = stamp_after(TEXT_KEY, payload)
                && self.delivered.mark(number)
            {
                self.time(&mut latencies.delivery, intended, now);
                if self.run.room > 1 && self.run.is_last(self.number, number) {
                    self.time(&mut latencies.last, intended, now);
                }
            }
        } else if payload.starts_with(b"42[\"messageSent\"") {
            self.undecided = self.undecided.saturating_sub(1);
            if let Some((number, intended)) = stamp_after(TEXT_KEY, payload)
                && self.acked.mark(number)
            {
                self.time(&mut latencies.ack, intended, now);
            }
        } else if payload.starts_with(b"42[\"typing\"") {
            if let Some((number, intended)) = stamp_after(CONVERSATION_KEY, payload)
                && self.delivered.mark(number)
            {
                self.time(&mut latencies.delivery, intended, now);
                if matches!(self.pace, Pace::Seen(_)) {
                    self.seen.push(number);
                }
            }
        } else if payload.starts_with(b"42[\"messageError\"") {
            self.undecided = self.undecided.saturating_sub(1);
            *self.refused.entry(code(payload)).or_default() += 1;
        } else {
            frame.answer(&mut self.out);
        }
    }

    fn time(&self, times: &mut hdrhistogram::Histogram<u64>, intended: u64, now: u64) {
        if intended >= self.run.warm && self.number < self.run.clients {
            times.saturating_record(now.saturating_sub(intended));
        }
    }

    fn counts(&self) -> &Counts {
        match self.number < self.run.clients {
            true => &self.run.counts,
            false => &self.run.flood_counts,
        }
    }

    /// Open loop: events that were due before the end and never sent.
    pub fn due_unsent(&self) -> u64 {
        let Pace::Open(schedule, writer) = self.pace else {
            return 0;
        };
        let due = |k: &u64| schedule.due(writer, *k) < self.run.end;
        (self.sent..).take_while(due).count() as u64
    }

    /// Closed loop of typing: signals that nobody saw in time.
    pub fn given_up(&self) -> u64 {
        self.under_way.given_up
    }
}

/// Number and time behind `key`.
fn stamp_after(key: &[u8], payload: &[u8]) -> Option<(u64, u64)> {
    memmem::find(payload, key).and_then(|at| read_stamp(&payload[at + key.len()..]))
}

/// The `code` of a `messageError`.
fn code(payload: &[u8]) -> String {
    let key = b"\"code\":\"";
    let rest = memmem::find(payload, key).map_or(&b""[..], |at| &payload[at + key.len()..]);
    let code = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
    String::from_utf8_lossy(code).into_owned()
}

// === Words ===

/// What surrounds the numbers in one client's events.
struct Words {
    head: Vec<u8>,
    /// Behind the number that makes a client_message_id.
    after_id: Option<&'static [u8]>,
    tail: Vec<u8>,
}

impl Words {
    fn new(run: &Run, number: u32) -> Words {
        let group = number / run.room;
        let (sender, receiver) = (user(group), user(group ^ 1));
        let ids = format!("\"sender_id\":\"{sender}\",\"receiver_id\":\"{receiver}\"");
        if run.mode == Mode::Typing {
            // The only field of a typing signal that a number can ride on.
            let head = format!("42[\"typing\",{{{ids},\"conversation_id\":\"");
            return Words {
                head: head.into_bytes(),
                after_id: None,
                tail: b"\"}]".to_vec(),
            };
        }
        let talk = format!("\"conversation_id\":\"{}\"", user(group & !1));
        let (id, after_id) = match run.client_message_id {
            true => (
                format!("client_message_id\":\"{sender}-"),
                Some(&b"\",\"text_content\":\""[..]),
            ),
            false => ("text_content\":\"".into(), None),
        };
        let tail = format!("{}\"}}]", "x".repeat(run.text_bytes - STAMP_BYTES));
        Words {
            head: format!("42[\"chatMessage\",{{{ids},{talk},\"{id}").into_bytes(),
            after_id,
            tail: tail.into_bytes(),
        }
    }

    /// Makes `payload` event `number`.
    fn write(&self, payload: &mut Vec<u8>, number: u64, intended: u64) {
        payload.clear();
        payload.extend_from_slice(&self.head);
        if let Some(after_id) = self.after_id {
            push_digits::<NUMBER_DIGITS>(payload, number);
            payload.extend_from_slice(after_id);
        }
        push_stamp(payload, number, intended);
        payload.extend_from_slice(&self.tail);
    }
}

const TEXT_KEY: &[u8] = b"\"text_content\":\"";
const CONVERSATION_KEY: &[u8] = b"\"conversation_id\":\"";
/// First size of a client's read buffer.
const READ_BYTES: usize = 16 * 1024;
/// An open loop's client that cannot write makes no more than this; what is due stays due.
const OUT_BYTES_MAX: usize = 256 * 1024;
