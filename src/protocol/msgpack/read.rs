//! From MessagePack to JSON and attachments.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rmp::Marker;
use rmp::decode::RmpRead;
use smallvec::SmallVec;

use super::{DEPTH_MAX, MsgpackError};
use crate::protocol::socketio::{self, ATTACHMENTS_MAX, Kind, Packet, ParseError};

// === Decoded ===

/// A packet as [`socketio::parse`] would give it, with its attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// A binary kind if there are attachments, a plain one if not.
    pub kind: Kind,
    pub namespace: String,
    pub id: Option<String>,
    /// JSON. What binary there was is in the attachments, and named by placeholders that were
    /// checked.
    pub data: Option<String>,
    pub attachments: Vec<Bytes>,
}

impl Decoded {
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            kind: self.kind,
            namespace: &self.namespace,
            id: self.id.as_deref(),
            attachments: self.attachments.len(),
            data: self.data.as_deref(),
        }
    }
}

/// Reads a binary message. Members that packets do not have are passed over.
///
/// `bytes_max` bounds the JSON form and the attachments together. The former can be six times as
/// long as what it is made from.
///
/// # Errors
/// What is wrong with it. The data is only converted: its shape is left to [`socketio::event`],
/// [`socketio::ack_args`] and [`socketio::auth`].
pub fn decode(message: &[u8], bytes_max: usize) -> Result<Decoded, MsgpackError> {
    let mut reader = Reader { rest: message };
    let Value::Map(members) = reader.value()? else {
        return Err(MsgpackError::Shape);
    };
    let (mut kind, mut namespace, mut id, mut data) = (None, None, None, None);
    for _ in 0..members {
        let is_first = match reader.key()? {
            "type" => kind.replace(plain_kind(reader.value()?)?).is_none(),
            "nsp" => namespace.replace(checked(reader.value()?)?).is_none(),
            "id" => id.replace(ack_id(reader.value()?)?).is_none(),
            "data" => data.replace(reader.data(bytes_max)?).is_none(),
            _ => {
                reader.pass_over()?;
                true
            }
        };
        if !is_first {
            return Err(MsgpackError::Shape);
        }
    }
    if !reader.rest.is_empty() {
        return Err(MsgpackError::Trailing);
    }
    let kind = kind.ok_or(MsgpackError::Shape)?;
    let namespace = namespace.ok_or(MsgpackError::Shape)?.to_owned();
    let Data { json, attachments } = data.flatten().unwrap_or_default();
    let kind = match (kind, attachments.len(), &json) {
        (Kind::Disconnect, _, Some(_)) => return Err(ParseError::UnexpectedData.into()),
        (kind, 0, _) => kind,
        (Kind::Event, ..) => Kind::BinaryEvent,
        (Kind::Ack, ..) => Kind::BinaryAck,
        _ => return Err(MsgpackError::Attachments),
    };
    if let (Some(json), 1..) = (&json, attachments.len()) {
        socketio::check_placeholders(json, attachments.len())?;
    }
    Ok(Decoded {
        kind,
        namespace,
        id: id.flatten(),
        data: json,
        attachments,
    })
}

fn plain_kind(value: Value<'_>) -> Result<Kind, MsgpackError> {
    match value {
        Value::Uint(0) => Ok(Kind::Connect),
        Value::Uint(1) => Ok(Kind::Disconnect),
        Value::Uint(2) => Ok(Kind::Event),
        Value::Uint(3) => Ok(Kind::Ack),
        Value::Uint(4) => Ok(Kind::ConnectError),
        _ => Err(MsgpackError::Shape),
    }
}

/// A namespace that could stand in the JSON form.
fn checked(value: Value<'_>) -> Result<&str, MsgpackError> {
    match value {
        Value::Str(namespace) if namespace.starts_with('/') && !namespace.contains(',') => {
            Ok(namespace)
        }
        _ => Err(MsgpackError::Shape),
    }
}

fn ack_id(value: Value<'_>) -> Result<Option<String>, MsgpackError> {
    match value {
        Value::Uint(id) => Ok(Some(id.to_string())),
        Value::Nil | Value::Undefined => Ok(None),
        _ => Err(MsgpackError::Shape),
    }
}

// === Reader ===

struct Reader<'a> {
    rest: &'a [u8],
}

