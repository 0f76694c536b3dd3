//! A message as a BSON document, and a document as a message.
//!
//! The fields are those of the message's JSON: `_id` is an ObjectId, `timestamp` a date, `seq` an Int64 that messages
//! from before the log do not have. Text comes back as it went in; a number that no BSON type holds exactly does not.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{CStr, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use mongodb::bson::{Bson, DateTime, Document};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::{Message, push_timestamp};
use crate::json;

/// Why a message cannot be a document.
pub(super) type Cause = Cow<'static, str>;

// === into a document ===

/// The document of a message.
pub(super) fn of_message(message: &Message) -> Result<RawDocumentBuf, Cause> {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), ObjectId::from_bytes(message.id.0));
    document.append(cstr!("conversation_id"), message.conversation.as_str());
    let json = [message.body.as_ref(), b"}"].concat();
    let mut parser = serde_json::Deserializer::from_slice(&json);
    Fields(&mut document)
        .deserialize(&mut parser)
        .and_then(|()| parser.end())
        .map_err(|error| Cow::Owned(format!("the message is no document: {error}")))?;
    document.append(cstr!("is_spam"), message.is_spam);
    if message.seq != Seq::NONE {
        document.append(cstr!("seq"), int64(message.seq));
    }
    if document.as_bytes().len() > DOCUMENT_BYTES_MAX {
        return Err("the message is larger than a document may be".into());
    }
    Ok(document)
}

/// A place as MongoDB counts: places are below 2^53.
pub(super) fn int64(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// Appends the fields of a JSON object, except those that do not come from it.
struct Fields<'a>(&'a mut RawDocumentBuf);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = [false; FIELDS.len()];
        while let Some(Value::Text(name)) = map.next_key::<Value<'de>>()? {
            let value = map.next_value::<Value<'de>>()?;
            if OURS.contains(&name.as_ref()) {
                continue;
            }
            let key: &CStr = name.as_ref().try_into().map_err(A::Error::custom)?;
            let known = FIELDS.iter().position(|known| *known == name);
            let repeated = match known {
                Some(known) => std::mem::replace(&mut seen[known], true),
                None => self.0.get(key).is_ok_and(|value| value.is_some()),
            };
            if repeated {
                return Err(A::Error::custom("a field stands there twice"));
            }
            match value {
                Value::Text(text) if known == Some(TIMESTAMP) => match date(&text) {
                    Some(date) => self.0.append(key, date),
                    None => self.0.append(key, text.as_ref()),
                },
                Value::Text(text) => self.0.append(key, text.as_ref()),
                Value::Other(other) => {
                    let raw = RawBson::try_from(other).map_err(A::Error::custom)?;
                    self.0.append(key, raw);
                }
            }
        }
        Ok(())
    }
}

fn date(text: &str) -> Option<DateTime> {
    // Ours end in `Z`; others may have an offset.
    match humantime::parse_rfc3339(text) {
        Ok(instant) => Some(DateTime::from_system_time(instant)),
        Err(_) => DateTime::parse_rfc3339_str(text).ok(),
    }
}

/// A JSON value: text where it stands, anything else as BSON.
enum Value<'a> {
    Text(Cow<'a, str>),
    Other(Bson),
}

