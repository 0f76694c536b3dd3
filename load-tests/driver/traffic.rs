//! Pairs of clients that write to each other: chat messages or typing signals, as many as are acknowledged (closed
//! loop) or as many as are due (open loop).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use memchr::memmem;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::WriteHalf;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::archive;
use crate::options::{Mode, Options};
use crate::pacer::{self, Schedule};
use crate::process::{self, Meter, Reading};
use crate::report::{Percentiles, Report, Server, Traffic, histogram};
use crate::stamp::{Marks, STAMP_BYTES, push_stamp, read_stamp};
use crate::wire::{Connection, Frame, Input, TEXT, open_all, push_frame, user};

/// Runs chat or typing.
pub async fn run(options: &Options) -> Result<Report, String> {
    let clients = options.clients.next_multiple_of(2);
    let before = options.pid.and_then(process::resident);
    let bar = ProgressBar::new(0);
    let open = open_all(options.url, clients, &bar).await;
    let open = open.map_err(|error| format!("cannot open {clients} connections: {error}"))?;
    let run = Arc::new(Run::new(options, clients));
    let (stop, stopped) = watch::channel(false);
    let wake: Vec<_> = (0..clients).map(|_| Arc::new(Notify::new())).collect();
    let mut tasks = JoinSet::new();
    for ((number, connection), wake) in (0..).zip(open).zip(wake.clone()) {
        let client = Client::new(run.clone(), number);
        let stopped = stopped.clone();
        tasks.spawn(client.work(connection, wake, stopped));
    }
    let pacing = Arc::new(AtomicBool::new(false));
    let pacer = run.schedule.map(|schedule| {
        let stop = pacing.clone();
        std::thread::spawn(move || pacer::run(schedule, wake, stop))
    });
    let mut archive = match (options.admin, options.pid) {
        (Some(admin), Some(pid)) => Some(archive::Watch::start(admin, pid).await?),
        _ => None,
    };
    let (reading, measured) = tokio::select! {
        watched = run.watch(options, &bar) => watched,
        Err(error) = look(&mut archive) => return Err(error),
    };
    stop.send_replace(true);
    pacing.store(true, Ordering::Relaxed);
    let mut done = tasks.join_all().await;
    if let Some(pacer) = pacer {
        pacer.join().map_err(|_| "the pacer panicked")?;
    }
    done.sort_by_key(|client| client.number);
    let server = Server::of(options.pid, &reading, measured.delivered, before);
    let mut report = run.report(&done, &reading, measured, server);
    if let Some(archive) = archive {
        report.stored = Some(archive.finish().await?);
    }
    Ok(report)
}

async fn look(archive: &mut Option<archive::Watch>) -> Result<(), String> {
    match archive {
        Some(archive) => archive.look().await,
        None => std::future::pending().await,
    }
}

// === Run ===

/// What all clients of a run share. Times are nanoseconds from the start.
struct Run {
    mode: Mode,
    clients: u32,
    text_bytes: usize,
    in_flight: u64,
    start: Instant,
    schedule: Option<Schedule>,
    warm: u64,
    end: u64,
    sent: AtomicU64,
    decided: AtomicU64,
    acked: AtomicU64,
    delivered: AtomicU64,
    /// One a thread, so that clients seldom meet.
    latencies: Vec<Mutex<Latencies>>,
}

struct Latencies {
    ack: Histogram<u64>,
    delivery: Histogram<u64>,
}

/// Counts over the time measured.
#[derive(Clone, Copy)]
struct Measured {
    acked: u64,
    delivered: u64,
}

