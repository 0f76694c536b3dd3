//! One client: its Engine.IO session, whichever transport carries it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::chat::id::UserId;
use crate::hub::acks::Acks;
use crate::hub::outbox::{Outbox, Overflow};
use crate::hub::proof::Proof;
use crate::protocol::connection::{CloseReason, Connection};
use crate::protocol::engineio::{Revision, Sid};
use crate::protocol::frame::Frame;
use crate::protocol::{jsonp, msgpack};
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
    /// Of a session that may be recovered.
    pub(super) proof: Mutex<Option<Box<Proof>>>,
    /// When the client last showed that it is there, in milliseconds of the hub's clock.
    heard_ms: AtomicU64,
    closed: OnceLock<CloseReason>,
    /// The client's packets are MessagePack.
    is_msgpack: AtomicBool,
    rates: Mutex<Rates>,
}

/// What a client's first request fixes for its whole session.
#[derive(Debug)]
pub struct Handshake {
    pub revision: Revision,
    pub polling: PollingForm,
    /// What the application may read of the request's query: all but Engine.IO's own keys.
    pub query: Box<str>,
}

/// How a client wants its polling answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct PollingForm {
    /// It cannot read binary answers. Of revision 3 only: in revision 4 nobody can.
    pub base64: bool,
    pub jsonp: Option<jsonp::Index>,
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
            proof: Mutex::new(None),
            heard_ms: AtomicU64::new(0),
            closed: OnceLock::new(),
            is_msgpack: AtomicBool::new(false),
            rates: Mutex::new(Rates::default()),
        }
    }

    /// Notes the answer to a ping, or anything from a client that is not pinged.
    pub fn heard(&self, now: Duration) {
        self.heard_ms.fetch_max(millis(now), Ordering::Relaxed);
    }

    /// Whether a ping that went out at `since` has been answered.
    pub(super) fn has_answered(&self, since: Duration) -> bool {
        self.heard_ms.load(Ordering::Relaxed) >= millis(since)
    }

    /// When the client last showed that it is there.
    pub(super) fn last_heard(&self) -> Duration {
        Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    /// The client has shown that its packets are MessagePack, and so are ours to it.
    pub fn speak_msgpack(&self) {
        self.is_msgpack.store(true, Ordering::Relaxed);
    }

    pub fn speaks_msgpack(&self) -> bool {
        self.is_msgpack.load(Ordering::Relaxed)
    }

    /// Queues packets, each a text with its attachments behind it. `Err`: the session is to be closed.
    pub(super) fn push(&self, frames: impl IntoIterator<Item = Frame>) -> Result<(), CloseReason> {
        let slow = |Overflow| CloseReason::Slow;
        if !self.speaks_msgpack() {
            return self.outbox.push_all(frames).map_err(slow);
        }
        let frames = self.msgpack(frames).ok_or(CloseReason::TooLarge)?;
        self.outbox.push_all(frames).map_err(slow)
    }

    /// Queues a packet that may be lost; false when it is.
    pub(super) fn push_volatile(&self, frame: Frame) -> bool {
        let frame = match self.speaks_msgpack() {
            false => Some(frame),
            true => self.msgpack([frame]).and_then(|mut frames| frames.pop()),
        };
        frame.is_some_and(|frame| self.outbox.push_volatile(frame))
    }

    /// Packets as the client reads them; `None` when one is too large or too deep.
    fn msgpack(&self, frames: impl IntoIterator<Item = Frame>) -> Option<Vec<Frame>> {
        let mut frames = frames.into_iter().peekable();
        let mut packets = Vec::new();
        while let Some(head) = frames.next() {
            let attachments = std::iter::from_fn(|| frames.next_if(Frame::is_binary));
            let attachments: Vec<Bytes> = attachments
                .map(|frame| Bytes::copy_from_slice(frame.packet()))
                .collect();
            let packet = msgpack::write::frame(&head, &attachments, self.outbox.bytes_max());
            packets.push(packet.ok()?);
        }
        Some(packets)
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
    pub fn allow_message(&self, now: impl FnOnce() -> Duration, per_second: u32) -> bool {
        per_second == 0 || self.rates.lock().messages.allow(now(), per_second)
    }

    /// Takes a typing indicator from the rate of this socket.
    pub fn allow_typing(&self, now: impl FnOnce() -> Duration, per_second: u32) -> bool {
        per_second == 0 || self.rates.lock().typing.allow(now(), per_second)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
