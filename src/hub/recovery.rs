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
use crate::hub::ledger::{Ledger, Line, Saved, Text};
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
    /// None: a restart is the end of all sessions. Written to under the lock of what it is about.
    ledger: Option<Ledger>,
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
    /// By the clock of [`Recovery::clock`].
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
            ledger: None,
            metrics,
        }
    }

    /// Takes over the sessions of the process before, and notes those of this one for the next.
    pub fn restore(mut self, ledger: Ledger, saved: HashMap<Sid, Saved>) -> Self {
        let RecoveryLimits {
            window,
            sessions_bytes_max,
            ..
        } = self.limits;
        let mut saved: Vec<_> = saved
            .into_iter()
            .map(|(pid, saved)| (window.saturating_sub(saved.since_left()), pid, saved))
            .collect();
        saved.sort_unstable_by_key(|(at, ..)| *at);
        let sessions = self.sessions.get_mut();
        for (at, pid, saved) in saved {
            let told = saved.told_at().map_or(Told::Everything, Told::IfReadBeyond);
            let left = Left {
                id: saved.id,
                rooms: saved.rooms,
                since: saved.since,
                told,
                at,
            };
            sessions.keep(pid, left);
        }
        for pid in sessions.shed(Duration::ZERO, sessions_bytes_max) {
            ledger.note(&Line::Gone(Text(pid)));
        }
        let bytes = sessions.bytes;
        self.metrics.recovery_sessions_bytes.set(bytes as i64);
        self.ledger = Some(ledger);
        self
    }

    /// Writes what is known of sessions anew when many changes have been noted. Blocks.
    pub fn tidy(&self) {
        if let Some(ledger) = &self.ledger
            && let Err(error) = ledger.tidy()
        {
            tracing::warn!(%error, "the sessions to be recovered cannot be written anew");
        }
    }

    fn note(&self, line: &Line<'_>) {
        if let Some(ledger) = &self.ledger {
            ledger.note(line);
        }
    }

    /// The hub's time, moved so that sessions of the process before have ended after its beginning.
    fn clock(&self, now: Duration) -> Duration {
        now + self.limits.window
    }

    // --- what is shown ---

    /// Takes a message in the log's order and lets `show` queue it, with the place behind it. Nobody comes back
    /// meanwhile.
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
        self.metrics.recovery_messages.set(shown.count() as i64);
        self.metrics
            .recovery_messages_bytes
            .set(shown.bytes() as i64);
        show(shown.until());
    }

    /// What was shown; while it is held, nothing more is.
    pub fn shown(&self) -> MutexGuard<'_, Replay> {
        self.shown.lock()
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
        let mut sessions = self.sessions.lock();
        sessions.by_pid.insert(pid, Known::Here(session.sid));
        self.note(&Line::Here {
            pid: Text(pid),
            id: Text(proof.id),
            since: Text(proof.since.clone()),
        });
        drop(sessions);
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
        let (told, at) = (proof.told(), self.clock(now));
        let mut sessions = self.sessions.lock();
        sessions.by_pid.remove(&proof.pid);
        let told_at = match told {
            Told::Everything => Some(None),
            Told::IfReadBeyond(progress) => Some(Some(progress)),
            Told::NotAll => None,
        };
        if let Some(told_at) = told_at.filter(|_| reason.is_recoverable()) {
            if let Some(ledger) = &self.ledger {
                ledger.left(proof.pid, told_at);
            }
            let left = Left {
                id: proof.id,
                rooms,
                since: proof.since,
                told,
                at,
            };
            sessions.keep(proof.pid, left);
            let since = at.saturating_sub(self.limits.window);
            for pid in sessions.shed(since, self.limits.sessions_bytes_max) {
                self.metrics.recovery_sessions_dropped.inc();
                self.note(&Line::Gone(Text(pid)));
            }
        } else {
            self.note(&Line::Gone(Text(proof.pid)));
        }
        self.count(&sessions);
    }

    /// The client has left: its session is over for good.
    pub fn forget(&self, session: &Session) {
        if let Some(proof) = session.proof.lock().take() {
            self.gone(proof.pid);
        }
    }

    /// There is no session of that name any more.
    pub fn gone(&self, pid: Sid) {
        let mut sessions = self.sessions.lock();
        sessions.by_pid.remove(&pid);
        self.note(&Line::Gone(Text(pid)));
    }

    /// The client has joined a room.
    pub fn joined(&self, session: &Session, room: &UserId) {
        if let Some(proof) = &*session.proof.lock() {
            self.note(&Line::Join {
                pid: Text(proof.pid),
                room: room.as_str().into(),
            });
        }
    }

    // --- what a client is owed ---

    /// The client has sent a message.
    pub fn asked(&self, session: &Session) {
        if let Some(proof) = &mut *session.proof.lock()
            && proof.asked()
        {
            self.note(&Line::Owed(Text(proof.pid)));
        }
    }

    /// An answer has been queued to it.
    pub fn answered(&self, session: &Session) {
        let progress = self.progress.load(Ordering::SeqCst);
        if let Some(proof) = &mut *session.proof.lock() {
            proof.answered(progress);
        }
    }

    /// A ping is about to be queued to it.
    pub fn pinged(&self, session: &Session) {
        if let Some(proof) = &mut *session.proof.lock() {
            proof.pinged();
        }
    }

    /// It has answered the last ping.
    pub fn heard(&self, session: &Session) {
        if let Some(proof) = &mut *session.proof.lock()
            && proof.heard()
        {
            self.note(&Line::Told(Text(proof.pid)));
        }
    }

    // --- coming back ---

    /// Takes the session that a client claims, for good, with the place from which on it has read nothing. Its
    /// connection has to have ended.
    pub fn take(&self, claim: &Claim, now: Duration) -> Result<(Left, Offset), Lost> {
        let mut sessions = self.sessions.lock();
        let left = sessions.take(claim.pid).ok_or(Lost::Unknown)?;
        self.count(&sessions);
        drop(sessions);
        if self.clock(now).saturating_sub(left.at) > self.limits.window {
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

    /// Drops those that were left before `since`, and the oldest while there is too much of them: which for that.
    fn shed(&mut self, since: Duration, bytes_max: usize) -> Vec<Sid> {
        let mut dropped = Vec::new();
        while let Some((pid, at)) = self.left.front().copied() {
            let is_over = self.bytes > bytes_max;
            // Entries of those that came back count too, so that the queue is bounded as well.
            if at >= since && !is_over && self.left.len() <= bytes_max / SESSION_OVERHEAD {
                break;
            }
            self.left.pop_front();
            let is_this = matches!(self.by_pid.get(&pid), Some(Known::Left(left)) if left.at == at);
            if is_this && self.take(pid).is_some() && at >= since {
                dropped.push(pid);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::id::{ConversationId, MessageId, Seq};

    #[test]
    fn nobody_comes_back_between_a_messages_place_and_its_showing() {
        let bounds = Bounds {
            partition: 0,
            committed: 0,
            end: 0,
        };
        let limits = RecoveryLimits {
            window: Duration::from_secs(1),
            messages_bytes_max: 1000,
            sessions_bytes_max: 1000,
        };
        let recovery = Recovery::new(1, &[bounds], limits, Arc::new(Metrics::new(&[])));
        let message = Message {
            id: MessageId([7; 12]),
            conversation: ConversationId::new(Bytes::from_static(b"c")).unwrap(),
            seq: Seq(0),
            is_spam: false,
            body: Bytes::from_static(b"{"),
        };
        let position = Position {
            partition: 0,
            offset: 4,
        };
        let mut place = None;
        recovery.show(position, &["a"], &message, |offset| {
            assert!(recovery.shown.try_lock().is_none());
            assert_eq!(recovery.progress.load(Ordering::SeqCst), 5);
            place = Some(offset.to_string());
        });
        assert_eq!(place.as_deref(), Some("1-1-5"));
        assert!(recovery.shown.try_lock().is_some());
    }
}