impl Run {
    fn new(options: &Options, clients: u32) -> Run {
        let start = Instant::now();
        let latencies = || {
            Mutex::new(Latencies {
                ack: histogram(),
                delivery: histogram(),
            })
        };
        Run {
            mode: options.mode,
            clients,
            text_bytes: options.text_bytes.max(STAMP_BYTES),
            in_flight: options.in_flight,
            start,
            schedule: options.open_rate().map(|rate| Schedule {
                start,
                rate: rate.max(1),
                clients: u64::from(clients),
            }),
            warm: options.warmup().as_nanos() as u64,
            end: (options.warmup() + options.measured()).as_nanos() as u64,
            sent: AtomicU64::new(0),
            decided: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            latencies: (0..options.threads).map(|_| latencies()).collect(),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn counts(&self) -> Measured {
        Measured {
            acked: self.acked.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
        }
    }

    /// Measures from the end of the warm-up to the end of sending, then waits for what is on its way.
    async fn watch(&self, options: &Options, bar: &ProgressBar) -> (Reading, Measured) {
        bar.reset();
        bar.set_length(self.end / TICK.as_nanos() as u64);
        self.until(self.warm, bar).await;
        let (meter, first) = (Meter::start(options.pid), self.counts());
        self.until(self.end, bar).await;
        let (reading, last) = (meter.read(), self.counts());
        let patience = self.end + SETTLE_MAX.as_nanos() as u64;
        while self.now() < patience && !self.settled() {
            tokio::time::sleep(TICK).await;
        }
        bar.finish_and_clear();
        let measured = Measured {
            acked: last.acked - first.acked,
            delivered: last.delivered - first.delivered,
        };
        (reading, measured)
    }

    async fn until(&self, moment: u64, bar: &ProgressBar) {
        while let Some(left) = moment.checked_sub(self.now()) {
            tokio::time::sleep(Duration::from_nanos(left).min(TICK)).await;
            bar.set_position(self.now() / TICK.as_nanos() as u64);
            bar.set_message(format!("{} delivered", self.counts().delivered));
        }
    }

    fn settled(&self) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        let Measured { acked, delivered } = self.counts();
        match self.mode {
            Mode::Typing => delivered == sent,
            _ => self.decided.load(Ordering::Relaxed) == sent && delivered >= acked,
        }
    }

    fn report(
        &self,
        clients: &[Client],
        reading: &Reading,
        measured: Measured,
        server: Option<Server>,
    ) -> Report {
        let seconds = reading.measured.as_secs_f64();
        let (mut ack, mut delivery) = (histogram(), histogram());
        for latencies in &self.latencies {
            let latencies = latencies.lock();
            ack.add(&latencies.ack).expect("histograms of one shape");
            delivery
                .add(&latencies.delivery)
                .expect("histograms of one shape");
        }
        let mut latency_ms = BTreeMap::from([("delivery", Percentiles::of(&delivery))]);
        if self.mode == Mode::Chat {
            latency_ms.insert("ack", Percentiles::of(&ack));
        }
        Report {
            mode: format!("{:?}", self.mode).to_lowercase(),
            clients: self.clients,
            seconds,
            rate: self.schedule.map(|schedule| schedule.rate),
            traffic: Some(Traffic {
                acknowledged_per_second: measured.acked as f64 / seconds,
                delivered_per_second: measured.delivered as f64 / seconds,
                ..self.count(clients)
            }),
            latency_ms,
            server,
            driver_cores: reading.driver_cores,
            ..Report::default()
        }
    }

    fn count(&self, clients: &[Client]) -> Traffic {
        let mut all = Traffic::default();
        for (client, partner) in clients
            .iter()
            .enumerate()
            .map(|(i, c)| (c, &clients[i ^ 1]))
        {
            let refused: u64 = client.refused.values().sum();
            all.sent += client.sent;
            all.acknowledged += client.acked.count;
            all.delivered += client.delivered.count;
            all.doubled += client.acked.doubled + client.delivered.doubled;
            all.reordered += client.delivered.reordered;
            all.cut += u64::from(client.cut.is_some());
            all.unsent += client.due_unsent();
            match self.mode {
                Mode::Typing => all.lost += client.sent.saturating_sub(partner.delivered.count),
                _ => {
                    all.unacknowledged += client.sent.saturating_sub(client.acked.count + refused);
                    all.lost += client.acked.missing_in(&partner.delivered);
                }
            }
            for (code, count) in &client.refused {
                *all.refused.entry(code.clone()).or_default() += count;
            }
            if let Some(error) = &client.cut {
                eprintln!("load: client {} was cut: {error}", client.number);
            }
        }
        all
    }
}

// === Client ===

/// One connection's state; as the result of its task, its books.
struct Client {
    run: Arc<Run>,
    number: u32,
    /// What surrounds the stamp in an event.
    head: Vec<u8>,
    tail: Vec<u8>,
    payload: Vec<u8>,
    out: Vec<u8>,
    sent: u64,
    undecided: u64,
    acked: Marks,
    delivered: Marks,
    refused: BTreeMap<String, u64>,
    cut: Option<io::Error>,
}

impl Client {
    fn new(run: Arc<Run>, number: u32) -> Client {
        let (sender, receiver) = (user(number), user(number ^ 1));
        let ids = format!("\"sender_id\":\"{sender}\",\"receiver_id\":\"{receiver}\"");
        let (head, tail) = match run.mode {
            // The only field of a typing signal that a number can ride on.
            Mode::Typing => (
                format!("42[\"typing\",{{{ids},\"conversation_id\":\""),
                String::new(),
            ),
            _ => {
                let talk = format!("\"conversation_id\":\"{}\"", user(number & !1));
                let head = format!("42[\"chatMessage\",{{{ids},{talk},\"text_content\":\"");
                (head, "x".repeat(run.text_bytes - STAMP_BYTES))
            }
        };
        Client {
            run,
            number,
            head: head.into_bytes(),
            tail: format!("{tail}\"}}]").into_bytes(),
            payload: Vec::new(),
            out: Vec::new(),
            sent: 0,
            undecided: 0,
            acked: Marks::default(),
            delivered: Marks::default(),
            refused: BTreeMap::new(),
            cut: None,
        }
    }

