//! Clients that write to each other, in pairs or in pairs of rooms: chat messages or typing signals, as many as are
//! acknowledged or seen (closed loop) or as many as are due (open loop).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::archive;
use crate::client::Client;
use crate::options::{Mode, Options};
use crate::pacer::{self, Schedule};
use crate::process::{self, Meter, Reading};
use crate::report::{Percentiles, Report, Server, Traffic, histogram};
use crate::stamp::STAMP_BYTES;
use crate::underway::{Arrivals, Echo};
use crate::wire::open_all;

/// Runs chat, typing or rooms.
pub async fn run(options: &Options) -> Result<Report, String> {
    let before = options.pid.and_then(process::resident);
    let (connections, bar) = (options.connections(), ProgressBar::new(0));
    let open = open_all(options.url, connections, options.room(), &bar).await;
    let open = open.map_err(|error| format!("cannot open {connections} connections: {error}"))?;
    let run = Arc::new(Run::new(options));
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for (number, connection) in (0..).zip(open) {
        let client = Client::new(run.clone(), number);
        tasks.spawn(client.work(connection, stopped.clone()));
    }
    let pacing = Arc::new(AtomicBool::new(false));
    let pacer = run.schedule.map(|schedule| {
        let (writers, stop) = (run.writers(), pacing.clone());
        std::thread::spawn(move || pacer::run(schedule, writers, stop))
    });
    let mut archive = match (options.admin, options.pid) {
        (Some(admin), Some(pid)) => Some(archive::Watch::start(admin, pid).await?),
        _ => None,
    };
    let measured = tokio::select! {
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
    let mut report = run.report(&done, &measured);
    report.server = measured.server(options, run.mode, before);
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
pub struct Run {
    pub mode: Mode,
    /// Those measured; the pair that floods comes behind them.
    pub clients: u32,
    /// Clients of one user, next to each other; the first of them writes, to the room beside.
    pub room: u32,
    pub text_bytes: usize,
    pub client_message_id: bool,
    /// Under way of one client in a closed loop, and of one that floods.
    pub window: u64,
    pub flood: u64,
    start: Instant,
    pub schedule: Option<Schedule>,
    pub warm: u64,
    pub end: u64,
    pub counts: Counts,
    pub flood_counts: Counts,
    /// One a client.
    pub wake: Vec<Arc<Notify>>,
    pub echoes: Vec<Echo>,
    /// One a room, of what is written to it.
    arrivals: Vec<Mutex<Arrivals>>,
    /// One a thread, so that clients seldom meet.
    pub latencies: Vec<Mutex<Latencies>>,
}

#[derive(Default)]
pub struct Counts {
    pub sent: AtomicU64,
    pub decided: AtomicU64,
    pub acked: AtomicU64,
    pub delivered: AtomicU64,
}

pub struct Latencies {
    pub ack: Histogram<u64>,
    pub delivery: Histogram<u64>,
    /// To the last member of a room.
    pub last: Histogram<u64>,
}

impl Latencies {
    fn new() -> Latencies {
        let [ack, delivery, last] = std::array::from_fn(|_| histogram());
        Latencies {
            ack,
            delivery,
            last,
        }
    }
}

impl Run {
    fn new(options: &Options) -> Run {
        let start = Instant::now();
        let (clients, room) = (options.clients(), options.room());
        let connections = options.connections() as usize;
        Run {
            mode: options.mode,
            clients,
            room,
            text_bytes: options.text_bytes.max(STAMP_BYTES),
            client_message_id: options.client_message_id,
            window: options.window(),
            flood: options.flood.unwrap_or_default(),
            start,
            schedule: options.open_rate().map(|rate| Schedule {
                start,
                rate,
                clients: u64::from(clients / room),
            }),
            warm: options.warmup().as_nanos() as u64,
            end: (options.warmup() + options.measured()).as_nanos() as u64,
            counts: Counts::default(),
            flood_counts: Counts::default(),
            wake: (0..connections).map(|_| Arc::default()).collect(),
            echoes: (0..connections).map(|_| Echo::default()).collect(),
            arrivals: (0..clients / room)
                .map(|_| Mutex::new(Arrivals::new(room)))
                .collect(),
            latencies: (0..options.threads)
                .map(|_| Mutex::new(Latencies::new()))
                .collect(),
        }
    }

    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Notes that `client` got message `number`; true when its whole room has it.
    pub fn is_last(&self, client: u32, number: u64) -> bool {
        let room = (client / self.room) as usize;
        self.arrivals[room].lock().note(number)
    }

    /// Who is woken when an event is due.
    fn writers(&self) -> Vec<Arc<Notify>> {
        let measured = &self.wake[..self.clients as usize];
        measured
            .iter()
            .step_by(self.room as usize)
            .cloned()
            .collect()
    }

    /// Measures from the end of the warm-up to the end of sending, then waits for what is on its way.
    async fn watch(&self, options: &Options, bar: &ProgressBar) -> Measured {
        bar.reset();
        bar.set_length(self.end / TICK.as_nanos() as u64);
        self.until(self.warm, bar).await;
        let (meter, first) = (Meter::start(options.pid), self.seen());
        self.until(self.end, bar).await;
        let (reading, last) = (meter.read(), self.seen());
        let patience = self.end + SETTLE_MAX.as_nanos() as u64;
        while self.now() < patience && !self.settled() {
            tokio::time::sleep(TICK).await;
        }
        bar.finish_and_clear();
        Measured {
            reading,
            quiet: last.0 - first.0,
            flood: last.1 - first.1,
        }
    }

    async fn until(&self, moment: u64, bar: &ProgressBar) {
        while let Some(left) = moment.checked_sub(self.now()) {
            tokio::time::sleep(Duration::from_nanos(left).min(TICK)).await;
            bar.set_position(self.now() / TICK.as_nanos() as u64);
            bar.set_message(format!("{} delivered", self.seen().0.delivered));
            // A closed loop of typing that waits for nothing but lost signals.
            if self.mode == Mode::Typing && self.schedule.is_none() {
                self.wake.iter().for_each(|wake| wake.notify_one());
            }
        }
    }

    fn seen(&self) -> (Seen, Seen) {
        (Seen::of(&self.counts), Seen::of(&self.flood_counts))
    }

    fn settled(&self) -> bool {
        let settled = |counts: &Counts| {
            let sent = counts.sent.load(Ordering::Relaxed);
            let Seen { acked, delivered } = Seen::of(counts);
            match self.mode {
                Mode::Typing => delivered == sent,
                _ => {
                    let decided = counts.decided.load(Ordering::Relaxed);
                    decided == sent && delivered >= acked * u64::from(self.room)
                }
            }
        };
        settled(&self.counts) && settled(&self.flood_counts)
    }

    /// All but what the server used.
    fn report(&self, clients: &[Client], measured: &Measured) -> Report {
        let (quiet, flood) = clients.split_at(self.clients as usize);
        let reading = &measured.reading;
        Report {
            mode: format!("{:?}", self.mode).to_lowercase(),
            clients: self.clients,
            seconds: reading.measured.as_secs_f64(),
            rate: self.schedule.map(|schedule| schedule.rate),
            traffic: Some(self.count(quiet, measured.quiet, reading)),
            flood: (self.flood > 0).then(|| self.count(flood, measured.flood, reading)),
            latency_ms: self.latency_ms(),
            driver_cores: reading.driver_cores,
            ..Report::default()
        }
    }

    fn latency_ms(&self) -> BTreeMap<&'static str, Percentiles> {
        let mut all = Latencies::new();
        for latencies in &self.latencies {
            let latencies = latencies.lock();
            let Latencies {
                ack,
                delivery,
                last,
            } = &*latencies;
            for (sum, one) in [
                (&mut all.ack, ack),
                (&mut all.delivery, delivery),
                (&mut all.last, last),
            ] {
                sum.add(one).expect("histograms of one shape");
            }
        }
        let mut latency_ms = BTreeMap::from([("delivery", Percentiles::of(&all.delivery))]);
        if self.mode != Mode::Typing {
            latency_ms.insert("ack", Percentiles::of(&all.ack));
        }
        if self.mode == Mode::Rooms {
            latency_ms.insert("last", Percentiles::of(&all.last));
        }
        latency_ms
    }

    /// What came of the events of `clients`, whole rooms that write to each other.
    fn count(&self, clients: &[Client], measured: Seen, reading: &Reading) -> Traffic {
        let seconds = reading.measured.as_secs_f64();
        let mut all = Traffic {
            acknowledged_per_second: measured.acked as f64 / seconds,
            delivered_per_second: measured.delivered as f64 / seconds,
            ..Traffic::default()
        };
        for client in clients {
            let refused: u64 = client.refused.values().sum();
            all.sent += client.sent;
            all.acknowledged += client.acked.count;
            all.delivered += client.delivered.count;
            all.doubled += client.acked.doubled + client.delivered.doubled;
            all.reordered += client.delivered.reordered;
            all.cut += u64::from(client.cut.is_some());
            all.unsent += client.due_unsent();
            all.given_up += client.given_up();
            if self.mode != Mode::Typing {
                all.unacknowledged += client.sent.saturating_sub(client.acked.count + refused);
            }
            for (code, count) in &client.refused {
                *all.refused.entry(code.clone()).or_default() += count;
            }
            if let Some(error) = &client.cut {
                eprintln!("load: client {} was cut: {error}", client.number);
            }
        }
        let rooms: Vec<_> = clients.chunks(self.room as usize).collect();
        for (at, room) in rooms.iter().enumerate() {
            let writer = &room[0];
            all.lost += (rooms[at ^ 1].iter())
                .map(|reader| match self.mode {
                    Mode::Typing => writer.sent.saturating_sub(reader.delivered.count),
                    _ => writer.acked.missing_in(&reader.delivered),
                })
                .sum::<u64>();
        }
        all
    }
}

// === Measured ===

/// Counts at a moment, or between two.
#[derive(Clone, Copy)]
struct Seen {
    acked: u64,
    delivered: u64,
}

impl Seen {
    fn of(counts: &Counts) -> Seen {
        Seen {
            acked: counts.acked.load(Ordering::Relaxed),
            delivered: counts.delivered.load(Ordering::Relaxed),
        }
    }
}

impl std::ops::Sub for Seen {
    type Output = Seen;

    fn sub(self, before: Seen) -> Seen {
        Seen {
            acked: self.acked - before.acked,
            delivered: self.delivered - before.delivered,
        }
    }
}

/// The time measured.
struct Measured {
    reading: Reading,
    quiet: Seen,
    flood: Seen,
}

impl Measured {
    fn server(&self, options: &Options, mode: Mode, before: Option<u64>) -> Option<Server> {
        let delivered = self.quiet.delivered + self.flood.delivered;
        let mut server = Server::of(options.pid, &self.reading, delivered, before)?;
        if mode == Mode::Rooms && self.quiet.acked > 0 {
            let used = self.reading.server_cpu.as_secs_f64() * 1e6;
            server.cpu_us_per_message = Some(used / self.quiet.acked as f64);
        }
        Some(server)
    }
}

/// Between two looks at the run.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait for what is on its way when sending has ended.
const SETTLE_MAX: Duration = Duration::from_secs(5);
