//! Our codecs against recorded answers of the reference ones: `tests/vectors/record.mjs` says which and how.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chat_svc::protocol::engineio::{PacketType, Polled};
use chat_svc::protocol::engineio_v3::{self, Framing};
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::msgpack::{self, read::decode};
use chat_svc::protocol::{jsonp, socketio, socketio_v4};
use serde_json::{Value, json};

const BYTES_MAX: usize = 1_000_000;

#[test]
fn payloads_of_revision_3_are_written_as_the_reference_does() {
    for case in cases("/engineio3/written") {
        let frames: Vec<Frame> = list(&case["packets"]).iter().map(frame).collect();
        let framing = Framing::of_frames(&frames, case["supportsBinary"] == true);
        assert_eq!(
            framing == Framing::Binary,
            case["isBinary"] == true,
            "{case}"
        );
        let mut body = Vec::new();
        engineio_v3::write_payload(&mut body, &frames, framing);
        assert_eq!(STANDARD.encode(&body), text(&case["body"]), "{case}");
        assert_eq!(read(&mut body, framing), *list(&case["packets"]), "{case}");
    }
}

#[test]
fn payloads_of_revision_3_are_read_as_the_reference_does() {
    for case in cases("/engineio3/read") {
        let framing = if case["isBinary"] == true {
            Framing::Binary
        } else {
            Framing::Text
        };
        let mut body = bytes(&case["body"]);
        assert_eq!(read(&mut body, framing), *list(&case["packets"]), "{case}");
    }
}

#[test]
fn websocket_messages_of_revision_3_are_those_of_the_reference() {
    for case in cases("/engineio3/websocket") {
        let sent =
            engineio_v3::websocket_frame(&frame(&case["packet"]), case["supportsBinary"] == true);
        assert_eq!(sent.is_binary(), case["isBinary"] == true, "{case}");
        assert_eq!(sent.packet(), bytes(&case["message"]), "{case}");
        let binary = match (&case["packet"]["binary"], sent.packet()) {
            (Value::String(_), message) if sent.is_binary() => {
                engineio_v3::websocket_binary(message).map(<[u8]>::to_vec)
            }
            (Value::String(_), message) => engineio_v3::decode_binary(&message[1..]),
            _ => continue,
        };
        assert_eq!(binary.unwrap(), bytes(&case["packet"]["binary"]));
    }
}

#[test]
fn scripts_and_forms_of_jsonp_are_those_of_the_reference() {
    for case in cases("/jsonp/answers") {
        let mut script = Vec::new();
        let index = jsonp::Index::parse(text(&case["j"])).unwrap();
        jsonp::write_answer(&mut script, index, text(&case["payload"]));
        assert_eq!(str::from_utf8(&script).unwrap(), text(&case["script"]));
    }
    for case in cases("/jsonp/forms") {
        let payload = jsonp::payload(text(&case["form"]).as_bytes()).ok();
        let payload = payload.map(|payload| String::from_utf8(payload).unwrap());
        assert_eq!(payload.as_deref(), case["payload"].as_str(), "{case}");
    }
}

#[test]
fn joins_and_refusals_of_socket_io_4_are_those_of_the_reference() {
    for case in cases("/socketio4") {
        let mut out = Vec::new();
        let namespace = text(&case["nsp"]);
        match &case["data"] {
            Value::Null => socketio_v4::write_connect(&mut out, namespace),
            Value::String(message) => {
                socketio_v4::write_error(&mut out, namespace, message, None);
            }
            data => {
                let data = data.to_string();
                socketio_v4::write_error(&mut out, namespace, "", Some(&data));
            }
        }
        let encoded = format!("4{}", text(&case["encoded"]));
        assert_eq!(str::from_utf8(&out).unwrap(), encoded);
    }
}

#[test]
fn a_packet_in_messagepack_is_read_as_its_json_form() {
    for case in cases("/msgpack/packets") {
        let message = bytes(&case["msgpack"]);
        assert!(msgpack::is_packet(&message));
        let decoded = decode(&message, BYTES_MAX).unwrap();
        let expected = socketio::parse(text(&case["json"])).unwrap();
        assert_eq!(decoded.packet(), expected);
        assert_eq!(decoded.attachments, attachments(&case));
    }
}

#[test]
fn what_we_write_in_messagepack_is_what_the_reference_read() {
    for case in cases("/msgpack/ours") {
        let frame = Frame::text_from(format!("4{}", text(&case["json"])).as_bytes());
        let sent = msgpack::write::frame(&frame, &attachments(&case), BYTES_MAX).unwrap();
        let json = &case["json"];
        assert_eq!(
            STANDARD.encode(sent.packet()),
            text(&case["msgpack"]),
            "{json}"
        );
        assert_eq!(case["read"]["json"], case["json"]);
        assert_eq!(case["read"]["attachments"], case["attachments"]);
    }
}

/// A body's packets as the recorder writes them, `error` in the end if it cannot be read on.
fn read(body: &mut [u8], framing: Framing) -> Vec<Value> {
    let mut seen = Vec::new();
    for packet in engineio_v3::packets(body, framing) {
        seen.push(match packet {
            Ok(Polled::Binary(bytes)) => json!({ "binary": STANDARD.encode(bytes) }),
            // A type that there is not ends the connection, but later than in the reference.
            Ok(Polled::Text(text)) if PacketType::from_digit(text[0]).is_none() => json!("error"),
            Ok(Polled::Text(text)) => json!({ "text": str::from_utf8(text).unwrap() }),
            Err(_) => json!("error"),
        });
    }
    seen
}

fn frame(packet: &Value) -> Frame {
    match &packet["text"] {
        Value::String(packet) => Frame::text_from(packet.as_bytes()),
        _ => Frame::binary(&bytes(&packet["binary"])),
    }
}

fn attachments(case: &Value) -> Vec<Bytes> {
    let all = list(&case["attachments"]).iter();
    all.map(|attachment| Bytes::from(bytes(attachment)))
        .collect()
}

fn cases(pointer: &str) -> Vec<Value> {
    let recorded: Value = serde_json::from_str(include_str!("vectors/recorded.json")).unwrap();
    let cases = list(recorded.pointer(pointer).unwrap()).clone();
    assert!(!cases.is_empty());
    cases
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(text(value)).unwrap()
}
