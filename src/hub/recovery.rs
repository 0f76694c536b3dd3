//! Sessions that a client may take up again after its connection broke, and whether nothing of them was lost.
//!
//! A session is given back whole or not at all: same id, same rooms, and every message missed, once, in order. Whatever
//! cannot be proven ends in a fresh session, never in an error.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::chat::id::UserId;
use crate::chat::message::Message;
use crate::hub::proof::{Proof, Told};
use crate::hub::replay::{Replay, Untold};
use crate::hub::session::Session;
use crate::metrics::Metrics;
use crate::protocol::connection::CloseReason;
use crate::protocol::engineio::Sid;
use crate::protocol::recovery::{Claim, Offset, Read};
use crate::topic::{Bounds, Position};

/// What a session that was left costs beside its rooms' names.
pub const SESSION_OVERHEAD: usize = 256;

/// What each of its rooms costs beside its name.
const ROOM_OVERHEAD: usize = 32;

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryLimits {
    /// How long after its connection ended a session may be taken up again.
    pub window: Duration,
    /// Bytes of messages kept to be replayed.
    pub messages_bytes_max: usize,
    /// Bytes of sessions kept whose connections have ended; the oldest go first.
    pub sessions_bytes_max: usize,
}

// === Recovery ===

/// All sessions that may be recovered, and what was shown since.
///
/// Locks in this order: what was shown, the rooms, the sessions, a session's proof.
pub struct Recovery {
    limits: RecoveryLimits,
    shown: Mutex<Replay>,
    /// Of what was shown: moved before anybody is shown it.
    progress: AtomicU64,
    sessions: Mutex<Sessions>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Sessions {
    by_pid: HashMap<Sid, Known>,
    /// Those whose connections have ended, in that order; some have come back or gone.
    left: VecDeque<(Sid, Duration)>,
    bytes: usize,
}

enum Known {
    /// Connected, by this Engine.IO session.
    Here(Sid),
    Left(Left),
}

/// A session whose connection has ended.
#[derive(Debug)]
pub struct Left {
    /// The socket's public id.
    pub id: Sid,
    pub rooms: Vec<UserId>,
    /// What had been shown when it began.
    pub since: Offset,
    told: Told,
    at: Duration,
}

/// Why a client gets a fresh session instead of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No such session, or no longer, or its client had left.
    Unknown,
    /// A message of the client was not answered, or perhaps not heard to be.
    Unanswered,
    /// What the client says it has read cannot be.
    Offset,
    /// Some of what it has missed is not kept any more.
    Gone,
    /// It has missed too much for one connection.
    TooMuch,
}

impl Lost {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Unanswered => "unanswered",
            Self::Offset => "offset",
            Self::Gone => "gone",
            Self::TooMuch => "too_much",
        }
    }
}

impl From<Untold> for Lost {
    fn from(untold: Untold) -> Self {
        match untold {
            Untold::Foreign => Self::Offset,
            Untold::Gone => Self::Gone,
            Untold::TooMuch => Self::TooMuch,
        }
    }
}

impl Recovery {
    /// `bounds`: the log's partitions at start; see [`Replay::new`].
    pub fn new(
        epoch: u32,
        bounds: &[Bounds],
        limits: RecoveryLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let shown = Replay::new(epoch, bounds, limits.messages_bytes_max);
        Self {
            limits,
            progress: AtomicU64::new(shown.until().progress()),
            shown: Mutex::new(shown),
            sessions: Mutex::default(),
            metrics,
        }
    }

    // --- what is shown ---

    /// Takes a message in the log's order and lets `show` queue it, with the place behind it. Nobody comes back meanwhile.
    pub fn show(
        &self,
        position: Position,
        rooms: &[&str],
        message: &Message,
        show: impl FnOnce(&Offset),
    ) {
        let mut shown = self.shown.lock();
        shown.push(position, rooms, message);
        self.progress
            .store(shown.until().progress(), Ordering::SeqCst);
        self.metrics.recovery_messages.set(shown.len() as i64);
        self.metrics
            .recovery_messages_bytes
            .set(shown.bytes() as i64);
        show(shown.until());
    }