impl Value<'_> {
    fn into_bson(self) -> Bson {
        match self {
            Self::Text(text) => Bson::String(text.into_owned()),
            Self::Other(other) => other,
        }
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value::Other(Bson::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Value::Other(Bson::Int64(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Value::Other(match i64::try_from(value) {
            Ok(value) => Bson::Int64(value),
            Err(_) => Bson::Double(value as f64),
        }))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Value::Other(Bson::Double(value)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Other(Bson::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element::<Value<'de>>()? {
            values.push(value.into_bson());
        }
        Ok(Value::Other(Bson::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut document = Document::new();
        while let Some((name, value)) = map.next_entry::<String, Value<'de>>()? {
            document.insert(name, value.into_bson());
        }
        Ok(Value::Other(Bson::Document(document)))
    }
}

// === out of a document ===

/// The message of a document; `None` when it is none: its `_id` is no ObjectId, or it is of no conversation.
///
/// The fields of the contract come in their order, whatever order the document has. Behind them come those that only
/// our log brought; what an earlier service kept beside them is not shown.
pub(super) fn to_message(document: &RawDocument) -> Option<Message> {
    let mut known = [None; FIELDS.len()];
    let mut others = Vec::new();
    let (mut id, mut conversation, mut seq, mut is_spam) = Default::default();
    let mut created = None;
    for field in document {
        let (name, value) = field.ok()?;
        match (name.as_str(), value) {
            ("_id", RawBsonRef::ObjectId(value)) => id = Some(MessageId(value.bytes())),
            ("conversation_id", value) => conversation = ConversationId::new(id_text(value)?),
            ("is_spam", value) => is_spam = value == RawBsonRef::Boolean(true),
            ("seq", value) => seq = place(value),
            (name, value) => match FIELDS.iter().position(|known| *known == name) {
                Some(field) => known[field] = Some(value).filter(|v| *v != RawBsonRef::Null),
                None => {
                    created = created.or(Some(value).filter(|_| name == "createdAt"));
                    others.push((name, value));
                }
            },
        }
    }
    let (id, conversation) = (id?, conversation?);
    if seq.is_none() {
        others.clear();
        complete(&mut known, id, created);
    }
    Some(Message {
        id,
        body: body(id, &conversation, &known, &others),
        conversation,
        seq: seq.unwrap_or(Seq::NONE),
        is_spam,
    })
}

/// Gives a message of an earlier service the fields that every message has.
fn complete<'a>(
    known: &mut [Option<RawBsonRef<'a>>; FIELDS.len()],
    id: MessageId,
    created: Option<RawBsonRef<'a>>,
) {
    let kind = match known[ATTACHMENT_URL] {
        Some(_) => "attachment",
        None => "text",
    };
    known[TEXT_CONTENT].get_or_insert(RawBsonRef::String(""));
    known[MESSAGE_TYPE].get_or_insert(RawBsonRef::String(kind));
    // An ObjectId begins with the second in which it was made.
    let made = || RawBsonRef::DateTime(ObjectId::from_bytes(id.0).timestamp());
    known[TIMESTAMP].get_or_insert_with(|| created.unwrap_or_else(made));
}

fn body(
    id: MessageId,
    conversation: &ConversationId,
    known: &[Option<RawBsonRef<'_>>],
    others: &[(&str, RawBsonRef<'_>)],
) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"_id\":\"");
    out.extend_from_slice(&id.to_hex());
    out.extend_from_slice(b"\",\"conversation_id\":");
    json::push_string(&mut out, conversation.as_str());
    for (name, value) in FIELDS.iter().zip(known) {
        let Some(value) = value else { continue };
        push_name(&mut out, name);
        match id_text(*value) {
            Some(text) if name.ends_with("_id") => json::push_string(&mut out, &text),
            _ => push_json(&mut out, *value),
        }
    }
    for (name, value) in others {
        push_name(&mut out, name);
        push_json(&mut out, *value);
    }
    out.into()
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    json::push_string(out, name);
    out.push(b':');
}

/// An id as text, whatever type an earlier service gave it.
fn id_text(value: RawBsonRef<'_>) -> Option<String> {
    match value {
        RawBsonRef::String(text) => Some(text.to_owned()),
        RawBsonRef::Int32(number) => Some(number.to_string()),
        RawBsonRef::Int64(number) => Some(number.to_string()),
        RawBsonRef::ObjectId(id) => Some(id.to_hex()),
        _ => None,
    }
}

fn place(value: RawBsonRef<'_>) -> Option<Seq> {
    let number = match value {
        RawBsonRef::Int64(number) => number,
        RawBsonRef::Int32(number) => number.into(),
        // What a shell wrote.
        RawBsonRef::Double(number) => number as i64,
        _ => return None,
    };
    u64::try_from(number).ok().map(Seq)
}

/// Appends a value as JSON; what JSON has no word for is `null`.
fn push_json(out: &mut Vec<u8>, value: RawBsonRef<'_>) {
    match value {
        RawBsonRef::String(text) => json::push_string(out, text),
        RawBsonRef::Boolean(value) => push_number(out, value),
        RawBsonRef::Int32(number) => push_number(out, number),
        RawBsonRef::Int64(number) => push_number(out, number),
        RawBsonRef::Double(number) => push_number(out, number),
        RawBsonRef::ObjectId(id) => json::push_string(out, &id.to_hex()),
        RawBsonRef::DateTime(date) => {
            out.push(b'"');
            push_timestamp(out, u64::try_from(date.timestamp_millis()).unwrap_or(0));
            out.push(b'"');
        }
        RawBsonRef::Array(array) => {
            out.push(b'[');
            for (n, value) in array.into_iter().flatten().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                push_json(out, value);
            }
            out.push(b']');
        }
        RawBsonRef::Document(document) => {
            out.push(b'{');
            for (n, (name, value)) in document.into_iter().flatten().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                json::push_string(out, name.as_str());
                out.push(b':');
                push_json(out, value);
            }
            out.push(b'}');
        }
        _ => out.extend_from_slice(b"null"),
    }
}

/// As JSON writes it: a number that is none is `null`.
fn push_number(out: &mut Vec<u8>, value: impl serde::Serialize) {
    serde_json::to_writer(out, &value).expect("a number always serialises into memory");
}

/// The message's fields after `_id` and `conversation_id`, in their order.
const FIELDS: [&str; 11] = [
    "sender_id",
    "receiver_id",
    "text_content",
    "message_type",
    "timestamp",
    "attachment_url",
    "attachment_filename",
    "attachment_mimetype",
    "client_message_id",
    "participants",
    "metadata",
];
const TEXT_CONTENT: usize = 2;
const MESSAGE_TYPE: usize = 3;
const TIMESTAMP: usize = 4;
const ATTACHMENT_URL: usize = 5;

/// Fields that a document has from the message itself, not from its JSON.
const OURS: [&str; 4] = ["_id", "conversation_id", "is_spam", "seq"];

/// What every server takes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;
    use proptest::prelude::*;

    use super::*;

    fn message(rest: &str) -> Message {
        let id = MessageId([7; 12]);
        Message {
            id,
            conversation: ConversationId::new(Bytes::from_static(b"c:\"d")).unwrap(),
            seq: Seq::new(1, 5),
            is_spam: true,
            body: Bytes::from(format!(r#"{{"_id":"{id}","conversation_id":"c:\"d"{rest}"#)),
        }
    }

    fn back(message: &Message) -> Message {
        to_message(&of_message(message).unwrap()).unwrap()
    }

    #[test]
    fn a_message_comes_back_to_the_byte() {
        for rest in [
            r#","sender_id":"a","receiver_id":"b","text_content":"t","message_type":"text","timestamp":"2026-08-01T12:00:00.123Z""#,
            r#","sender_id":"a","receiver_id":"b","text_content":"","message_type":"attachment","timestamp":"1970-01-01T00:00:00.000Z","attachment_url":"/uploads/x","attachment_filename":"x","attachment_mimetype":"a/b","client_message_id":"1""#,
            r#","sender_id":"system","receiver_id":"b","text_content":"q","message_type":"system","timestamp":"2026-08-01T12:00:00.123Z","participants":["b","p"],"metadata":{"quote_id":"q","event_type":"QUOTE_ACCEPTED"}"#,
            r#","timestamp":"2026-08-01T12:00:00.123Z","b":{"y":[1,-1,1.5,true,null,"\u0000"],"x":{}},"a":9007199254740993"#,
        ] {
            let message = message(rest);
            assert_eq!(back(&message), message);
        }
    }

    #[test]
    fn fields_have_the_types_that_others_expect() {
        let document = of_message(&message(r#","timestamp":"2026-08-01T12:00:00.123Z""#)).unwrap();
        assert_eq!(
            document,
            rawdoc! {
                "_id": ObjectId::from_bytes([7; 12]),
                "conversation_id": "c:\"d",
                "timestamp": DateTime::from_millis(1_785_585_600_123),
                "is_spam": true,
                "seq": (1_i64 << 40) + 5,
            }
        );
    }

    #[test]
    fn what_no_document_can_hold_is_refused() {
        let large = format!(r#","text_content":"{}""#, "x".repeat(DOCUMENT_BYTES_MAX));
        for rest in [
            r#","a\u0000b":1"#,
            r#","a":{"b\u0000":1}"#,
            r#","text_content":"#,
            r#","text_content":"a","text_content":"b""#,
            r#","x":1,"x":2"#,
            "}",
            &large,
        ] {
            assert!(of_message(&message(rest)).is_err(), "{:.40}", rest);
        }
    }

    #[test]
    fn an_earlier_services_document_is_a_message_without_a_place() {
        let id = ObjectId::from_bytes([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
        let cases = [
            (
                rawdoc! {
                    "__v": 0, "message_type": "text", "is_spam": true, "attachment_url": RawBson::Null,
                    "timestamp": DateTime::from_millis(5), "text_content": "t\0", "_id": id,
                    "receiver_id": 17, "sender_id": ObjectId::from_bytes([1; 12]), "conversation_id": "c",
                    "createdAt": DateTime::from_millis(7),
                },
                r#""sender_id":"010101010101010101010101","receiver_id":"17","text_content":"t\u0000","message_type":"text","timestamp":"1970-01-01T00:00:00.005Z""#,
            ),
            (
                rawdoc! { "_id": id, "conversation_id": "c", "attachment_url": "/uploads/x", "password": 1 },
                r#""text_content":"","message_type":"attachment","timestamp":"1970-01-01T00:00:01.000Z","attachment_url":"/uploads/x""#,
            ),
        ];
        for (document, rest) in cases {
            let message = to_message(&document).unwrap();
            assert_eq!(message.seq, Seq::NONE);
            assert_eq!(
                String::from_utf8_lossy(&message.body),
                format!(r#"{{"_id":"{id}","conversation_id":"c",{rest}"#)
            );
        }
        assert!(to_message(&rawdoc! { "_id": "text", "conversation_id": "c" }).is_none());
        assert!(to_message(&rawdoc! { "_id": id }).is_none());
        assert!(to_message(&rawdoc! { "_id": id, "conversation_id": "" }).is_none());
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text: String, unix_ms in 0u64..253_402_300_800_000) {
            let mut rest = br#","text_content":"#.to_vec();
            json::push_string(&mut rest, &text);
            rest.extend_from_slice(b",\"timestamp\":\"");
            push_timestamp(&mut rest, unix_ms);
            rest.push(b'"');
            let message = message(std::str::from_utf8(&rest).unwrap());
            prop_assert_eq!(back(&message), message);
        }
    }
}
