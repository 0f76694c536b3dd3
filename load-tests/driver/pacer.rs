//! The open loop's clock: a thread that wakes each client when an event of its is due, whatever the server does.
//!
//! A thread, because the runtime's timers round up to a millisecond, which would show in every latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// When events are due: client `i`'s `k`-th is event `k × clients + i`, one every `1 / rate` seconds.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub start: Instant,
    pub rate: u64,
    pub clients: u64,
}

impl Schedule {
    /// When a client's `k`-th event is due, in nanoseconds from the start.
    pub fn due(&self, client: u64, k: u64) -> u64 {
        self.event_due(k * self.clients + client)
    }

    fn event_due(&self, event: u64) -> u64 {
        (u128::from(event) * 1_000_000_000 / u128::from(self.rate)) as u64
    }
}

/// Wakes clients until `stop`.
pub fn run(schedule: Schedule, wake: Vec<Arc<Notify>>, stop: Arc<AtomicBool>) {
    let mut event = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = schedule.start.elapsed().as_nanos() as u64;
        let mut woken = 0;
        // At most once around: a client that is woken sends all that is due.
        while schedule.event_due(event) <= now {
            if woken < schedule.clients {
                wake[(event % schedule.clients) as usize].notify_one();
                woken += 1;
            }
            event += 1;
        }
        let wait = Duration::from_nanos(schedule.event_due(event).saturating_sub(now));
        thread::sleep(wait.clamp(NAP_MIN, NAP_MAX));
    }
}

/// Events closer than this are woken together.
const NAP_MIN: Duration = Duration::from_micros(50);
/// So that a stop is noticed.
const NAP_MAX: Duration = Duration::from_millis(50);