    /// What was shown; while it is held, nothing more is.
    pub fn shown(&self) -> MutexGuard<'_, Replay> {
        self.shown.lock()
    }

    /// Rises with every message shown.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::SeqCst)
    }

    // --- sessions ---

    /// Begins a session that may be recovered.
    pub fn begin(&self, session: &Session, pid: Sid, id: Sid) {
        let since = self.shown.lock().until().clone();
        self.connected(session, Proof::new(pid, id, since));
    }

    /// Notes which connection a session is on now.
    pub fn connected(&self, session: &Session, proof: Proof) {
        let pid = proof.pid;
        self.sessions
            .lock()
            .by_pid
            .insert(pid, Known::Here(session.sid));
        *session.proof.lock() = Some(Box::new(proof));
        // Closed meanwhile, it may have been too early for the proof to be seen.
        if session.closed().is_some() {
            self.forget(session);
        }
    }

    /// The connection that a session is on.
    pub fn connection(&self, pid: Sid) -> Option<Sid> {
        match self.sessions.lock().by_pid.get(&pid) {
            Some(Known::Here(sid)) => Some(*sid),
            Some(Known::Left(_)) | None => None,
        }
    }

    /// A session's connection has ended, with the client in `rooms`.
    pub fn ended(&self, session: &Session, reason: CloseReason, rooms: Vec<UserId>, now: Duration) {
        let Some(proof) = session.proof.lock().take() else {
            return;
        };
        let told = proof.told();
        let mut sessions = self.sessions.lock();
        sessions.by_pid.remove(&proof.pid);
        if reason.is_recoverable() && told != Told::NotAll {
            let left = Left {
                id: proof.id,
                rooms,
                since: proof.since,
                told,
                at: now,
            };
            sessions.keep(proof.pid, left);
            let dropped = sessions.shed(
                now.saturating_sub(self.limits.window),
                self.limits.sessions_bytes_max,
            );
            self.metrics.recovery_sessions_dropped.inc_by(dropped);
        }
        self.count(&sessions);
    }

    /// The client has left: its session is over for good.
    pub fn forget(&self, session: &Session) {
        if let Some(proof) = session.proof.lock().take() {
            self.sessions.lock().by_pid.remove(&proof.pid);
        }
    }

    /// Takes the session that a client claims, for good, with the place from which on it has read nothing. Its connection
    /// has to have ended.
    pub fn take(&self, claim: &Claim, now: Duration) -> Result<(Left, Offset), Lost> {
        let mut sessions = self.sessions.lock();
        let left = sessions.take(claim.pid).ok_or(Lost::Unknown)?;
        self.count(&sessions);
        drop(sessions);
        if now.saturating_sub(left.at) > self.limits.window {
            return Err(Lost::Unknown);
        }
        let mut read = left.since.clone();
        let read_until = match &claim.read {
            Read::Nothing => 0,
            Read::Unreadable => return Err(Lost::Offset),
            Read::Until(offset) if offset.epoch != read.epoch => return Err(Lost::Offset),
            Read::Until(offset) => {
                if offset.next.len() != read.next.len() {
                    return Err(Lost::Offset);
                }
                // A client keeps the offset of its session before this one until it gets a message.
                read.join(offset);
                offset.progress()
            }
        };
        match left.told {
            Told::Everything => Ok((left, read)),
            Told::IfReadBeyond(progress) if read_until > progress => Ok((left, read)),
            Told::IfReadBeyond(_) | Told::NotAll => Err(Lost::Unanswered),
        }
    }

    fn count(&self, sessions: &Sessions) {
        self.metrics
            .recovery_sessions_bytes
            .set(sessions.bytes as i64);
    }
}

impl Sessions {
    fn keep(&mut self, pid: Sid, left: Left) {
        self.bytes += cost(&left);
        self.left.push_back((pid, left.at));
        self.by_pid.insert(pid, Known::Left(left));
    }

    fn take(&mut self, pid: Sid) -> Option<Left> {
        if !matches!(self.by_pid.get(&pid), Some(Known::Left(_))) {
            return None;
        }
        match self.by_pid.remove(&pid) {
            Some(Known::Left(left)) => {
                self.bytes -= cost(&left);
                Some(left)
            }
            _ => None,
        }
    }

    /// Drops those that were left before `since`, and the oldest while there is too much of them: how many for that.
    fn shed(&mut self, since: Duration, bytes_max: usize) -> u64 {
        let mut dropped = 0;
        while let Some((pid, at)) = self.left.front().copied() {
            let is_over = self.bytes > bytes_max;
            // Entries of those that came back count too, so that the queue is bounded as well.
            if at >= since && !is_over && self.left.len() <= bytes_max / SESSION_OVERHEAD {
                break;
            }
            self.left.pop_front();
            let is_this = matches!(self.by_pid.get(&pid), Some(Known::Left(left)) if left.at == at);
            if is_this && self.take(pid).is_some() && at >= since {
                dropped += 1;
            }
        }
        dropped
    }
}

fn cost(left: &Left) -> usize {
    let rooms = left
        .rooms
        .iter()
        .map(|room| room.as_str().len() + ROOM_OVERHEAD);
    rooms.sum::<usize>() + SESSION_OVERHEAD
}
