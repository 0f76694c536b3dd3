//! From JSON and attachments to MessagePack.

use bytes::Bytes;
use rmp::Marker;
use rmp::encode;
use serde::de::{Deserializer, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{DEPTH_MAX, MsgpackError};
use crate::json;
use crate::protocol::frame::Frame;
use crate::protocol::socketio::{self, Kind, Object, Packet, ParseError};

/// The frame as a client with this parser has to get it: a Socket.IO packet in JSON becomes a binary
/// message that holds its attachments as well; what is not a message stays what it is.
///
/// # Errors
/// Those of [`encode()`].
pub fn frame(
    frame: &Frame,
    attachments: &[Bytes],
    bytes_max: usize,
) -> Result<Frame, MsgpackError> {
    let text = str::from_utf8(frame.packet()).map_err(|_| MsgpackError::InvalidUtf8)?;
    let Some(text) = text.strip_prefix('4') else {
        return Ok(frame.clone());
    };
    let mut out = Vec::with_capacity(text.len() + 32);
    encode(&mut out, &socketio::parse(text)?, attachments, bytes_max)?;
    Ok(Frame::binary(&out))
}

/// Appends a packet, its attachments in the place of their placeholders; at most `bytes_max`, so
/// that one attachment named many times cannot grow without bound. After an error, what was appended
/// is of no use.
///
/// Numbers that are neither 64-bit integers nor finite become what JavaScript makes of them; a lone
/// surrogate becomes U+FFFD, thrice.
///
/// # Errors
/// [`MsgpackError::Packet`] if the data is no JSON or the ack id beyond 64 bits,
/// [`MsgpackError::Attachments`] if they are not as many as announced, [`MsgpackError::TooDeep`],
/// [`MsgpackError::TooLarge`].
pub fn encode(
    out: &mut Vec<u8>,
    packet: &Packet<'_>,
    attachments: &[Bytes],
    bytes_max: usize,
) -> Result<(), MsgpackError> {
    if packet.attachments != attachments.len() {
        return Err(MsgpackError::Attachments);
    }
    let members = 2 + u32::from(packet.id.is_some()) + u32::from(packet.data.is_some());
    let mut writer = Writer {
        start: out.len(),
        out,
        attachments,
        bytes_max,
        open: SmallVec::new(),
    };
    in_memory(encode::write_map_len(writer.out, members));
    writer.string("type");
    in_memory(encode::write_uint(writer.out, wire_kind(packet.kind)));
    writer.string("nsp");
    writer.string(packet.namespace);
    if let Some(id) = packet.id {
        let id = id.parse().map_err(|_| ParseError::AckId)?;
        writer.string("id");
        in_memory(encode::write_uint(writer.out, id));
    }
    if let Some(data) = packet.data {
        writer.string("data");
        writer.json(data)?;
    }
    writer.check_size(0)
}

fn wire_kind(kind: Kind) -> u64 {
    match kind {
        Kind::Connect => 0,
        Kind::Disconnect => 1,
        Kind::Event | Kind::BinaryEvent => 2,
        Kind::Ack | Kind::BinaryAck => 3,
        Kind::ConnectError => 4,
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Where in `out` the packet starts.
    start: usize,
    attachments: &'a [Bytes],
    bytes_max: usize,
    open: SmallVec<[Open; 8]>,
}

/// An array or map that is being written.
struct Open {
    /// Where its head is, which gets its count in the end: it is known only then.
    at: usize,
    is_map: bool,
    /// Elements, or keys and values.
    parts: u32,
    object: Object,
}

impl Writer<'_> {
    fn json(&mut self, data: &str) -> Result<(), MsgpackError> {
        let raw: &RawValue = serde_json::from_str(data).map_err(|_| ParseError::Data)?;
        let (json, mut at) = (raw.get(), 0);
        while let Some(byte) = json.as_bytes().get(at) {
            at = match byte {
                b'[' | b'{' => self.begin(*byte == b'{').map(|()| at + 1)?,
                b']' | b'}' => self.end().map(|()| at + 1)?,
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => at + 1,
                b'"' => self.string_at(json, at),
                _ => self.scalar_at(json, at),
            };
            self.check_size(0)?;
        }
        Ok(())
    }

    fn begin(&mut self, is_map: bool) -> Result<(), MsgpackError> {
        if self.open.len() == DEPTH_MAX {
            return Err(MsgpackError::TooDeep);
        }
        self.count();
        self.open.push(Open {
            at: self.out.len(),
            is_map,
            parts: 0,
            object: Object::default(),
        });
        let marker = if is_map {
            Marker::Map32
        } else {
            Marker::Array32
        };
        self.out.extend_from_slice(&[marker.to_u8(), 0, 0, 0, 0]);
        Ok(())
    }

    fn end(&mut self) -> Result<(), MsgpackError> {
        let open = self.open.pop().ok_or(ParseError::Data)?;
        if open.object.is_placeholder && !self.attachments.is_empty() {
            let named = open.object.num.and_then(|num| self.attachments.get(num));
            let attachment = named.ok_or(ParseError::Placeholder)?;
            self.out.truncate(open.at);
            self.check_size(attachment.len())?;
            in_memory(encode::write_bin(self.out, attachment));
            return Ok(());
        }
        let count = open.parts / if open.is_map { 2 } else { 1 };
        self.out[open.at + 1..][..4].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }

    /// Writes the string that starts there; returns where it ends.
    fn string_at(&mut self, json: &str, at: usize) -> usize {
        let end = socketio::string_end(json, at);
        let raw = &json[at..end];
        self.count();
        if let (Some(value), Some(open)) =
            (socketio::value_of_key(&json[end..]), self.open.last_mut())
        {
            open.object.note(raw, value);
        }
        match json::decode(raw) {
            Some(text) => self.string(&text),
            None => self.string(&unescape_lossy(raw)),
        }
        end
    }

    /// Writes the number or word that starts there; returns where it ends.
    fn scalar_at(&mut self, json: &str, at: usize) -> usize {
        let rest = &json[at..];
        let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']);
        let text = &rest[..end.unwrap_or(rest.len())];
        self.count();
        match text {
            "null" => in_memory(encode::write_nil(self.out)),
            "true" | "false" => in_memory(encode::write_bool(self.out, text == "true")),
            _ => self.number(text),
        }
        at + text.len()
    }

    fn number(&mut self, text: &str) {
        if let Ok(number) = text.parse::<u64>() {
            in_memory(encode::write_uint(self.out, number));
        } else if let Ok(number) = text.parse::<i64>() {
            in_memory(encode::write_sint(self.out, number));
        } else {
            let number = text.parse().unwrap_or(f64::NAN);
            in_memory(encode::write_f64(self.out, number));
        }
    }

    fn string(&mut self, text: &str) {
        in_memory(encode::write_str(self.out, text));
    }

    /// One more part of what is being written.
    fn count(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.parts += 1;
        }
    }

    /// Whether there is room for so many bytes more.
    fn check_size(&self, more: usize) -> Result<(), MsgpackError> {
        if self.out.len() - self.start + more > self.bytes_max {
            return Err(MsgpackError::TooLarge);
        }
        Ok(())
    }
}