/// One value, or the head of one with others inside.
enum Value<'a> {
    Nil,
    /// What JavaScript calls so: a member that is, is none.
    Undefined,
    Bool(bool),
    Uint(u64),
    /// Below 0.
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    /// Milliseconds since 1970.
    Date(i64),
    /// So many values follow.
    Array(usize),
    /// So many keys, each with its value, follow.
    Map(usize),
}

/// A packet's data as JSON with placeholders.
#[derive(Default)]
struct Data {
    json: Option<String>,
    attachments: Vec<Bytes>,
}

/// An array or map whose end has not come yet.
struct Level {
    is_map: bool,
    is_empty: bool,
    left: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value<'a>, MsgpackError> {
        let rest = &mut self.rest;
        let truncated = |_| MsgpackError::Truncated;
        let marker = rmp::decode::read_marker(rest).map_err(|_| MsgpackError::Truncated)?;
        Ok(match marker {
            Marker::Null => Value::Nil,
            Marker::False => Value::Bool(false),
            Marker::True => Value::Bool(true),
            Marker::FixPos(number) => Value::Uint(number.into()),
            Marker::U8 => Value::Uint(rest.read_data_u8().map_err(truncated)?.into()),
            Marker::U16 => Value::Uint(rest.read_data_u16().map_err(truncated)?.into()),
            Marker::U32 => Value::Uint(rest.read_data_u32().map_err(truncated)?.into()),
            Marker::U64 => Value::Uint(rest.read_data_u64().map_err(truncated)?),
            Marker::FixNeg(number) => integer(number.into()),
            Marker::I8 => integer(rest.read_data_i8().map_err(truncated)?.into()),
            Marker::I16 => integer(rest.read_data_i16().map_err(truncated)?.into()),
            Marker::I32 => integer(rest.read_data_i32().map_err(truncated)?.into()),
            Marker::I64 => integer(rest.read_data_i64().map_err(truncated)?),
            Marker::F32 => Value::Float(rest.read_data_f32().map_err(truncated)?.into()),
            Marker::F64 => Value::Float(rest.read_data_f64().map_err(truncated)?),
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let text = self.bytes_of(marker)?;
                let text = simdutf8::basic::from_utf8(text);
                Value::Str(text.map_err(|_| MsgpackError::InvalidUtf8)?)
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => Value::Bin(self.bytes_of(marker)?),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                Value::Array(self.count_of(marker, 1)?)
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                Value::Map(self.count_of(marker, 2)?)
            }
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => self.array_buffer(marker)?,
            Marker::FixExt1 => match self.take(2)? {
                [0, _] => Value::Undefined,
                _ => return Err(MsgpackError::Unsupported),
            },
            Marker::FixExt8 => match self.take(9)? {
                &[0, a, b, c, d, e, f, g, h] => {
                    Value::Date(i64::from_be_bytes([a, b, c, d, e, f, g, h]))
                }
                _ => return Err(MsgpackError::Unsupported),
            },
            Marker::FixExt2 | Marker::FixExt4 | Marker::FixExt16 | Marker::Reserved => {
                return Err(MsgpackError::Unsupported);
            }
        })
    }

    /// An extension of type 0, which is how Node writes arrays of bytes that are no `Buffer`.
    fn array_buffer(&mut self, marker: Marker) -> Result<Value<'a>, MsgpackError> {
        let length = self.length(marker)?;
        match self.take(1)? {
            [0] => Ok(Value::Bin(self.take(length)?)),
            _ => Err(MsgpackError::Unsupported),
        }
    }

    fn bytes_of(&mut self, marker: Marker) -> Result<&'a [u8], MsgpackError> {
        let length = self.length(marker)?;
        self.take(length)
    }

    /// How many parts follow, each of at least so many bytes: no more than there are bytes for.
    fn count_of(&mut self, marker: Marker, bytes_min: usize) -> Result<usize, MsgpackError> {
        let count = self.length(marker)?;
        if count > self.rest.len() / bytes_min {
            return Err(MsgpackError::Truncated);
        }
        Ok(count)
    }

    fn length(&mut self, marker: Marker) -> Result<usize, MsgpackError> {
        let length = match marker {
            Marker::FixStr(length) | Marker::FixArray(length) | Marker::FixMap(length) => {
                Ok(u32::from(length))
            }
            Marker::Str8 | Marker::Bin8 | Marker::Ext8 => self.rest.read_data_u8().map(u32::from),
            Marker::Str16 | Marker::Bin16 | Marker::Ext16 | Marker::Array16 | Marker::Map16 => {
                self.rest.read_data_u16().map(u32::from)
            }
            _ => self.rest.read_data_u32(),
        };
        let length = length.map_err(|_| MsgpackError::Truncated)?;
        usize::try_from(length).map_err(|_| MsgpackError::TooLarge)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], MsgpackError> {
        let split = self.rest.split_at_checked(length);
        let (taken, rest) = split.ok_or(MsgpackError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn key(&mut self) -> Result<&'a str, MsgpackError> {
        match self.value()? {
            Value::Str(key) => Ok(key),
            _ => Err(MsgpackError::Unsupported),
        }
    }

    fn pass_over(&mut self) -> Result<(), MsgpackError> {
        let mut due = 1;
        while due > 0 {
            if due > self.rest.len() {
                return Err(MsgpackError::Truncated);
            }
            due -= 1;
            match self.value()? {
                Value::Array(count) => due += count,
                Value::Map(count) => due += 2 * count,
                _ => {}
            }
        }
        Ok(())
    }

    /// `None` if it is undefined.
    fn data(&mut self, bytes_max: usize) -> Result<Option<Data>, MsgpackError> {
        if self.is_undefined() {
            return Ok(None);
        }
        let mut json = Vec::new();
        let mut attachments = Vec::new();
        let mut attached = 0;
        let mut levels: SmallVec<[Level; 8]> = SmallVec::new();
        loop {
            match self.value()? {
                Value::Array(count) => open(&mut json, &mut levels, false, count)?,
                Value::Map(count) => open(&mut json, &mut levels, true, count)?,
                Value::Bin(bytes) => {
                    if attachments.len() == ATTACHMENTS_MAX {
                        return Err(MsgpackError::Attachments);
                    }
                    json.extend_from_slice(br#"{"_placeholder":true,"num":"#);
                    write_json(&mut json, &attachments.len());
                    json.push(b'}');
                    attached += bytes.len();
                    attachments.push(Bytes::copy_from_slice(bytes));
                }
                scalar => write_scalar(&mut json, scalar)?,
            }
            if json.len() + attached > bytes_max {
                return Err(MsgpackError::TooLarge);
            }
            self.lead_on(&mut json, &mut levels)?;
            if levels.is_empty() {
                let json = String::from_utf8(json).expect("JSON of checked strings is UTF-8");
                let json = Some(json);
                return Ok(Some(Data { json, attachments }));
            }
        }
    }

    /// Closes what is complete, and writes what stands in front of the next value.
    fn lead_on(
        &mut self,
        json: &mut Vec<u8>,
        levels: &mut SmallVec<[Level; 8]>,
    ) -> Result<(), MsgpackError> {
        while let Some(level) = levels.last_mut() {
            if level.left == 0 {
                json.push(if level.is_map { b'}' } else { b']' });
                levels.pop();
                continue;
            }
            level.left -= 1;
            let key = if level.is_map {
                Some(self.key()?)
            } else {
                None
            };
            if key.is_some() && self.is_undefined() {
                continue;
            }
            if !std::mem::take(&mut level.is_empty) {
                json.push(b',');
            }
            if let Some(key) = key {
                write_json(json, key);
                json.push(b':');
            }
            break;
        }
        Ok(())
    }

    /// Takes what comes next if it is `undefined`, which JSON leaves out.
    fn is_undefined(&mut self) -> bool {
        match self.rest {
            [0xD4, 0, _, rest @ ..] => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }
}

fn integer(number: i64) -> Value<'static> {
    u64::try_from(number).map_or(Value::Int(number), Value::Uint)
}

fn open(
    json: &mut Vec<u8>,
    levels: &mut SmallVec<[Level; 8]>,
    is_map: bool,
    left: usize,
) -> Result<(), MsgpackError> {
    if levels.len() == DEPTH_MAX {
        return Err(MsgpackError::TooDeep);
    }
    json.push(if is_map { b'{' } else { b'[' });
    levels.push(Level {
        is_map,
        is_empty: true,
        left,
    });
    Ok(())
}

/// As `JSON.stringify` does: what is no number is `null`, a date is a string.
fn write_scalar(json: &mut Vec<u8>, value: Value<'_>) -> Result<(), MsgpackError> {
    match value {
        Value::Bool(value) => write_json(json, &value),
        Value::Uint(number) => write_json(json, &number),
        Value::Int(number) => write_json(json, &number),
        Value::Float(number) => write_json(json, &number),
        Value::Str(text) => write_json(json, text),
        Value::Date(ms) => {
            let ms = u64::try_from(ms).ok().filter(|ms| *ms <= DATE_MS_MAX);
            let ms = ms.ok_or(MsgpackError::Unsupported)?;
            let date = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms));
            write_json(json, &date.to_string());
        }
        Value::Nil | Value::Undefined => json.extend_from_slice(b"null"),
        Value::Bin(_) | Value::Array(_) | Value::Map(_) => return Err(MsgpackError::Shape),
    }
    Ok(())
}

