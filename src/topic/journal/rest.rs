//! The committer's rests. Where a sync is fast, one follows the other and takes a record or two each time, although the
//! next records are just coming; with a rest between them there are fewer, larger blocks, and all that a block costs
//! on its way (syncs, wake-ups, writes to sockets) is shared by more messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

/// As long on a fast disk as on a slow one: what a block costs is the processor's time, not the disk's.
const REST: Duration = Duration::from_micros(600);

/// Whether the committer rests now.
#[derive(Default)]
pub(super) struct Rest {
    is_on: AtomicBool,
    over: Notify,
}

impl Rest {
    /// From now on, who has more to append waits: what it has then goes into the next block with all that comes until
    /// the rest is over. Before the block's callers are answered, so that they see it.
    pub fn begin(&self) {
        self.is_on.store(true, Ordering::Release);
    }

    /// Ends the rest that was begun, if one was, when its time is over.
    pub fn take(&self) {
        if self.is_on.load(Ordering::Relaxed) {
            thread::sleep(REST);
            self.end();
        }
    }

    /// At once.
    pub fn end(&self) {
        self.is_on.store(false, Ordering::Release);
        self.over.notify_waiters();
    }

    /// Until the rest is over; `None`: there is none.
    pub fn turn(&self) -> Option<impl Future<Output = ()> + '_> {
        // First, or the end could come between the look and the wait.
        let over = self.over.notified();
        self.is_on.load(Ordering::Acquire).then_some(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_during_a_rest_waits_until_it_is_over() {
        let rest = Rest::default();
        assert!(rest.turn().is_none());
        rest.begin();
        let turns = [rest.turn(), rest.turn()].map(|turn| turn.expect("it rests"));
        rest.take();
        assert!(rest.turn().is_none());
        for turn in turns {
            turn.await;
        }
    }
}
