//! A rate limit in 8 bytes: the generic cell rate algorithm (ITU-T I.371), time passed in.

use std::time::Duration;

/// Allows `per_second` events a second, and a burst of as many after a second of quiet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    /// When the bucket is empty again, in nanoseconds of the caller's clock.
    empty_at: u64,
}

impl Throttle {
    /// Takes one event at `now` (any clock that does not run backwards). `per_second` 0: always allowed.
    pub fn allow(&mut self, now: Duration, per_second: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        let interval = 1_000_000_000 / u64::from(per_second);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let next = self.empty_at.max(now).saturating_add(interval);
        let allowed = next <= now.saturating_add(1_000_000_000);
        if allowed {
            self.empty_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_the_rate_passes_and_one_more_does_not() {
        let mut throttle = Throttle::default();
        let now = Duration::from_secs(9);
        assert_eq!((0..11).filter(|_| throttle.allow(now, 10)).count(), 10);
        assert!(!throttle.allow(now + Duration::from_millis(99), 10));
        assert!(throttle.allow(now + Duration::from_millis(100), 10));
        assert_eq!(
            (0..20)
                .filter(|_| throttle.allow(now + Duration::from_secs(60), 10))
                .count(),
            10
        );
    }

    #[test]
    fn zero_is_no_limit() {
        let mut throttle = Throttle::default();
        assert!((0..10_000).all(|_| throttle.allow(Duration::ZERO, 0)));
    }
}
