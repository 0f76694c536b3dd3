//! Pauses between tries: longer from one to the next up to a bound, and never the same for two who began together.

use std::time::Duration;

/// The pauses of one thing that is tried until it works.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses of about `first`, twice that, and so on, at most `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// Rests: a random time between half the pause that is due and the whole.
    pub async fn rest(&mut self) {
        let pause = self.pause(getrandom::u32().unwrap_or(u32::MAX));
        tokio::time::sleep(pause).await;
    }

    fn pause(&mut self, random: u32) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.max);
        due / 2 + (due / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let ms = Duration::from_millis;
        let mut longest = Backoff::new(ms(10), ms(30));
        let mut shortest = longest.clone();
        let pauses = [10, 20, 30, 30].map(ms);
        assert_eq!([(); 4].map(|()| longest.pause(u32::MAX)), pauses);
        assert_eq!([(); 4].map(|()| shortest.pause(0)), pauses.map(|p| p / 2));
    }
}
