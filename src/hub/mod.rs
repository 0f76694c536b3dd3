//! Who is here: sessions, the rooms they are in, and their heartbeats.

pub mod acks;
pub mod heartbeat;
pub mod ledger;
mod limits;
pub mod outbox;
pub mod proof;
pub mod recovery;
pub mod replay;
pub mod rooms;
pub mod session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

pub use limits::HubLimits;

use crate::chat::id::UserId;
use crate::hub::acks::{AckError, OnAck};
use crate::hub::heartbeat::{Due, Heartbeat, Planned};
use crate::hub::outbox::FRAME_OVERHEAD;
use crate::hub::proof::Proof;
use crate::hub::recovery::{Lost, Recovery};
use crate::hub::rooms::{Rooms, TooManyRooms};
use crate::hub::session::{Handshake, Link, Session};
use crate::metrics::Metrics;
use crate::protocol::connection::CloseReason;
use crate::protocol::engineio::Sid;
use crate::protocol::event;
use crate::protocol::frame::Frame;
use crate::protocol::recovery::Claim;
use crate::protocol::socketio::Payload;

/// Longest sleep of the heartbeat.
const SWEEP_MAX: Duration = Duration::from_millis(500);

// === Hub ===

/// All sessions of this process.
pub struct Hub {
    sessions: DashMap<Sid, Arc<Session>, RandomState>,
    rooms: Rooms,
    heartbeat: Heartbeat,
    /// Wakes the heartbeat for a deadline that is earlier than those it knew.
    earlier: Notify,
    limits: HubLimits,
    /// None: a broken connection is the end of its session.
    recovery: Option<Recovery>,
    started: Instant,
    metrics: Arc<Metrics>,
}

impl Hub {
    pub fn new(limits: HubLimits, recovery: Option<Recovery>, metrics: Arc<Metrics>) -> Self {
        let HubLimits {
            ping_interval,
            ping_timeout,
            connect_timeout,
            ..
        } = limits;
        Self {
            sessions: DashMap::default(),
            rooms: Rooms::default(),
            heartbeat: Heartbeat::new(ping_interval, ping_timeout, connect_timeout),
            earlier: Notify::new(),
            limits,
            recovery,
            started: Instant::now(),
            metrics,
        }
    }

    /// Bytes of a client's packet with its attachments.
    pub fn payload_bytes_max(&self) -> usize {
        self.limits.payload_bytes_max
    }

    /// The hub's clock: time since it was made.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Begins a session. `sid` is fresh and random.
    pub fn open(&self, sid: Sid, link: Link, handshake: Handshake) -> Arc<Session> {
        let HubLimits {
            outbox_bytes_max,
            payload_bytes_max,
            ..
        } = self.limits;
        let (revision, now) = (handshake.revision, self.now());
        let session = Session::new(sid, link, handshake, outbox_bytes_max, payload_bytes_max);
        let session = Arc::new(session);
        session.heard(now);
        self.sessions.insert(sid, session.clone());
        if self.heartbeat.begin(sid, revision, now) {
            self.earlier.notify_one();
        }
        match link {
            Link::Polling { .. } => self.metrics.polling_sessions.inc(),
            Link::WebSocket => self.metrics.websockets.inc(),
        };
        session
    }

    /// Whether no more sessions should begin that hold no connection.
    pub fn is_full(&self) -> bool {
        self.sessions.len() >= self.limits.sessions_max
    }

    /// The session of that id, unless it is unknown or has missed its heartbeat.
    pub fn get(&self, sid: Sid) -> Option<Arc<Session>> {
        self.sweep_if_due();
        self.sessions.get(&sid).map(|session| session.clone())
    }

    /// Moves a session from polling to websocket; false when it is not on polling any more.
    pub fn upgrade(&self, session: &Session) -> bool {
        let mut link = session.link.lock();
        if *link == Link::WebSocket || session.closed().is_some() {
            return false;
        }
        *link = Link::WebSocket;
        self.metrics.polling_sessions.dec();
        self.metrics.websockets.inc();
        self.metrics.upgrades.inc();
        true
    }

