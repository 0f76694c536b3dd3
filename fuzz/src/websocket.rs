//! Frames of a client. The first byte chooses the limit on a message and the sizes of the chunks in which the bytes
//! arrive; the rest is the connection's bytes.
//!
//! Decoding goes on or ends, gives the same however the bytes are cut, keeps to the limits, and what it accepts can be
//! written and read again.

use chat_svc::protocol::websocket::{Decoder, Event, Opcode, Step, Violation, write_frame};

const MESSAGE_BYTES_MAX: [usize; 4] = [1000, 0, 126, 70_000];

pub fn run(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let max = MESSAGE_BYTES_MAX[usize::from(choice & 3)];
    let whole = decode(bytes, max, None);
    assert_eq!(whole, decode(bytes, max, Some(choice)), "chunks change it");
    whole.events.iter().for_each(|event| event.check(max));
    let written: Vec<u8> = whole.events.iter().flat_map(Seen::write).collect();
    let again = decode(&written, max, None);
    assert_eq!((again.events, again.end), (whole.events, End::Incomplete));
}

/// All that one connection's bytes came to.
#[derive(Debug, PartialEq)]
struct Decoded {
    events: Vec<Seen>,
    end: End,
    is_mid_message: bool,
}

#[derive(Debug, PartialEq)]
enum End {
    Incomplete,
    Violation(Violation),
}

#[derive(Debug, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// Feeds the bytes at once, or in chunks that `seed` decides, as a connection's buffer does.
fn decode(bytes: &[u8], max: usize, seed: Option<u8>) -> Decoded {
    let (mut decoder, mut buffer, mut arrived) = (Decoder::new(), Vec::new(), 0);
    let mut random = seed.map(|seed| u32::from(seed) | 1);
    let mut events = Vec::new();
    let end = loop {
        let chunk = random.as_mut().map_or(bytes.len(), |random| {
            *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            1 + (*random >> 24) as usize % 23
        });
        let until = bytes.len().min(arrived + chunk);
        buffer.extend_from_slice(&bytes[arrived..until]);
        arrived = until;
        match drain(&mut decoder, &mut buffer, max, &mut events) {
            Err(violation) => break End::Violation(violation),
            Ok(()) if arrived == bytes.len() => break End::Incomplete,
            Ok(()) => {}
        }
    };
    Decoded {
        events,
        end,
        is_mid_message: decoder.is_mid_message(),
    }
}

/// Takes steps until more bytes are needed, and drops what is done.
fn drain(
    decoder: &mut Decoder,
    buffer: &mut Vec<u8>,
    max: usize,
    events: &mut Vec<Seen>,
) -> Result<(), Violation> {
    let mut start = 0;
    loop {
        let left = buffer.len() - start;
        match decoder.decode(&mut buffer[start..], max)? {
            Step::Incomplete { needed } => {
                assert!(needed > left, "it has what it needs");
                buffer.drain(..start);
                return Ok(());
            }
            Step::Done { consumed, event } => {
                assert!((1..=left).contains(&consumed), "no progress");
                events.extend(event.map(Seen::from));
                start += consumed;
            }
        }
    }
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.into()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong => Self::Pong,
            Event::Close(code) => Self::Close(code),
        }
    }
}

impl Seen {
    fn check(&self, max: usize) {
        match self {
            Self::Text(text) => {
                assert!(std::str::from_utf8(text).is_ok() && text.len() <= max);
            }
            Self::Binary(bytes) => assert!(bytes.len() <= max),
            Self::Ping(payload) => assert!(payload.len() <= 125),
            Self::Pong => {}
            Self::Close(code) => {
                assert!(code.is_none_or(|code| (1000..5000).contains(&code)));
                assert!(!matches!(code, Some(1004..=1006 | 1015..=2999)));
            }
        }
    }

    /// A client's frame with the mask 0.
    fn write(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        match self {
            Self::Text(text) => write_frame(&mut frame, Opcode::Text, text),
            Self::Binary(bytes) => write_frame(&mut frame, Opcode::Binary, bytes),
            Self::Ping(payload) => write_frame(&mut frame, Opcode::Ping, payload),
            Self::Pong => write_frame(&mut frame, Opcode::Pong, &[]),
            Self::Close(None) => write_frame(&mut frame, Opcode::Close, &[]),
            Self::Close(Some(code)) => {
                write_frame(&mut frame, Opcode::Close, &code.to_be_bytes());
            }
        }
        let head = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        frame[1] |= 0x80;
        frame.splice(head..head, [0; 4]);
        frame
    }
}
