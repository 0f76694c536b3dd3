//! The text of a Socket.IO packet.
//!
//! Reading ends; what is read keeps to its bounds, agrees with a plain JSON parser wherever that can follow, and comes
//! back the same when it is written again.

use bytes::Bytes;
use chat_svc::protocol::socketio::{
    self, ACK_ID_DIGITS_MAX, ARGS_MAX, ATTACHMENTS_MAX, Kind, Packet, ParseError, Payload,
};
use serde_json::Value;
use serde_json::value::RawValue;

pub fn run(data: &[u8]) {
    let Some(text) = str::from_utf8(data).ok() else {
        return;
    };
    data_alone(text);
    let Ok(packet) = socketio::parse(text) else {
        return;
    };
    in_bounds(&packet, text);
    packet.data.into_iter().for_each(data_alone);
    match packet.kind {
        Kind::Event | Kind::BinaryEvent => event(&packet),
        Kind::Ack | Kind::BinaryAck => ack(&packet),
        Kind::Connect => {
            let auth = packet.data.map(socketio::auth);
            if let Some(Ok(auth)) = auth {
                assert!(auth.starts_with('{') && auth.ends_with('}') && is_json(auth));
            }
        }
        Kind::Disconnect => {
            let mut out = Vec::new();
            socketio::write_disconnect(&mut out, packet.namespace);
            comes_back(&out, &Packet { id: None, ..packet });
        }
        Kind::ConnectError => connect_error(&packet),
    }
}

fn in_bounds(packet: &Packet<'_>, text: &str) {
    assert!(packet.namespace.starts_with('/') && !packet.namespace.contains(','));
    let is_id = |id: &str| {
        (1..=ACK_ID_DIGITS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit())
    };
    assert!(packet.id.is_none_or(is_id));
    let is_binary = matches!(packet.kind, Kind::BinaryEvent | Kind::BinaryAck);
    assert_eq!(is_binary, packet.attachments > 0);
    assert!(packet.attachments <= ATTACHMENTS_MAX);
    assert!(
        packet
            .data
            .is_none_or(|data| !data.is_empty() && text.ends_with(data))
    );
}

fn event(packet: &Packet<'_>) {
    let mut out = Vec::new();
    let Some(Ok(event)) = packet.data.map(socketio::event) else {
        return;
    };
    let id = packet.id.and_then(|id| id.parse::<u64>().ok());
    let attachments = vec![Bytes::new(); packet.attachments];
    let payload = Payload {
        args: &event.args,
        attachments: &attachments,
    };
    socketio::write_event(&mut out, packet.namespace, id, &event.name, payload);
    let id = id.map(|id| id.to_string());
    let expected = Packet {
        id: id.as_deref(),
        ..*packet
    };
    let data = comes_back(&out, &expected).expect("an event has data");
    assert_eq!(socketio::event(data), Ok(event));
}

fn ack(packet: &Packet<'_>) {
    let mut out = Vec::new();
    let (Some(Ok(args)), Some(id)) = (packet.data.map(socketio::ack_args), packet.id) else {
        return;
    };
    let attachments = vec![Bytes::new(); packet.attachments];
    let payload = Payload {
        args: &args,
        attachments: &attachments,
    };
    socketio::write_ack(&mut out, packet.namespace, id, payload);
    let data = comes_back(&out, packet).expect("an ack has data");
    assert_eq!(socketio::ack_args(data), Ok(args));
}

fn connect_error(packet: &Packet<'_>) {
    let data = packet.data.unwrap_or_default();
    let mut out = Vec::new();
    let raw = is_json(data).then_some(data);
    socketio::write_connect_error(&mut out, packet.namespace, data, raw);
    let written = comes_back(
        &out,
        &Packet {
            id: None,
            ..*packet
        },
    );
    assert!(written.is_some_and(is_json));
}

/// Reads what was written; all but the data has to be as expected. Returns the data.
fn comes_back<'a>(written: &'a [u8], expected: &Packet<'_>) -> Option<&'a str> {
    let text = str::from_utf8(written).expect("what is written is text");
    let text = text.strip_prefix('4').expect("it is a message");
    let packet = socketio::parse(text).expect("what is written can be read");
    assert_eq!(
        Packet {
            data: None,
            ..packet
        },
        Packet {
            data: None,
            ..*expected
        }
    );
    packet.data
}

/// Data as such, compared with a parser that builds values: it knows no lone surrogates, no giant numbers and no depth,
/// so what it refuses says nothing.
fn data_alone(data: &str) {
    let event = socketio::event(data);
    let args = socketio::ack_args(data);
    let placeholders = socketio::check_placeholders(data, 3);
    if let Ok(args) = &args {
        assert!(args.len() <= ARGS_MAX + 1 && args.iter().all(|arg| is_json(arg)));
    }
    assert_eq!(placeholders == Err(ParseError::Data), !is_json(data));
    let Ok(value) = serde_json::from_str::<Value>(data) else {
        return;
    };
    assert_eq!(placeholders.is_ok(), are_in_range(&value, 3));
    let Some(elements) = value
        .as_array()
        .filter(|elements| elements.len() <= ARGS_MAX)
    else {
        return;
    };
    let args = args.expect("an array of values is one of arguments");
    let parse = |arg: &&str| serde_json::from_str::<Value>(arg).expect("an argument is JSON");
    assert!(args.iter().map(parse).eq(elements.iter().cloned()));
    match (&event, elements.first()) {
        (Ok(event), Some(Value::String(name))) => assert_eq!(&event.name, name),
        (Ok(event), Some(Value::Number(_))) => assert_eq!(event.name, args[0]),
        (Err(ParseError::ReservedName), Some(Value::String(_))) => {}
        (Err(ParseError::EventName), first) => {
            assert!(!first.is_some_and(|first| first.is_string() || first.is_number()));
        }
        other => unreachable!("{other:?}"),
    }
    if let Ok(event) = &event {
        assert_eq!(event.args[..], args[1..]);
    }
}

/// What [`socketio::check_placeholders`] promises, the plain way.
fn are_in_range(value: &Value, attachments: u64) -> bool {
    match value {
        Value::Array(elements) => elements
            .iter()
            .all(|element| are_in_range(element, attachments)),
        Value::Object(members) => {
            let is_placeholder = members.get("_placeholder") == Some(&Value::Bool(true));
            let num = members.get("num").and_then(Value::as_u64);
            let is_in_range = num.is_some_and(|num| num < attachments);
            (!is_placeholder || is_in_range)
                && members
                    .values()
                    .all(|member| are_in_range(member, attachments))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
