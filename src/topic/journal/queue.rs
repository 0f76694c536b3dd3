//! The queue before the committer: what appends wait in while the last block is being written. Bounded in bytes.

use std::mem::{self, size_of};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::topic::{Record, TopicError};

/// One call's records, waiting to be written.
pub(super) struct Append {
    pub records: Vec<Record>,
    pub reply: oneshot::Sender<Answer>,
}

/// What became of one call's records, in their order: first `appended` ones, then `unknown` ones, the rest not
/// appended.
pub(super) struct Answer {
    /// Offset of the first record.
    pub base: u64,
    pub appended: usize,
    pub unknown: usize,
    /// Why not all were appended.
    pub error: Option<TopicError>,
}

/// Counts the bytes of records until they are settled, waiting or being written.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    bytes_max: usize,
}

struct State {
    waiting: Vec<Append>,
    bytes: usize,
    closing: bool,
    refusal: Option<TopicError>,
}

/// The records that found room, from the front of the call's, and where their answer will come.
pub(super) struct Pushed {
    pub admitted: usize,
    pub answer: oneshot::Receiver<Answer>,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Queue {
        let state = State {
            waiting: Vec::new(),
            bytes: 0,
            closing: false,
            refusal: None,
        };
        Queue {
            state: Mutex::new(state),
            filled: Condvar::new(),
            bytes_max,
        }
    }

    /// Takes as many of the records as there is room for. Never waits.
    pub fn push(&self, mut records: Vec<Record>) -> Result<Pushed, TopicError> {
        let mut bytes: usize = records.iter().map(cost).sum();
        let (reply, answer) = oneshot::channel();
        let mut state = self.state.lock();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let room = self.bytes_max.saturating_sub(state.bytes);
        if bytes > room {
            records.truncate(fitting(&records, room));
            bytes = records.iter().map(cost).sum();
        }
        let admitted = records.len();
        if admitted > 0 {
            state.bytes += bytes;
            state.waiting.push(Append { records, reply });
            drop(state);
            self.filled.notify_one();
        }
        Ok(Pushed { admitted, answer })
    }

    /// Waits for appends; `None` when the queue is closed and empty.
    pub fn take(&self) -> Option<Vec<Append>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.closing {
            self.filled.wait(&mut state);
        }
        let appends = mem::take(&mut state.waiting);
        (!appends.is_empty()).then_some(appends)
    }

    /// Gives room back for records that are settled.
    pub fn release(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Refuses further appends; the committer ends after those that wait.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.refusal.get_or_insert(TopicError::Closed);
        drop(state);
        self.filled.notify_one();
    }

    /// Refuses further appends for good, and those that wait.
    pub fn fail(&self, error: &TopicError) {
        let mut state = self.state.lock();
        state.refusal = Some(error.clone());
        let waiting = mem::take(&mut state.waiting);
        state.bytes = 0;
        drop(state);
        for append in waiting {
            append.reply.send(Answer::refused(error.clone())).ok();
        }
    }

    /// The error of [`Queue::fail`].
    pub fn failure(&self) -> Option<TopicError> {
        let refusal = self.state.lock().refusal.clone();
        refusal.filter(|error| matches!(error, TopicError::Failed(_)))
    }

    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

impl Answer {
    /// Nothing of it was appended.
    pub fn refused(error: TopicError) -> Answer {
        Answer {
            base: 0,
            appended: 0,
            unknown: 0,
            error: Some(error),
        }
    }
}

/// Memory that a record in a queue or ring stands for.
pub(super) fn cost(record: &Record) -> usize {
    record.size() + size_of::<Record>()
}

fn fitting(records: &[Record], room: usize) -> usize {
    let mut left = room;
    let fits = |record: &&Record| match left.checked_sub(cost(record)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    records.iter().take_while(fits).count()
}