fn write_json(json: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(json, value).expect("a scalar can be written to memory");
}

/// The end of the year 9999, beyond which dates are written in another way.
const DATE_MS_MAX: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 10_000;

    /// `{type, nsp: "/", data}`; the data is MessagePack.
    fn message(kind: u8, data: &[u8]) -> Vec<u8> {
        [b"\x83\xa4type", &[kind][..], b"\xa3nsp\xa1/\xa4data", data].concat()
    }

    fn data(data: &[u8]) -> Result<String, MsgpackError> {
        let decoded = decode(&message(2, data), MAX)?;
        Ok(decoded.data.unwrap_or_default())
    }

    #[test]
    fn a_packet_is_what_its_json_form_would_be() {
        let message = b"\x85\xa4type\x02\xa4data\x93\xa1e\xc4\x02\x01\x02\x81\xa1a\xc4\x00\
            \xa7options\x81\xa8compress\xc3\xa2id\xcd\x01\x00\xa3nsp\xa3/ns";
        let decoded = decode(message, MAX).unwrap();
        let json = r#"["e",{"_placeholder":true,"num":0},{"a":{"_placeholder":true,"num":1}}]"#;
        let expected = Packet {
            kind: Kind::BinaryEvent,
            namespace: "/ns",
            id: Some("256"),
            attachments: 2,
            data: Some(json),
        };
        assert_eq!(decoded.packet(), expected);
        assert_eq!(decoded.attachments, [&b"\x01\x02"[..], b""]);
        assert!(super::super::is_packet(message));
    }

    #[test]
    fn kinds_are_plain_without_attachments_and_binary_with_them() {
        for (kind, plain, binary) in [
            (0, Kind::Connect, None),
            (2, Kind::Event, Some(Kind::BinaryEvent)),
            (3, Kind::Ack, Some(Kind::BinaryAck)),
            (4, Kind::ConnectError, None),
        ] {
            assert_eq!(decode(&message(kind, b"\x90"), MAX).unwrap().kind, plain);
            let with = decode(&message(kind, b"\x91\xc4\x00"), MAX).map(|decoded| decoded.kind);
            assert_eq!(with, binary.ok_or(MsgpackError::Attachments));
        }
        let left = decode(b"\x82\xa4type\x01\xa3nsp\xa1/", MAX).unwrap();
        assert_eq!((left.kind, left.data), (Kind::Disconnect, None));
        let with_data = decode(&message(1, b"\x80"), MAX);
        assert_eq!(with_data, Err(ParseError::UnexpectedData.into()));
        for none in [5, 6, 0x7f, 0xff] {
            assert_eq!(
                decode(&message(none, b"\x90"), MAX),
                Err(MsgpackError::Shape)
            );
        }
    }

    #[test]
    fn undefined_and_nil_are_no_id_and_undefined_is_no_data() {
        for no_id in [b"\xd4\0\0".as_slice(), b"\xc0"] {
            let message = [b"\x83\xa4type\x00\xa3nsp\xa1/\xa2id", no_id].concat();
            assert_eq!(decode(&message, MAX).unwrap().id, None);
        }
        assert_eq!(decode(&message(0, b"\xd4\0\0"), MAX).unwrap().data, None);
        let huge = b"\x83\xa4type\x03\xa3nsp\xa1/\xa2id\xcf\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(decode(huge, MAX).unwrap().id.unwrap(), u64::MAX.to_string());
        for wrong in [b"\xff".as_slice(), b"\xca\0\0\0\0", b"\xa11", b"\x90"] {
            let message = [b"\x83\xa4type\x00\xa3nsp\xa1/\xa2id", wrong].concat();
            assert_eq!(decode(&message, MAX), Err(MsgpackError::Shape));
        }
    }

    #[test]
    fn values_are_what_json_stringify_makes_of_them() {
        for (value, expected) in [
            (b"\xc0".as_slice(), "null"),
            (b"\xc2", "false"),
            (b"\xc3", "true"),
            (b"\x7f", "127"),
            (b"\xe0", "-32"),
            (b"\xcc\xff", "255"),
            (
                b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                "18446744073709551615",
            ),
            (b"\xd0\x80", "-128"),
            (b"\xd1\x80\x00", "-32768"),
            (b"\xd2\x80\x00\x00\x00", "-2147483648"),
            (
                b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
                "-9223372036854775808",
            ),
            (b"\xca\x3f\x00\x00\x00", "0.5"),
            (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", "1.5"),
            (b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", "null"),
            (b"\xca\x7f\xc0\x00\x00", "null"),
            (b"\xa0", "\"\""),
            (b"\xd9\x03a\"\n", r#""a\"\n""#),
            (b"\xda\x00\x01a", "\"a\""),
            (b"\xdb\x00\x00\x00\x01a", "\"a\""),
            (b"\xa4\xf0\x9f\x98\x80", "\"\u{1F600}\""),
            (b"\x90", "[]"),
            (b"\x80", "{}"),
            (b"\xdc\x00\x02\x01\x02", "[1,2]"),
            (b"\xdd\x00\x00\x00\x01\xd4\0\0", "[null]"),
            (b"\x83\xa1b\x01\xa1u\xd4\0\0\xa1a\x90", r#"{"b":1,"a":[]}"#),
            (b"\x82\xa1u\xd4\0\0\xa1a\x90", r#"{"a":[]}"#),
            (b"\x81\xa1u\xd4\0\0", "{}"),
            (b"\xde\x00\x01\xa1a\x01", r#"{"a":1}"#),
            (b"\xdf\x00\x00\x00\x01\xa1a\x01", r#"{"a":1}"#),
            (b"\xd7\0\0\0\0\0\0\0\0\x01", r#""1970-01-01T00:00:00.001Z""#),
            (
                b"\xd7\0\0\0\xe6\x77\xd2\x1f\xdb\xff",
                r#""9999-12-31T23:59:59.999Z""#,
            ),
        ] {
            assert_eq!(data(value).as_deref(), Ok(expected), "{value:x?}");
        }
    }

    #[test]
    fn binary_comes_in_three_lengths_and_two_kinds() {
        for bytes in [
            b"\xc4\x01a".as_slice(),
            b"\xc5\x00\x01a",
            b"\xc6\x00\x00\x00\x01a",
            b"\xc7\x01\x00a",
            b"\xc8\x00\x01\x00a",
            b"\xc9\x00\x00\x00\x01\x00a",
        ] {
            let decoded = decode(&message(2, bytes), MAX).unwrap();
            assert_eq!(decoded.attachments, [&b"a"[..]], "{bytes:x?}");
            let json = r#"{"_placeholder":true,"num":0}"#;
            assert_eq!(decoded.data.as_deref(), Some(json));
        }
    }

    #[test]
    fn what_cannot_be_read() {
        use MsgpackError::{InvalidUtf8, Shape, Trailing, Truncated, Unsupported};
        for (value, expected) in [
            (b"".as_slice(), Truncated),
            (b"\xa2a", Truncated),
            (b"\xcd\x01", Truncated),
            (b"\x92\x01", Truncated),
            (b"\x81\xa1a", Truncated),
            (b"\xdd\xff\xff\xff\xff\x01", Truncated),
            (b"\xdf\xff\xff\xff\xff\xa1a\x01", Truncated),
            (b"\xc6\xff\xff\xff\xff", Truncated),
            (b"\xd7\x00\x00", Truncated),
            (b"\xa1\xff", InvalidUtf8),
            (b"\xa3\xed\xa0\x80", InvalidUtf8),
            (b"\xc1", Unsupported),
            (b"\xd4\x01\x00", Unsupported),
            (b"\xd6\xff\0\0\0\0", Unsupported),
            (b"\xd7\xff\0\0\0\0\0\0\0\0", Unsupported),
            (b"\xd7\0\xff\xff\xff\xff\xff\xff\xff\xff", Unsupported),
            (b"\xd7\0\0\0\xe6\x77\xd2\x1f\xdc\x00", Unsupported),
            (b"\xc7\x01\x05a", Unsupported),
            (b"\x81\x01\x02", Unsupported),
            (b"\x81\x90\x02", Unsupported),
            (b"\x01\x01", Trailing),
        ] {
            assert_eq!(data(value), Err(expected), "{value:x?}");
        }
        for (wrong, expected) in [
            (b"".as_slice(), Truncated),
            (b"0", Shape),
            (b"\x90", Shape),
            (b"\x80", Shape),
            (b"\x81\xa4type\x00", Shape),
            (b"\x81\xa3nsp\xa1/", Shape),
            (b"\x82\xa4type\x00\xa3nsp\xa1a", Shape),
            (b"\x82\xa4type\x00\xa3nsp\xa3/,a", Shape),
            (b"\x82\xa4type\x00\xa3nsp\x01", Shape),
            (b"\x83\xa4type\x00\xa3nsp\xa1/\xa4type\x00", Shape),
            (b"\x83\xa4type\x00\xa3nsp\xa1/\x01\x00", Unsupported),
            (b"\x82\xa4type\x00\xa3nsp\xa1/\x00", Trailing),
        ] {
            assert_eq!(decode(wrong, MAX), Err(expected), "{wrong:x?}");
        }
    }

    #[test]
    fn depth_is_bounded_but_not_of_what_is_passed_over() {
        let nested = |depth: usize| [vec![0x91; depth - 1], vec![0x90]].concat();
        assert!(data(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(data(&nested(DEPTH_MAX + 1)), Err(MsgpackError::TooDeep));
        let maps = |depth: usize| [b"\x81\xa1a".repeat(depth - 1), vec![0x80]].concat();
        assert!(data(&maps(DEPTH_MAX)).is_ok());
        assert_eq!(data(&maps(DEPTH_MAX + 1)), Err(MsgpackError::TooDeep));
        let start = b"\x83\xa4type\x00\xa3nsp\xa1/\xa1x";
        let unknown = [start.as_slice(), &nested(900_000)].concat();
        assert!(decode(&unknown, MAX).is_ok());
        // Each array announces as many elements as there are bytes.
        let claims = b"\xdd\x00\x0f\x00\x00".repeat(200_000);
        let claims = [start.as_slice(), &claims].concat();
        assert_eq!(decode(&claims, MAX), Err(MsgpackError::Truncated));
    }

    #[test]
    fn attachments_are_at_most_ten() {
        for (count, is_fine) in [(ATTACHMENTS_MAX, true), (ATTACHMENTS_MAX + 1, false)] {
            let array = [vec![0x90 | count as u8], b"\xc4\x00".repeat(count)].concat();
            let decoded = decode(&message(2, &array), MAX);
            assert_eq!(decoded.is_ok(), is_fine);
            assert!(is_fine || decoded == Err(MsgpackError::Attachments));
        }
    }

    #[test]
    fn json_and_attachments_together_are_bounded() {
        let value = b"\x92\xa4\x01\x01\x01\x01\xc4\x05abcde";
        let json = r#"["\u0001\u0001\u0001\u0001",{"_placeholder":true,"num":0}"#;
        let size = json.len() + 5;
        assert!(decode(&message(2, value), size).is_ok());
        let over = decode(&message(2, value), size - 1);
        assert_eq!(over, Err(MsgpackError::TooLarge));
    }

    #[test]
    fn forged_placeholders_are_checked() {
        let forged = |num: u8| {
            let object = [b"\x82\xac_placeholder\xc3\xa3num", &[num][..]].concat();
            [b"\x92\xc4\x01a".as_slice(), &object].concat()
        };
        assert!(data(&forged(0)).is_ok());
        assert_eq!(data(&forged(1)), Err(ParseError::Placeholder.into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in vec(
                prop_oneof![any::<u8>(), 0x80..0x84_u8, 0x90..0x94_u8, 0xA0..0xA5_u8, 0xC0..0xE0_u8],
                0..80,
            ),
        ) {
            let _ = decode(&bytes, MAX);
            if let Ok(json) = data(&bytes) {
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&json).is_ok());
            }
        }
    }
}
