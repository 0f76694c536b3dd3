//! One client: its Engine.IO session, whichever transport carries it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::chat::id::UserId;
use crate::hub::acks::Acks;
use crate::hub::outbox::Outbox;
use crate::protocol::connection::{CloseReason, Connection};
use crate::protocol::engineio::Sid;
use crate::protocol::incoming::Revision;
use crate::throttle::Throttle;

/// A client's session. Lives as long as its transports, or until it times out.
pub struct Session {
    /// The Engine.IO session id: a secret.
    pub sid: Sid,
    pub handshake: Handshake,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// What the client's packets mean.
    pub connection: Mutex<Connection>,
    /// Which transport carries the session.
    pub link: Mutex<Link>,
    pub(super) rooms: Mutex<Vec<UserId>>,
    /// Most clients are never asked for an acknowledgement.
    pub(super) acks: Mutex<Option<Box<Acks>>>,
    /// When the client last took part in the heartbeat, in milliseconds of the hub's clock.
    heard_ms: AtomicU64,
    closed: OnceLock<CloseReason>,
    rates: Mutex<Rates>,
}

/// What a client's first request fixes for its whole session.
#[derive(Debug)]
pub struct Handshake {
    pub revision: Revision,
    /// What the application may read of the request's query: all but Engine.IO's own keys.
    pub query: Box<str>,
}

/// Which transport carries a session, and what is under way on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Long polling; at most one GET and one POST at a time.
    Polling {
        get: bool,
        post: bool,
        probing: bool,
    },
    WebSocket,
}

/// Rate limits of one socket.
#[derive(Debug, Default)]
struct Rates {
    messages: Throttle,
    typing: Throttle,
}

impl Session {
    pub(super) fn new(
        sid: Sid,
        link: Link,
        handshake: Handshake,
        outbox_bytes_max: usize,
        payload_bytes_max: usize,
    ) -> Self {
        Self {
            sid,
            handshake,
            outbox: Outbox::new(outbox_bytes_max),
            connection: Mutex::new(Connection::new(payload_bytes_max)),
            link: Mutex::new(link),
            rooms: Mutex::new(Vec::new()),
            acks: Mutex::new(None),
            heard_ms: AtomicU64::new(0),
            closed: OnceLock::new(),
            rates: Mutex::new(Rates::default()),
        }
    }

    /// Notes a ping, or the answer to one: whichever the client's revision sends.
    pub fn heard(&self, now: Duration) {
        self.heard_ms.fetch_max(millis(now), Ordering::Relaxed);
    }

    /// Whether a ping that went out at `since` has been answered.
    pub(super) fn has_answered(&self, since: Duration) -> bool {
        self.heard_ms.load(Ordering::Relaxed) >= millis(since)
    }

    /// When the client last took part in the heartbeat.
    pub(super) fn last_heard(&self) -> Duration {
        Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    /// Why the session was closed, once it is.
    pub fn closed(&self) -> Option<CloseReason> {
        self.closed.get().copied()
    }

    /// Marks it closed; false when it was already.
    pub(super) fn close(&self, reason: CloseReason) -> bool {
        self.closed.set(reason).is_ok()
    }

    /// Takes a message from the rate of this socket.
    pub fn allow_message(&self, now: Duration, per_second: u32) -> bool {
        per_second == 0 || self.rates.lock().messages.allow(now, per_second)
    }

    /// Takes a typing indicator from the rate of this socket.
    pub fn allow_typing(&self, now: Duration, per_second: u32) -> bool {
        per_second == 0 || self.rates.lock().typing.allow(now, per_second)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
