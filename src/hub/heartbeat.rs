//! Pings and deadlines of all sessions: three queues in the order of time, one task, no timer per connection.
//!
//! Each kind of deadline lies a fixed time after it was set, so a queue that is filled at its end is always sorted.
//! Deadlines run from the time that was planned, never from when the sweep came round to it.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::protocol::engineio::Sid;

/// Deadlines of all sessions.
pub struct Heartbeat {
    ping_interval: Duration,
    ping_timeout: Duration,
    connect_timeout: Duration,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    pings: VecDeque<(Duration, Sid)>,
    pongs: VecDeque<(Duration, Sid)>,
    connects: VecDeque<(Duration, Sid)>,
}

/// What is due for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send a ping.
    Ping,
    /// The ping sent at this time must have been answered.
    Pong(Duration),
    /// The client must have connected to a namespace.
    Connect,
}

impl Heartbeat {
    pub fn new(ping_interval: Duration, ping_timeout: Duration, connect_timeout: Duration) -> Self {
        Self {
            ping_interval,
            ping_timeout,
            connect_timeout,
            queues: Mutex::default(),
        }
    }

    /// Begins a session's deadlines at `now`. True when one of them may be the next of all: whoever sleeps until a
    /// later one has to look again.
    pub fn begin(&self, sid: Sid, now: Duration) -> bool {
        let mut queues = self.queues.lock();
        let may_be_next = queues.pings.is_empty() || queues.connects.is_empty();
        queues.pings.push_back((now + self.ping_interval, sid));
        queues.connects.push_back((now + self.connect_timeout, sid));
        may_be_next
    }

    /// Whether a deadline has passed.
    pub fn is_due(&self, now: Duration) -> bool {
        let queues = self.queues.lock();
        let passed =
            |queue: &VecDeque<(Duration, Sid)>| queue.front().is_some_and(|(at, _)| *at <= now);
        passed(&queues.pings) || passed(&queues.pongs) || passed(&queues.connects)
    }

    /// Hands over what is due at `now`, and plans what follows: `handle` says whether the session is still there.
    /// Returns when to come back, at the latest.
    pub fn sweep(
        &self,
        now: Duration,
        mut handle: impl FnMut(Sid, Due) -> bool,
    ) -> Option<Duration> {
        while let Some((planned, sid)) = self.pop(now, |queues| &mut queues.pings) {
            if handle(sid, Due::Ping) {
                let mut queues = self.queues.lock();
                queues.pings.push_back((planned + self.ping_interval, sid));
                queues.pongs.push_back((planned + self.ping_timeout, sid));
            }
        }
        while let Some((deadline, sid)) = self.pop(now, |queues| &mut queues.pongs) {
            handle(sid, Due::Pong(deadline.saturating_sub(self.ping_timeout)));
        }
        while let Some((_, sid)) = self.pop(now, |queues| &mut queues.connects) {
            handle(sid, Due::Connect);
        }
        let queues = self.queues.lock();
        let first = |queue: &VecDeque<(Duration, Sid)>| queue.front().map(|(at, _)| *at);
        [&queues.pings, &queues.pongs, &queues.connects]
            .into_iter()
            .filter_map(first)
            .min()
    }

    fn pop(
        &self,
        now: Duration,
        queue: impl Fn(&mut Queues) -> &mut VecDeque<(Duration, Sid)>,
    ) -> Option<(Duration, Sid)> {
        let mut queues = self.queues.lock();
        let queue = queue(&mut queues);
        let is_due = queue.front().is_some_and(|(at, _)| *at <= now);
        is_due.then(|| queue.pop_front()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn swept(heartbeat: &Heartbeat, now: Duration) -> (Vec<Due>, Option<Duration>) {
        let mut due = Vec::new();
        let next = heartbeat.sweep(now, |_, what| {
            due.push(what);
            true
        });
        (due, next)
    }

    #[test]
    fn deadlines_run_from_the_planned_time_however_late_the_sweep_is() {
        let heartbeat = Heartbeat::new(ms(300), ms(200), ms(1000));
        assert!(heartbeat.begin(Sid::new([1; 15]), ms(0)));
        assert_eq!(swept(&heartbeat, ms(299)), (vec![], Some(ms(300))));
        assert_eq!(swept(&heartbeat, ms(350)), (vec![Due::Ping], Some(ms(500))));
        assert_eq!(
            swept(&heartbeat, ms(500)),
            (vec![Due::Pong(ms(300))], Some(ms(600)))
        );
        let (due, _) = swept(&heartbeat, ms(1000));
        assert_eq!(
            due,
            [Due::Ping, Due::Ping, Due::Pong(ms(600)), Due::Connect]
        );
    }

    #[test]
    fn a_session_that_is_gone_is_forgotten() {
        let heartbeat = Heartbeat::new(ms(300), ms(200), ms(1000));
        assert!(heartbeat.begin(Sid::new([1; 15]), ms(0)));
        assert_eq!(heartbeat.sweep(ms(300), |_, _| false), Some(ms(1000)));
        assert_eq!(heartbeat.sweep(ms(1000), |_, _| false), None);
    }
}
