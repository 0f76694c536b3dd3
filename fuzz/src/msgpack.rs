//! A packet in MessagePack; or, if it starts with a digit, the text of one, which is written in MessagePack first.
//!
//! Reading ends and keeps to its bounds; what was read is JSON, and comes back the same when it is written again.

use bytes::Bytes;
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::msgpack::read::{Decoded, decode};
use chat_svc::protocol::msgpack::write::{encode, frame};
use chat_svc::protocol::msgpack::{MsgpackError, is_packet};
use chat_svc::protocol::socketio::{self, ATTACHMENTS_MAX, Kind, Packet};
use serde_json::Value;
use serde_json::value::RawValue;

pub fn run(data: &[u8]) {
    if data.first().is_some_and(u8::is_ascii_digit) {
        return from_text(data);
    }
    let decoded = decode(data, BYTES_MAX);
    assert!(decoded.is_err() || is_packet(data));
    let Ok(decoded) = decoded else {
        return;
    };
    in_bounds(&decoded);
    let packet = decoded.packet();
    let mut out = Vec::new();
    let written = encode(&mut out, &packet, &decoded.attachments, BYTES_MAX);
    assert!(out.len() <= BYTES_MAX + 2 * BYTES_SMALL);
    let placeholders = packet
        .data
        .map_or(0, |data| data.matches("_placeholder").count());
    match written {
        Ok(()) => {
            // More of them than attachments: the client wrote some itself.
            if placeholders == decoded.attachments.len() {
                assert_eq!(decode(&out, BYTES_MAX).as_ref(), Ok(&decoded));
            }
        }
        Err(error) => assert_eq!(error, MsgpackError::TooLarge),
    }
}

fn in_bounds(decoded: &Decoded) {
    let packet = decoded.packet();
    assert!(packet.namespace.starts_with('/') && !packet.namespace.contains(','));
    assert!(packet.id.is_none_or(|id| id.parse::<u64>().is_ok()));
    let is_binary = matches!(packet.kind, Kind::BinaryEvent | Kind::BinaryAck);
    assert_eq!(is_binary, !decoded.attachments.is_empty());
    assert!(decoded.attachments.len() <= ATTACHMENTS_MAX);
    let attached: usize = decoded.attachments.iter().map(Bytes::len).sum();
    let data = packet.data.unwrap_or_default();
    assert!(data.len() + attached <= BYTES_MAX);
    assert!(data.is_empty() || serde_json::from_str::<&RawValue>(data).is_ok());
    assert!(!is_binary || socketio::check_placeholders(data, decoded.attachments.len()).is_ok());
    if packet.kind == Kind::Event && socketio::event(data).is_ok() {
        assert!(data.starts_with('['));
    }
}

fn from_text(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let Ok(packet) = socketio::parse(text) else {
        return;
    };
    let attachments = vec![Bytes::from_static(b"attached"); packet.attachments];
    let mut out = Vec::new();
    if encode(&mut out, &packet, &attachments, BYTES_MAX).is_err() {
        return;
    }
    let with_type = Frame::text_from(&[b"4", data].concat());
    let framed = frame(&with_type, &attachments, BYTES_MAX).expect("it could be encoded");
    assert!(framed.is_binary() && framed.packet() == out);
    match decode(&out, BYTES_MAX) {
        Ok(decoded) => comes_back(&packet, &decoded),
        // One attachment may be named many times, and it grows when it is JSON again.
        Err(MsgpackError::Attachments | MsgpackError::TooLarge) => {}
        Err(error) => panic!("what is written cannot be read: {error}"),
    }
}

fn comes_back(packet: &Packet<'_>, decoded: &Decoded) {
    let again = decoded.packet();
    assert_eq!(again.namespace, packet.namespace);
    let number = |id: &str| id.parse::<u64>().expect("it was written");
    assert_eq!(again.id.map(number), packet.id.map(number));
    assert_eq!(again.data.is_some(), packet.data.is_some());
    let [before, after] =
        [packet, &again].map(|packet| packet.data.map(serde_json::from_str::<Value>));
    // A parser that builds values knows no lone surrogates and no giant numbers.
    if let (Some(Ok(before)), Some(Ok(after)), 0) = (before, after, packet.attachments) {
        assert!(same(&before, &after), "{before} {after}");
    }
}

/// Equal but for the last bits of what is no integer.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (Value::Number(a), Value::Number(b)) if a != b => {
            let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else {
                return false;
            };
            (a - b).abs() <= a.abs() * 1e-15
        }
        _ => a == b,
    }
}

const BYTES_MAX: usize = 60_000;
/// More than any single value of the inputs takes, which may be written before it is found too much.
const BYTES_SMALL: usize = 16_384;
