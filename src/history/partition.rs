//! One partition of the log: how far it was appended, read and stored, and its tail.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::history::tail::Tail;
use crate::topic::Bounds;

/// What history knows of one partition of the log.
pub struct Partition {
    pub number: u32,
    /// Next offset after the last one acknowledged here.
    pub appended: AtomicU64,
    /// Next offset that the log's reader has not handed to [`History::feed`](super::History::feed).
    pub read: AtomicU64,
    /// Next offset that the store does not have.
    pub archived: AtomicU64,
    /// What stands before this was in the log when we started: whoever connects since finds it in history.
    pub shown_from: u64,
    pub tail: Mutex<Tail>,
}

impl Partition {
    pub fn new(bounds: &Bounds) -> Self {
        Self {
            number: bounds.partition,
            // Until the reader has come to the end found at start, nothing is known to be complete.
            appended: AtomicU64::new(bounds.end),
            read: AtomicU64::new(bounds.committed),
            archived: AtomicU64::new(bounds.committed),
            shown_from: bounds.end,
            tail: Mutex::new(Tail::new(bounds.committed)),
        }
    }

    /// Records that are known to be in the log and not to be in the store.
    pub fn lag(&self) -> u64 {
        let appended = self.appended.load(Ordering::Acquire);
        let known = appended.max(self.read.load(Ordering::Acquire));
        known.saturating_sub(self.archived.load(Ordering::Acquire))
    }
}