    /// Ends a session: out of its rooms, nothing more queued to it. What waits is still sent when the end is orderly.
    pub fn close(&self, session: &Arc<Session>, reason: CloseReason) {
        if !session.close(reason) {
            return;
        }
        let rooms = self.rooms.leave_all(session);
        if let Some(recovery) = &self.recovery {
            recovery.ended(session, reason, rooms, self.now());
        }
        self.metrics.rooms.set(self.rooms.len() as i64);
        self.metrics.closed(reason.name());
        // A polling client that has to be told waits in the map for its next poll, or for its heartbeat's end.
        let told_later = reason.is_orderly() && *session.link.lock() != Link::WebSocket;
        if !told_later {
            self.forget(session);
        }
        if reason.is_orderly() {
            session.outbox.close()
        } else {
            session.outbox.abort()
        }
        self.give_up_acks(session, None);
    }

    /// Removes a closed session from the map of ids.
    pub fn forget(&self, session: &Arc<Session>) {
        if self.sessions.remove(&session.sid).is_some() {
            match *session.link.lock() {
                Link::Polling { .. } => self.metrics.polling_sessions.dec(),
                Link::WebSocket => self.metrics.websockets.dec(),
            };
        }
    }

    /// Adds the socket to a user's room.
    pub fn join(&self, session: &Arc<Session>, room: UserId) -> Result<(), TooManyRooms> {
        let rooms_max = self.limits.rooms_per_socket_max;
        let is_new = self.rooms.join(session, room.clone(), rooms_max)?;
        if let Some(recovery) = self.recovery.as_ref().filter(|_| is_new) {
            recovery.joined(session, &room);
        }
        self.metrics.rooms.set(self.rooms.len() as i64);
        Ok(())
    }

    /// Takes the socket out of all rooms: it has left the namespace.
    pub fn leave_all(&self, session: &Arc<Session>) {
        self.rooms.leave_all(session);
        self.metrics.rooms.set(self.rooms.len() as i64);
        if let Some(recovery) = &self.recovery {
            recovery.forget(session);
        }
    }

    /// Queues a frame to a socket; one that is over its bound is closed.
    pub fn send(&self, session: &Arc<Session>, frame: Frame) {
        self.send_all(session, [frame]);
    }

    /// As [`Hub::send`], for packets with their attachments behind them, and none of another between them.
    pub fn send_all(&self, session: &Arc<Session>, frames: impl IntoIterator<Item = Frame>) {
        if let Err(reason) = session.push(frames) {
            self.close(session, reason);
        }
    }

    /// Queues one frame to every socket in these rooms, once each. `frame` is made when there is anyone to get it.
    pub fn broadcast(&self, rooms: &[&str], frame: impl FnOnce() -> Frame) {
        let mut make = Some(frame);
        let mut made = None;
        let mut slow: Vec<(Arc<Session>, CloseReason)> = Vec::new();
        let mut pushed = 0;
        self.rooms.for_each(rooms, |session| {
            if let Some(make) = make.take() {
                made = Some(make());
            }
            let Some(frame) = &made else { return };
            pushed += 1;
            if let Err(reason) = session.push([frame.clone()]) {
                slow.push((session.clone(), reason));
            }
        });
        self.metrics.pushes.inc_by(pushed);
        // Leaving the rooms takes the locks that `for_each` held.
        for (session, reason) in slow {
            self.close(&session, reason);
        }
    }

    /// Queues a frame that may be lost to every socket in the room but `from`, whose it is.
    pub fn broadcast_volatile(
        &self,
        room: &str,
        from: Option<&Arc<Session>>,
        frame: impl FnOnce() -> Frame,
    ) {
        let mut make = Some(frame);
        let mut made = None;
        let (mut relayed, mut dropped) = (0, 0);
        self.rooms.for_each(&[room], |session| {
            if from.is_some_and(|from| Arc::ptr_eq(session, from)) {
                return;
            }
            if let Some(make) = make.take() {
                made = Some(make());
            }
            let Some(frame) = &made else { return };
            match session.push_volatile(frame.clone()) {
                true => relayed += 1,
                false => dropped += 1,
            }
        });
        self.metrics.typing_relayed.inc_by(relayed);
        self.metrics.typing_dropped.inc_by(dropped);
    }

