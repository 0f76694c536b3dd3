//! One client: its Engine.IO session, whichever transport carries it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::chat::id::UserId;
use crate::hub::outbox::Outbox;
use crate::protocol::connection::{CloseReason, Connection};
use crate::protocol::engineio::Sid;
use crate::throttle::Throttle;

/// A client's session. Lives as long as its transports, or until it times out.
pub struct Session {
    /// The Engine.IO session id: a secret.
    pub sid: Sid,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// What the client's packets mean.
    pub connection: Mutex<Connection>,
    /// Which transport carries the session.
    pub link: Mutex<Link>,
    pub(super) rooms: Mutex<Vec<UserId>>,
    /// When the last answer to a ping came, in milliseconds of the hub's clock.
    pong_ms: AtomicU64,
    closed: OnceLock<CloseReason>,
    rates: Mutex<Rates>,
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
        outbox_bytes_max: usize,
        payload_bytes_max: usize,
    ) -> Self {
        Self {
            sid,
            outbox: Outbox::new(outbox_bytes_max),
            connection: Mutex::new(Connection::new(payload_bytes_max)),
            link: Mutex::new(link),
            rooms: Mutex::new(Vec::new()),
            pong_ms: AtomicU64::new(0),
            closed: OnceLock::new(),
            rates: Mutex::new(Rates::default()),
        }
    }

    /// Notes an answer to a ping.
    pub fn pong(&self, now: Duration) {
        self.pong_ms.fetch_max(millis(now), Ordering::Relaxed);
    }

    /// Whether a ping that went out at `since` has been answered.
    pub(super) fn has_answered(&self, since: Duration) -> bool {
        self.pong_ms.load(Ordering::Relaxed) >= millis(since)
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