fn in_memory<T, E: std::fmt::Debug>(written: Result<T, E>) {
    written.expect("memory can be written to");
}

/// The text of a JSON string with its quotes that has lone surrogates.
fn unescape_lossy(raw: &str) -> String {
    struct Lossy;

    impl Visitor<'_> for Lossy {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }

    let mut json = serde_json::Deserializer::from_str(raw);
    json.deserialize_bytes(Lossy).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::protocol::msgpack::read::decode;

    const MAX: usize = 1_000_000;

    fn event(data: &str, attachments: usize) -> Packet<'_> {
        Packet {
            kind: if attachments == 0 {
                Kind::Event
            } else {
                Kind::BinaryEvent
            },
            namespace: "/",
            id: None,
            attachments,
            data: Some(data),
        }
    }

    fn encoded(packet: &Packet<'_>, attachments: &[Bytes]) -> Result<Vec<u8>, MsgpackError> {
        let mut out = vec![7];
        encode(&mut out, packet, attachments, MAX)?;
        Ok(out.split_off(1))
    }

    fn there_and_back(json: &str) -> String {
        let bytes = encoded(&event(json, 0), &[]).unwrap();
        decode(&bytes, MAX).unwrap().data.unwrap()
    }

    #[test]
    fn a_packet_has_its_members_and_no_others() {
        let packet = Packet {
            kind: Kind::Ack,
            namespace: "/ns",
            id: Some("256"),
            attachments: 0,
            data: Some("[1]"),
        };
        let expected =
            b"\x84\xa4type\x03\xa3nsp\xa3/ns\xa2id\xcd\x01\x00\xa4data\xdd\0\0\0\x01\x01";
        assert_eq!(encoded(&packet, &[]).unwrap(), expected);
        let connect = Packet {
            kind: Kind::Disconnect,
            namespace: "/",
            id: None,
            attachments: 0,
            data: None,
        };
        assert_eq!(
            encoded(&connect, &[]).unwrap(),
            b"\x82\xa4type\x01\xa3nsp\xa1/"
        );
    }

    #[test]
    fn json_comes_back() {
        for (json, expected) in [
            (
                r#" [ "a" , { "b" : 1 , "a" : [ ] } ] "#,
                r#"["a",{"b":1,"a":[]}]"#,
            ),
            (r#"["\u00e9\ud83d\ude00\"\\\n"]"#, r#"["é😀\"\\\n"]"#),
            (
                "[18446744073709551615,-9223372036854775808]",
                "[18446744073709551615,-9223372036854775808]",
            ),
            ("[1.5,1e2,-0.25,0,-1]", "[1.5,100.0,-0.25,0,-1]"),
            (
                "[1e400,-1e400,123456789012345678901]",
                "[null,null,1.2345678901234568e+20]",
            ),
            ("[true,false,null,{}]", "[true,false,null,{}]"),
            (
                r#"[{"_placeholder":true,"num":7}]"#,
                r#"[{"_placeholder":true,"num":7}]"#,
            ),
            (r#"["\ud800"]"#, "[\"\u{FFFD}\u{FFFD}\u{FFFD}\"]"),
            (r#"{"\ud800":1}"#, "{\"\u{FFFD}\u{FFFD}\u{FFFD}\":1}"),
            ("{}", "{}"),
        ] {
            assert_eq!(there_and_back(json), expected, "{json}");
        }
    }

    #[test]
    fn attachments_stand_where_their_placeholders_stood() {
        let json =
            r#"["a",[{"num" : 1 , "_placeholder" :true}],{"b":{"_placeholder":true,"num":0}}]"#;
        let attachments = [Bytes::from_static(b"x"), Bytes::from_static(b"yz")];
        let bytes = encoded(&event(json, 2), &attachments).unwrap();
        let decoded = decode(&bytes, MAX).unwrap();
        // Renumbered in the order they stand in.
        assert_eq!(decoded.attachments, [&b"yz"[..], b"x"]);
        let json = r#"["a",[{"_placeholder":true,"num":0}],{"b":{"_placeholder":true,"num":1}}]"#;
        assert_eq!(decoded.data.as_deref(), Some(json));
        for wrong in [
            r#"[{"_placeholder":true,"num":2}]"#,
            r#"[{"_placeholder":true}]"#,
            r#"[{"_placeholder":true,"num":"0"}]"#,
        ] {
            assert_eq!(
                encoded(&event(wrong, 2), &attachments),
                Err(ParseError::Placeholder.into()),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_cannot_be_written() {
        for wrong in ["", "[", "[1]]", "nul", "[1,]"] {
            assert_eq!(encoded(&event(wrong, 0), &[]), Err(ParseError::Data.into()));
        }
        assert_eq!(
            encoded(&event("[]", 1), &[]),
            Err(MsgpackError::Attachments)
        );
        let one = [Bytes::from_static(b"x")];
        assert_eq!(
            encoded(&event("[]", 0), &one),
            Err(MsgpackError::Attachments)
        );
        let packet = Packet {
            id: Some("18446744073709551616"),
            ..event("[]", 0)
        };
        assert_eq!(encoded(&packet, &[]), Err(ParseError::AckId.into()));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(encoded(&event(&nested(DEPTH_MAX), 0), &[]).is_ok());
        for depth in [DEPTH_MAX + 1, 400_000] {
            assert_eq!(
                encoded(&event(&nested(depth), 0), &[]),
                Err(MsgpackError::TooDeep)
            );
        }
    }

    #[test]
    fn an_attachment_named_again_and_again_is_bounded() {
        let json = format!("[{}1]", r#"{"_placeholder":true,"num":0},"#.repeat(30_000));
        let attachments = [Bytes::from(vec![0; 500_000])];
        let mut out = Vec::new();
        let result = encode(&mut out, &event(&json, 1), &attachments, MAX);
        assert_eq!(result, Err(MsgpackError::TooLarge));
        assert!(out.len() <= MAX);
        let packet = event("[\"aaaa\"]", 0);
        let size = encoded(&packet, &[]).unwrap().len();
        assert_eq!(encode(&mut Vec::new(), &packet, &[], size), Ok(()));
        let over = encode(&mut Vec::new(), &packet, &[], size - 1);
        assert_eq!(over, Err(MsgpackError::TooLarge));
    }

    #[test]
    fn a_frame_becomes_a_binary_message_and_a_ping_stays() {
        let text = Frame::text_from(br#"42/ns,7["a",1]"#);
        let binary = frame(&text, &[], MAX).unwrap();
        assert!(binary.is_binary());
        let decoded = decode(binary.packet(), MAX).unwrap();
        assert_eq!(
            decoded.packet(),
            socketio::parse(r#"2/ns,7["a",1]"#).unwrap()
        );
        assert_eq!(frame(&Frame::ping(), &[], MAX).unwrap(), Frame::ping());
        let wrong = frame(&Frame::text_from(b"49"), &[], MAX);
        assert_eq!(wrong, Err(ParseError::UnknownType.into()));
    }

    /// JSON as a client may write it: any strings, blanks, numbers, nesting.
    fn json() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            any::<u64>().prop_map(|value| value.to_string()),
            (-1e300..1e300_f64).prop_map(|value| serde_json::to_string(&value).unwrap()),
            "(\\PC|[\\x00-\\x1f\"\\\\{}]){0,12}"
                .prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        scalar.prop_recursive(5, 40, 6, |inner| {
            let member = ("[a-zé]{0,3}", inner.clone()).prop_map(|(k, v)| format!("{k:?} :{v}"));
            prop_oneof![
                vec(inner, 0..6).prop_map(|values| format!("[{}]", values.join(" , "))),
                vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_comes_back_the_same(json in json()) {
            let expected: Value = serde_json::from_str(&json).unwrap();
            let back: Value = serde_json::from_str(&there_and_back(&json)).unwrap();
            prop_assert_eq!(back, expected);
        }

        #[test]
        fn any_text_is_written_or_refused(json in "[\\[\\]{}\",:\\\\0-9a-fu_ -]{0,60}|\\PC{0,40}") {
            let is_json = serde_json::from_str::<&RawValue>(&json).is_ok();
            prop_assert_eq!(encoded(&event(&json, 0), &[]).is_ok(), is_json);
        }
    }
}
