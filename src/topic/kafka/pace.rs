//! Keeps appends apart, and together: each costs the same work here and at the brokers, few records or many.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Whose turn it is when. After a while without appends it is anybody's at once.
pub(super) struct Pace {
    every: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// `every`: zero is no pace.
    pub fn new(every: Duration) -> Pace {
        Pace {
            every,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for the next turn, `every` after the last at most. All that wait have the same.
    pub async fn turn(&self) {
        if let Some(at) = self.due(Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
            self.begin(at);
        }
    }

    /// When the next turn is; `None`: it has begun, now.
    fn due(&self, now: Instant) -> Option<Instant> {
        let mut next = self.next.lock();
        if now < *next {
            return Some(*next);
        }
        *next = now + self.every;
        None
    }

    /// Those that waited for `at` go; who comes later has the turn after it.
    fn begin(&self, at: Instant) {
        let mut next = self.next.lock();
        *next = (*next).max(at + self.every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(5);

    #[test]
    fn turns_are_apart_and_those_that_wait_share_one() {
        let (pace, ms) = (Pace::new(EVERY), Duration::from_millis);
        let start = Instant::now();
        assert_eq!(pace.due(start), None);
        let second = start + EVERY;
        assert_eq!(pace.due(start), Some(second));
        assert_eq!(pace.due(second - ms(1)), Some(second));
        // Both go, the other a little later; a third that comes in between does not.
        pace.begin(second);
        assert_eq!(pace.due(second + ms(1)), Some(second + EVERY));
        pace.begin(second);
        assert_eq!(pace.due(second + ms(2)), Some(second + EVERY));
        // Whoever comes on time does not wait, although nobody waited for that turn.
        assert_eq!(pace.due(second + EVERY), None);
        assert_eq!(pace.due(start + ms(1_000)), None);
    }

    #[tokio::test]
    async fn who_is_early_waits_for_the_turn() {
        let pace = Pace::new(Duration::from_millis(20));
        let start = Instant::now();
        pace.turn().await;
        pace.turn().await;
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn without_a_pace_it_is_always_ones_turn() {
        let pace = Pace::new(Duration::ZERO);
        let now = Instant::now();
        assert_eq!([(); 3].map(|()| pace.due(now)), [None; 3]);
    }
}