    async fn work(
        mut self,
        mut connection: Connection,
        wake: Arc<Notify>,
        mut stopped: watch::Receiver<bool>,
    ) -> Client {
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
        let before = self.sent;
        match self.run.schedule {
            Some(schedule) => loop {
                let due = schedule.due(u64::from(self.number), self.sent);
                if due > now || due >= self.run.end || self.out.len() > OUT_BYTES_MAX {
                    break;
                }
                self.push(due);
            },
            None => {
                while now < self.run.end && self.undecided < self.run.in_flight {
                    self.push(now);
                }
            }
        }
        if self.sent > before {
            self.run
                .sent
                .fetch_add(self.sent - before, Ordering::Relaxed);
        }
    }

    fn push(&mut self, intended: u64) {
        self.payload.clear();
        self.payload.extend_from_slice(&self.head);
        push_stamp(&mut self.payload, self.sent, intended);
        self.payload.extend_from_slice(&self.tail);
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
        let decided = undecided - self.undecided;
        run.acked
            .fetch_add(self.acked.count - acked, Ordering::Relaxed);
        run.delivered
            .fetch_add(self.delivered.count - delivered, Ordering::Relaxed);
        run.decided.fetch_add(decided, Ordering::Relaxed);
        Ok(())
    }

    fn take_frame(&mut self, frame: &Frame<'_>, now: u64, latencies: &mut Latencies) {
        let payload = frame.payload;
        let (marks, times, key) = if payload.starts_with(b"42[\"newMessage\"") {
            (&mut self.delivered, &mut latencies.delivery, TEXT_KEY)
        } else if payload.starts_with(b"42[\"messageSent\"") {
            self.undecided = self.undecided.saturating_sub(1);
            (&mut self.acked, &mut latencies.ack, TEXT_KEY)
        } else if payload.starts_with(b"42[\"typing\"") {
            (
                &mut self.delivered,
                &mut latencies.delivery,
                CONVERSATION_KEY,
            )
        } else if payload.starts_with(b"42[\"messageError\"") {
            self.undecided = self.undecided.saturating_sub(1);
            *self.refused.entry(code(payload)).or_default() += 1;
            return;
        } else {
            return frame.answer(&mut self.out);
        };
        let stamp = memmem::find(payload, key).map(|at| read_stamp(&payload[at + key.len()..]));
        if let Some((number, intended)) = stamp.flatten() {
            marks.mark(number);
            if intended >= self.run.warm {
                times.saturating_record(now.saturating_sub(intended));
            }
        }
    }

    /// Open loop: events that were due before the end and never sent.
    fn due_unsent(&self) -> u64 {
        let Some(schedule) = self.run.schedule else {
            return 0;
        };
        let due = |k: &u64| schedule.due(u64::from(self.number), *k) < self.run.end;
        (self.sent..).take_while(due).count() as u64
    }
}

/// The `code` of a `messageError`.
fn code(payload: &[u8]) -> String {
    let key = b"\"code\":\"";
    let rest = memmem::find(payload, key).map_or(&b""[..], |at| &payload[at + key.len()..]);
    let code = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
    String::from_utf8_lossy(code).into_owned()
}

const TEXT_KEY: &[u8] = b"\"text_content\":\"";
const CONVERSATION_KEY: &[u8] = b"\"conversation_id\":\"";
/// Between two looks at the run.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait for what is on its way when sending has ended.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// First size of a client's read buffer.
const READ_BYTES: usize = 16 * 1024;
/// An open loop's client that cannot write makes no more than this; what is due stays due.
const OUT_BYTES_MAX: usize = 256 * 1024;