    // --- recovery ---

    /// What sessions are recovered from; `None` when none are.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// Gives a client that has just connected the session it claims: `reply` to its CONNECT, with the socket's id, then
    /// what it has missed, then what is shown from now on. The connection that the session was on is closed first.
    pub fn resume(
        &self,
        session: &Arc<Session>,
        claim: &Claim,
        reply: impl FnOnce(Sid) -> Frame,
    ) -> Result<(), Lost> {
        let resumed = self.try_resume(session, claim, reply);
        if let (Some(recovery), Err(lost)) = (&self.recovery, resumed)
            && lost != Lost::Unknown
        {
            recovery.gone(claim.pid);
        }
        let outcome = resumed.map_or_else(Lost::name, |()| "recovered");
        self.metrics.recovery(outcome);
        resumed
    }

    fn try_resume(
        &self,
        session: &Arc<Session>,
        claim: &Claim,
        reply: impl FnOnce(Sid) -> Frame,
    ) -> Result<(), Lost> {
        let recovery = self.recovery.as_ref().ok_or(Lost::Unknown)?;
        let replaced = recovery.connection(claim.pid).and_then(|sid| self.get(sid));
        if let Some(replaced) = replaced {
            self.close(&replaced, CloseReason::Replaced);
        }
        let (left, mut read) = recovery.take(claim, self.now())?;
        // Until the client is in its rooms nothing is shown: it gets each message either here or live.
        let shown = recovery.shown();
        let bytes_max = self.limits.outbox_bytes_max / 2;
        let missed = shown.missed(&left.rooms, &read, FRAME_OVERHEAD, bytes_max)?;
        let joined = session.connection.lock().join("/", left.id);
        joined.map_err(|_| Lost::Unknown)?;
        for room in left.rooms {
            let joined = self.rooms.join(session, room, usize::MAX);
            debug_assert!(joined.is_ok(), "there is no bound");
        }
        let mut frames = vec![reply(left.id)];
        frames.extend(missed.into_iter().map(|missed| {
            read.pass(missed.position.partition, missed.position.offset);
            event::new_message_at(&missed.message, &read)
        }));
        self.metrics
            .recovery_replayed
            .inc_by(frames.len() as u64 - 1);
        recovery.connected(session, Proof::new(claim.pid, left.id, left.since));
        self.send_all(session, frames);
        self.metrics.rooms.set(self.rooms.len() as i64);
        Ok(())
    }

    /// The client has sent a message that it is owed an answer to.
    pub fn asked(&self, session: &Session) {
        if let Some(recovery) = &self.recovery {
            recovery.asked(session);
        }
    }

    /// The answer has been queued.
    pub fn answered(&self, session: &Session) {
        if let Some(recovery) = &self.recovery {
            recovery.answered(session);
        }
    }

    /// Notes a pong, or a ping of a client that sends the pings.
    pub fn heard(&self, session: &Session) {
        session.heard(self.now());
        if let Some(recovery) = &self.recovery {
            recovery.heard(session);
        }
    }

    // --- acknowledgements that clients owe ---

    /// Expects an acknowledgement of the client's socket in `namespace`: `send` is told the id to ask with. Then
    /// `on_ack` hears once: of the answer, that it did not come `within` this time, or that the client has gone. With
    /// [`acks::ACKS_MAX`] expected already nothing is sent.
    pub fn ask(
        &self,
        session: &Arc<Session>,
        namespace: &str,
        within: Duration,
        on_ack: OnAck,
        send: impl FnOnce(u64),
    ) {
        let deadline = self.now() + within;
        let mut acks = session.acks.lock();
        // Under the lock, so that a close has either been seen here or will clear this one.
        let (refused, error) = if session.closed().is_some() {
            (on_ack, AckError::Disconnected)
        } else {
            let due = acks.get_or_insert_default();
            match due.add(namespace, deadline, on_ack) {
                Ok(id) => {
                    let plan = due.plan();
                    drop(acks);
                    self.plan(plan, session.sid, Planned::Acks);
                    self.metrics.acks_asked.inc();
                    return send(id);
                }
                Err(on_ack) => (on_ack, AckError::TooMany),
            }
        };
        drop(acks);
        refused(Err(error));
    }

