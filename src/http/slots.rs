//! How many connections are open, and may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// How many connections may be open.
#[derive(Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// One connection's place among them; given back when the last clone goes. A websocket keeps one beyond its request.
#[derive(Clone)]
pub struct Slot {
    held: Arc<Held>,
}

struct Held {
    _permit: OwnedSemaphorePermit,
    is_corked: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Slot {
    /// From now on nothing is written to the connection: what would be is kept for who takes it over, by an upgrade
    /// that is about to be answered.
    pub fn cork(&self) {
        self.held.is_corked.store(true, Relaxed);
    }

    pub(super) fn is_corked(&self) -> bool {
        self.held.is_corked.load(Relaxed)
    }
}

impl Slots {
    pub fn new(connections_max: usize, metrics: Arc<Metrics>) -> Self {
        let permits = connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
            metrics,
        }
    }

    pub(super) fn take(&self) -> Option<Slot> {
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            self.metrics.connections_refused.inc();
            return None;
        };
        self.metrics.connections.inc();
        let held = Held {
            _permit: permit,
            is_corked: AtomicBool::new(false),
            metrics: self.metrics.clone(),
        };
        Some(Slot {
            held: Arc::new(held),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}
