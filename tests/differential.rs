//! Our WebSocket frame reader beside another one, that of the crate `fastwebsockets`: what both take must be the same,
//! and ours must never take what the other refuses. Ours is the stricter one: it wants masks, and bounds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "support/mod.rs"]
mod support;

use chat_svc::protocol::websocket::{Decoder, Event, Step};
use fastwebsockets::{FragmentCollector, OpCode, Role, WebSocket};
use proptest::prelude::*;
use support::websocket::Frame;

/// Far above what is generated here.
const BYTES_MAX: usize = 1 << 20;

/// A message or control frame as a reader hands it over.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// What was read, and whether it ended because a rule was broken.
#[derive(Debug)]
struct Read {
    seen: Vec<Seen>,
    is_refused: bool,
}

fn ours(mut input: Vec<u8>) -> Read {
    let (mut decoder, mut at, mut seen) = (Decoder::new(), 0, Vec::new());
    let is_refused = loop {
        match decoder.decode(&mut input[at..], BYTES_MAX) {
            Ok(Step::Incomplete { .. }) => break false,
            Ok(Step::Done { consumed, event }) => {
                at += consumed;
                match event {
                    None => {}
                    Some(Event::Text(text)) => seen.push(Seen::Text(text.into())),
                    Some(Event::Binary(data)) => seen.push(Seen::Binary(data.to_vec())),
                    Some(Event::Ping(data)) => seen.push(Seen::Ping(data.to_vec())),
                    Some(Event::Pong) => seen.push(Seen::Pong),
                    Some(Event::Close(_)) => {
                        seen.push(Seen::Close);
                        break false;
                    }
                }
            }
            Err(_) => break true,
        }
    };
    Read { seen, is_refused }
}

async fn theirs(input: &[u8]) -> Read {
    let stream = tokio::io::join(input, tokio::io::sink());
    let mut websocket = WebSocket::after_handshake(stream, Role::Server);
    websocket.set_auto_close(false);
    websocket.set_auto_pong(false);
    websocket.set_max_message_size(BYTES_MAX);
    let mut frames = FragmentCollector::new(websocket);
    let mut seen = Vec::new();
    let is_refused = loop {
        use fastwebsockets::WebSocketError::{ConnectionClosed, IoError, UnexpectedEOF};
        match frames.read_frame().await {
            Ok(frame) => {
                let payload = frame.payload.to_vec();
                seen.push(match frame.opcode {
                    OpCode::Text => Seen::Text(payload),
                    OpCode::Binary => Seen::Binary(payload),
                    OpCode::Ping => Seen::Ping(payload),
                    OpCode::Pong => Seen::Pong,
                    OpCode::Close => Seen::Close,
                    OpCode::Continuation => panic!("a fragment that was not put together"),
                });
                if frame.opcode == OpCode::Close {
                    break false;
                }
            }
            Err(UnexpectedEOF | ConnectionClosed | IoError(_)) => break false,
            Err(_) => break true,
        }
    };
    Read { seen, is_refused }
}

fn both(input: &[u8]) -> (Read, Read) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    (ours(input.to_vec()), runtime.block_on(theirs(input)))
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::encode).collect()
}

/// Payloads of every form of the length, text more often than not.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![
        8 => 0..20usize,
        2 => 120..132usize,
        1 => Just(65_535usize),
        1 => Just(65_536usize),
    ];
    let text = "\\PC{0,12}".prop_map(String::into_bytes);
    let bytes = (lengths, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    prop_oneof![text, bytes]
}

/// Messages in fragments with control frames between them, as a client may send them.
fn well_formed() -> impl Strategy<Value = Vec<Frame>> {
    let control = (prop_oneof![Just(9u8), Just(10)], 0..=125usize, any::<u8>());
    let between = proptest::option::of(control);
    let fragment = ("\\PC{0,12}", between);
    let message = (
        prop_oneof![Just(1u8), Just(2)],
        prop::collection::vec(fragment, 1..4),
    );
    prop::collection::vec(message, 0..5).prop_map(|messages| {
        let mut frames = Vec::new();
        for (opcode, fragments) in messages {
            let last = fragments.len() - 1;
            for (n, (text, control)) in fragments.into_iter().enumerate() {
                frames.push(Frame {
                    fin: n == last,
                    ..Frame::new(if n == 0 { opcode } else { 0 }, text)
                });
                if let Some((opcode, length, byte)) = control {
                    frames.push(Frame::new(opcode, vec![byte; length]));
                }
            }
        }
        frames
    })
}

/// Frames of any opcode, ended or not, now and then with a reserved bit.
fn any_frames() -> impl Strategy<Value = Vec<Frame>> {
    let opcode = prop_oneof![
        12 => prop::sample::select(vec![0u8, 1, 2, 8, 9, 10]),
        1 => 3..8u8,
        1 => 11..16u8,
    ];
    let rsv = prop_oneof![15 => Just(0u8), 1 => prop::sample::select(vec![0x10u8, 0x20, 0x40])];
    let frame = (opcode, any::<bool>(), rsv, payload());
    let frame = frame.prop_map(|(opcode, fin, rsv, payload)| Frame {
        fin,
        rsv,
        ..Frame::new(opcode, payload)
    });
    prop::collection::vec(frame, 0..6)
}

proptest! {
    #[test]
    fn what_is_well_formed_is_read_the_same(frames in well_formed()) {
        let (ours, theirs) = both(&encoded(&frames));
        prop_assert!(!ours.is_refused && !theirs.is_refused);
        prop_assert_eq!(ours.seen, theirs.seen);
    }

    #[test]
    fn of_any_frames_ours_takes_nothing_that_the_other_refuses(frames in any_frames()) {
        let (ours, theirs) = both(&encoded(&frames));
        prop_assert!(theirs.seen.starts_with(&ours.seen), "{:?} {:?}", ours, theirs);
        prop_assert!(ours.is_refused || !theirs.is_refused, "{:?} {:?}", ours, theirs);
        if !ours.is_refused {
            prop_assert_eq!(ours.seen, theirs.seen);
        }
    }
}