    /// A client's acknowledgement. One that nobody waits for is dropped: it may be late.
    pub fn acknowledge(&self, session: &Session, namespace: &str, id: &str, answer: Payload<'_>) {
        let mut acks = session.acks.lock();
        let on_ack = acks.as_mut().and_then(|acks| acks.take(namespace, id));
        drop(acks);
        match on_ack {
            Some(on_ack) => on_ack(Ok(answer)),
            None => drop(self.metrics.acks_ignored.inc()),
        }
    }

    /// Nothing more will come from the client's socket in this namespace, or from the client at all.
    pub fn give_up_acks(&self, session: &Session, namespace: Option<&str>) {
        let mut acks = session.acks.lock();
        let given_up = acks.as_mut().map(|acks| acks.clear(namespace));
        drop(acks);
        for on_ack in given_up.into_iter().flatten() {
            on_ack(Err(AckError::Disconnected));
        }
    }

    fn expire_acks(&self, session: &Session, now: Duration) {
        let mut acks = session.acks.lock();
        let Some(due) = acks.as_mut() else { return };
        let (expired, plan) = (due.expired(now), due.plan());
        drop(acks);
        self.plan(plan, session.sid, Planned::Acks);
        self.metrics.acks_expired.inc_by(expired.len() as u64);
        for on_ack in expired {
            on_ack(Err(AckError::Timeout));
        }
    }

    // --- heartbeat ---

    /// Every session there is.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions
            .iter()
            .map(|entry| entry.value().clone())
            .collect()
    }

    /// Sends pings and closes who is late, for as long as it is polled.
    pub async fn beat(&self) {
        loop {
            let next = self.sweep();
            let wait = next.map_or(SWEEP_MAX, |at| at.saturating_sub(self.now()).min(SWEEP_MAX));
            let wait = tokio::time::sleep(wait.max(Duration::from_millis(1)));
            tokio::select! {
                () = wait => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Deadlines hold to the millisecond for a client that asks, even when the sweeping task is late.
    fn sweep_if_due(&self) {
        if self.heartbeat.is_due(self.now()) {
            self.sweep();
        }
    }

    fn sweep(&self) -> Option<Duration> {
        let now = self.now();
        self.heartbeat.sweep(now, |sid, due| {
            let Some(session) = self.sessions.get(&sid).map(|session| session.clone()) else {
                return false;
            };
            match due {
                Due::Ping => self.ping(&session, now),
                Due::Pong(sent) if !session.has_answered(sent) => {
                    self.close(&session, CloseReason::PingTimeout);
                    self.forget(&session);
                }
                Due::Connect if !session.connection.lock().has_connected() => {
                    self.close(&session, CloseReason::ConnectTimeout);
                }
                Due::Planned(Planned::Silence) => self.silence(&session, now),
                Due::Planned(Planned::Acks) => self.expire_acks(&session, now),
                Due::Pong(_) | Due::Connect => {}
            }
            true
        })
    }

    /// A client that sends the pings itself has sent nothing for a while, or has it?
    fn silence(&self, session: &Arc<Session>, now: Duration) {
        let until = session.last_heard() + self.heartbeat.silence_max();
        if until <= now {
            self.close(session, CloseReason::PingTimeout);
            self.forget(session);
        } else if session.connection.lock().is_overdue(now) {
            self.close(session, CloseReason::ParseError);
        } else {
            self.plan(Some(until), session.sid, Planned::Silence);
        }
    }

    fn plan(&self, at: Option<Duration>, sid: Sid, what: Planned) {
        if at.is_some_and(|at| self.heartbeat.plan(at, sid, what)) {
            self.earlier.notify_one();
        }
    }

    fn ping(&self, session: &Arc<Session>, now: Duration) {
        if session.connection.lock().is_overdue(now) {
            self.close(session, CloseReason::ParseError);
        } else {
            if let Some(recovery) = &self.recovery {
                recovery.pinged(session);
            }
            self.send(session, Frame::ping());
        }
    }
}

#[cfg(test)]
mod tests;
