//! What the benches share: the server's allocator, messages at every step of their way, and sessions without sockets.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use chat_svc::chat::draft::Draft;
use chat_svc::chat::id::{MessageIdMaker, Seq};
use chat_svc::chat::message::{Message, Sealed};
use chat_svc::chat::rejection::Rejection;
use chat_svc::hub::outbox::{Outbox, Taken};
use chat_svc::hub::session::{Handshake, Link, PollingForm, Session};
use chat_svc::hub::{Hub, HubLimits};
use chat_svc::metrics::Metrics;
use chat_svc::protocol::engineio::{Revision, SID_BYTES, Sid};
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::websocket::{Opcode, head};
use chat_svc::topic::Record;
use tokio::runtime::Runtime;

/// The server's: with another one the figures would be of another server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A client's packet, as the server's limits have it.
pub const PAYLOAD_BYTES_MAX: usize = 1_000_000;

/// 2026-11-23T12:00:00Z.
pub const UNIX_MS: u64 = 1_795_435_200_000;

// === Messages ===

/// The argument of a `chatMessage` as a client writes it.
pub fn draft_json(text: &str, client_message_id: Option<&str>) -> String {
    let ids = r#""conversation_id":"c-4711","sender_id":"user-0815","receiver_id":"user-4712""#;
    let named = client_message_id.map(|id| format!(r#","client_message_id":"{id}""#));
    let named = named.unwrap_or_default();
    format!(r#"{{{ids},"text_content":"{text}"{named}}}"#)
}

/// A `chatMessage` as a packet; a third of its letters is not ASCII.
pub fn chat_message(text_bytes: usize) -> String {
    let json = draft_json(&umlauts(text_bytes), Some("0190b3f2-7c1e"));
    format!(r#"42["chatMessage",{json}]"#)
}

pub fn umlauts(bytes: usize) -> String {
    "grüße ".repeat(bytes / 8)
}

/// A client's websocket frame, masked.
pub fn client_frame(payload: &[u8]) -> Vec<u8> {
    let (head, head_len) = head(Opcode::Text, payload.len());
    let mut frame = head[..head_len].to_vec();
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// Makes messages of which no two are equal, in 64 conversations, with 120 bytes of text that compresses as chats do.
pub struct Writer {
    ids: MessageIdMaker,
    written: u64,
    random: u64,
}

impl Writer {
    pub fn new() -> Self {
        let seed = getrandom::u64().expect("random");
        Self {
            ids: MessageIdMaker::new(seed.to_le_bytes()),
            written: 0,
            random: seed | 1,
        }
    }

    pub fn sealed(&mut self) -> Sealed {
        let text = self.text(120);
        let (n, receiver) = (self.written % 64, self.written % 1_000);
        let json = format!(
            r#"{{"conversation_id":"c-{n}","sender_id":"user-{n}","receiver_id":"user-{receiver}","text_content":"{text}"}}"#
        );
        self.written += 1;
        let draft = Draft::parse(&json).expect("a draft");
        draft.seal(self.ids.fresh(UNIX_MS / 1000), UNIX_MS)
    }

    pub fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut message = || {
            let seq = Seq::new(1, self.written);
            self.sealed().at(seq)
        };
        (0..count).map(|_| message()).collect()
    }

    /// As a lane hands them to the log.
    pub fn records(&mut self, count: usize) -> Vec<Record> {
        (0..count).map(|_| self.sealed().into()).collect()
    }

    fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            // xorshift64
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            text.push_str(WORDS[self.random as usize % WORDS.len()]);
            text.push(' ');
        }
        text.truncate(bytes);
        text
    }
}

// === Hub ===

/// A hub with the server's defaults, but for outboxes that hold all that a bench leaves in them.
pub fn hub(outbox_bytes_max: usize) -> Arc<Hub> {
    let limits = HubLimits {
        outbox_bytes_max,
        ..HubLimits::default()
    };
    Arc::new(Hub::new(
        limits,
        None,
        Arc::new(Metrics::new(&Rejection::CODES)),
    ))
}

/// A session on a websocket that is not there, connected to `/`.
pub fn session(hub: &Hub) -> Arc<Session> {
    let mut bytes = [0; SID_BYTES];
    getrandom::fill(&mut bytes).expect("random");
    let handshake = Handshake {
        revision: Revision::V4,
        polling: PollingForm::default(),
        query: "".into(),
    };
    let session = hub.open(Sid::new(bytes), Link::WebSocket, handshake);
    let joined = session.connection.lock().join("/", session.sid);
    joined.expect("nobody was there before");
    session
}

/// Takes all that waits, as a connection's task does; how many frames it was.
pub fn take_all(outbox: &Outbox, mut take: impl FnMut(&Frame)) -> usize {
    let mut count = 0;
    let cx = &mut Context::from_waker(Waker::noop());
    let taken = outbox.poll_take(cx, |frame| {
        take(frame);
        count += 1;
        true
    });
    assert!(matches!(taken, Poll::Pending | Poll::Ready(Taken::Frames)));
    count
}

// === Surroundings ===

/// As the server has it: a thread a core.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A folder where the build is: on a disk, which a system's temporary folder need not be.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// The server that an environment variable names. Without it the bench named here is left out, and that is said; with
/// `CHAT_SVC_REQUIRE_SERVICES=1` it is a failure.
pub fn service(variable: &str, bench: &str) -> Option<String> {
    let server = std::env::var(variable).ok();
    if server.is_none() {
        let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
        assert!(
            !required,
            "{variable} is not set, and services are required"
        );
        eprintln!("skipped: {bench} ({variable} is not set)");
    }
    server
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const WORDS: [&str; 32] = [
    "the", "we", "and", "tomorrow", "at", "station", "you", "coffee", "see", "is", "it", "train",
    "late", "again", "sorry", "from", "office", "with", "Anna", "meeting", "half", "past", "nine",
    "please", "bring", "keys", "of", "car", "thanks", "until", "then", "weekend",
];
