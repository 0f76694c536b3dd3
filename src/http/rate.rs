//! The least rate at which a peer has to bring or take bytes: one that trickles would keep its place for hours, and
//! what waits for it in memory.

use std::time::{Duration, Instant};

/// How long a peer may keep us waiting, however little it moves.
const GRACE: Duration = Duration::from_secs(30);

/// Bytes that have to move in each further second of waiting: slower than any telephone.
const BYTES_PER_SECOND_MIN: u64 = 4 << 10;

/// What one peer has moved, and how long it was waited for. Time in which it was not waited for does not count.
#[derive(Default)]
pub struct LeastRate {
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl LeastRate {
    /// From now on the peer is waited for, if it is not already.
    pub fn waits(&mut self, now: impl FnOnce() -> Instant) {
        self.since.get_or_insert_with(now);
    }

    /// Whether it was waited for since the last reset.
    pub fn has_waited(&self) -> bool {
        self.since.is_some() || !self.waited.is_zero()
    }

    /// So many bytes have moved.
    pub fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += now().duration_since(since);
        }
    }

    /// Whether what has moved took too long. To be asked when the peer is about to be waited for again: then all has
    /// moved that it let through at once, which may be a megabyte behind a long wait.
    pub fn is_too_slow(&self) -> bool {
        let earned = Duration::from_millis(self.bytes * 1_000 / BYTES_PER_SECOND_MIN);
        self.waited > GRACE + earned
    }

    /// The peer has moved all there was.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// One that has had its grace.
    #[cfg(test)]
    pub fn without_grace() -> Self {
        Self {
            waited: GRACE,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_be_as_slow_as_the_least_rate_after_the_grace() {
        let mut rate = LeastRate::default();
        let second = BYTES_PER_SECOND_MIN as usize;
        let mut now = Instant::now();
        rate.waits(|| now);
        now += GRACE;
        rate.moved(0, || now);
        assert!(!rate.is_too_slow());
        for _ in 0..100 {
            rate.waits(|| now);
            now += Duration::from_millis(500);
            rate.waits(|| now);
            now += Duration::from_millis(500);
            rate.moved(second, || now);
            assert!(!rate.is_too_slow());
            // Nobody waits: the time is ours.
            now += GRACE;
        }
        rate.waits(|| now);
        now += Duration::from_secs(1);
        rate.moved(second - 5, || now);
        assert!(rate.is_too_slow());
        rate.moved(5, || now);
        assert!(!rate.is_too_slow());
        rate.reset();
        assert!(!rate.has_waited() && !rate.is_too_slow());
    }
}
