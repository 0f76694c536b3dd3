//! A bell that one thread waits for: rung many times, it is heard once.

use std::mem;

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rung: bool,
    over: bool,
}

impl Bell {
    pub fn ring(&self) {
        self.state.lock().rung = true;
        self.changed.notify_one();
    }

    /// There will be no more rings after those that were not heard yet.
    pub fn end(&self) {
        self.state.lock().over = true;
        self.changed.notify_one();
    }

    /// Whether there will be no more rings.
    pub fn is_over(&self) -> bool {
        self.state.lock().over
    }

    /// Waits until it is rung; `false` when it will not be.
    pub fn hear(&self) -> bool {
        let mut state = self.state.lock();
        while !state.rung && !state.over {
            self.changed.wait(&mut state);
        }
        mem::take(&mut state.rung)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rung_is_heard_once_also_after_the_end() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(!bell.is_over());
        bell.end();
        assert!(bell.is_over());
        assert!(bell.hear());
        assert!(!bell.hear());
    }
}
