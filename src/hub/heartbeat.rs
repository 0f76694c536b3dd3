//! Pings and deadlines of all sessions: three queues in the order of time, one task, no timer per connection.
//!
//! The frequent kinds of deadline lie a fixed time after they were set, so a queue that is filled at its end is always
//! sorted; the others have a sorted set. Deadlines run from the time that was planned, never from when the sweep came
//! round to it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use crate::protocol::engineio::{Revision, Sid};

/// Deadlines of all sessions.
pub struct Heartbeat {
    ping_interval: Duration,
    ping_timeout: Duration,
    connect_timeout: Option<Duration>,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    pings: VecDeque<(Duration, Sid)>,
    pongs: VecDeque<(Duration, Sid)>,
    connects: VecDeque<(Duration, Sid)>,
    planned: BTreeSet<(Duration, Sid, Planned)>,
}

/// Deadlines that lie at any time; a session has one of a kind at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planned {
    /// The client of revision 3 must have sent something.
    Silence,
    /// The client must have acknowledged what it was asked first.
    Acks,
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
    Planned(Planned),
}

impl Heartbeat {
    /// Without a `connect_timeout`, clients need not connect to a namespace.
    pub fn new(
        ping_interval: Duration,
        ping_timeout: Duration,
        connect_timeout: Option<Duration>,
    ) -> Self {
        Self {
            ping_interval,
            ping_timeout,
            connect_timeout,
            queues: Mutex::default(),
        }
    }

    /// Begins a session's deadlines at `now`. True when one of them may be the next of all: whoever sleeps until a
    /// later one has to look again.
    pub fn begin(&self, sid: Sid, revision: Revision, now: Duration) -> bool {
        let mut queues = self.queues.lock();
        let mut may_be_next = false;
        match revision {
            Revision::V4 => {
                may_be_next |= queues.pings.is_empty();
                queues.pings.push_back((now + self.ping_interval, sid));
            }
            Revision::V3 => {
                let silence = (now + self.silence_max(), sid, Planned::Silence);
                queues.planned.insert(silence);
                may_be_next |= queues.planned.first() == Some(&silence);
            }
        }
        if let Some(timeout) = self.connect_timeout {
            may_be_next |= queues.connects.is_empty();
            queues.connects.push_back((now + timeout, sid));
        }
        may_be_next
    }

    /// Plans a deadline. True when it is the first of those planned: whoever sleeps has to look again.
    pub fn plan(&self, at: Duration, sid: Sid, what: Planned) -> bool {
        let mut queues = self.queues.lock();
        queues.planned.insert((at, sid, what));
        queues.planned.first() == Some(&(at, sid, what))
    }

    /// How long a client of revision 3 may be silent.
    pub fn silence_max(&self) -> Duration {
        self.ping_interval + self.ping_timeout
    }

    /// Whether a deadline has passed.
    pub fn is_due(&self, now: Duration) -> bool {
        let queues = self.queues.lock();
        let passed =
            |queue: &VecDeque<(Duration, Sid)>| queue.front().is_some_and(|(at, _)| *at <= now);
        passed(&queues.pings)
            || passed(&queues.pongs)
            || passed(&queues.connects)
            || queues.planned.first().is_some_and(|(at, ..)| *at <= now)
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
        while let Some((sid, what)) = self.pop_planned(now) {
            handle(sid, Due::Planned(what));
        }
        let queues = self.queues.lock();
        let first = |queue: &VecDeque<(Duration, Sid)>| queue.front().map(|(at, _)| *at);
        [&queues.pings, &queues.pongs, &queues.connects]
            .into_iter()
            .filter_map(first)
            .chain(queues.planned.first().map(|(at, ..)| *at))
            .min()
    }

    fn pop_planned(&self, now: Duration) -> Option<(Sid, Planned)> {
        let mut queues = self.queues.lock();
        let is_due = queues.planned.first().is_some_and(|(at, ..)| *at <= now);
        let first = is_due.then(|| queues.planned.pop_first()).flatten();
        first.map(|(_, sid, what)| (sid, what))
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

    const SID: Sid = Sid::new([1; 15]);

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
        let heartbeat = Heartbeat::new(ms(300), ms(200), Some(ms(1000)));
        assert!(heartbeat.begin(SID, Revision::V4, ms(0)));
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
        let heartbeat = Heartbeat::new(ms(300), ms(200), Some(ms(1000)));
        assert!(heartbeat.begin(SID, Revision::V4, ms(0)));
        assert_eq!(heartbeat.sweep(ms(300), |_, _| false), Some(ms(1000)));
        assert_eq!(heartbeat.sweep(ms(1000), |_, _| false), None);
    }

    #[test]
    fn a_client_that_sends_the_pings_itself_has_one_deadline() {
        let heartbeat = Heartbeat::new(ms(300), ms(200), None);
        assert!(heartbeat.begin(SID, Revision::V3, ms(0)));
        assert_eq!(swept(&heartbeat, ms(499)), (vec![], Some(ms(500))));
        let silence = Due::Planned(Planned::Silence);
        assert_eq!(swept(&heartbeat, ms(500)), (vec![silence], None));
    }

    #[test]
    fn what_is_planned_comes_in_the_order_of_time() {
        let heartbeat = Heartbeat::new(ms(300), ms(200), None);
        assert!(heartbeat.plan(ms(20), SID, Planned::Acks));
        assert!(!heartbeat.plan(ms(30), Sid::new([2; 15]), Planned::Acks));
        assert!(heartbeat.plan(ms(10), SID, Planned::Silence));
        assert!(!heartbeat.is_due(ms(9)) && heartbeat.is_due(ms(10)));
        let due = [Planned::Silence, Planned::Acks].map(Due::Planned);
        assert_eq!(swept(&heartbeat, ms(29)), (due.to_vec(), Some(ms(30))));
    }
}
