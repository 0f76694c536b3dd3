//! What is under way and nobody acknowledges: typing signals until the partner has them, a room's messages until the
//! last member has them.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// After so long a signal is given up, and another takes its place.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// The numbers of one client's signals that came out at its partner, from the partner's task to the client's.
#[derive(Default)]
pub struct Echo(Mutex<Vec<u64>>);

impl Echo {
    /// Takes all of `seen`.
    pub fn tell(&self, seen: &mut Vec<u64>) {
        self.0.lock().append(seen);
    }
}

/// One client's signals under way, oldest first, with the times they were sent in nanoseconds.
#[derive(Default)]
pub struct UnderWay {
    sent: VecDeque<(u64, u64)>,
    pub given_up: u64,
}

impl UnderWay {
    pub fn count(&self) -> u64 {
        self.sent.len() as u64
    }

    pub fn add(&mut self, number: u64, now: u64) {
        self.sent.push_back((number, now));
    }

    /// Takes out what was seen, and what nobody will see any more.
    pub fn settle(&mut self, echo: &Echo, now: u64) {
        for number in echo.0.lock().drain(..) {
            if let Some(at) = self.sent.iter().position(|(sent, _)| *sent == number) {
                self.sent.remove(at);
            }
        }
        let oldest = now.saturating_sub(SEEN_WITHIN.as_nanos() as u64);
        while self.sent.pop_front_if(|(_, sent)| *sent < oldest).is_some() {
            self.given_up += 1;
        }
    }
}

/// How many members of a room lack each message written to it.
pub struct Arrivals {
    members: u32,
    first: u64,
    missing: VecDeque<u32>,
}

impl Arrivals {
    pub fn new(members: u32) -> Arrivals {
        Arrivals {
            members,
            first: 0,
            missing: VecDeque::new(),
        }
    }

    /// A member got a message for the first time; true when it was the last to.
    pub fn note(&mut self, number: u64) -> bool {
        let Some(at) = number.checked_sub(self.first) else {
            return false;
        };
        let at = at as usize;
        if at >= self.missing.len() {
            self.missing.resize(at + 1, self.members);
        }
        self.missing[at] -= 1;
        let last = self.missing[at] == 0;
        while self.missing.pop_front_if(|missing| *missing == 0).is_some() {
            self.first += 1;
        }
        last
    }
}
