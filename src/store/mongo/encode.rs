//! Messages as BSON documents, written straight from their JSON into one buffer.
//!
//! The fields are those of the message's JSON: `_id` is an ObjectId, `timestamp` a date, `seq` an Int64 that messages
//! from before the log do not have. Text comes back as it went in; a number that no BSON type holds exactly does not.
//! Source: the BSON specification 1.1 (bsonspec.org).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use mongodb::bson::raw::{CStr, RawBson, RawDocumentBuf};
use mongodb::bson::spec::ElementType;
use mongodb::bson::{Bson, DateTime, Document};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::chat::id::Seq;
use crate::chat::message::Message;
use crate::json::{self, Member, NotJson};
use crate::store::mongo::document::{FIELDS, TIMESTAMP};

/// Why a message cannot be a document.
pub(super) type Cause = Cow<'static, str>;

// === Documents ===

/// Documents, one behind the other.
pub(super) struct Documents {
    bytes: Vec<u8>,
    /// Of the message at hand.
    json: Vec<u8>,
}

impl Documents {
    /// With room for the documents of these messages, roughly.
    pub fn with_room_for(messages: &[Message]) -> Self {
        let sizes = messages.iter().map(|message| message.body.len() + ROOM);
        Self {
            bytes: Vec::with_capacity(sizes.sum()),
            json: Vec::new(),
        }
    }

    /// Appends the document of a message, and tells where it is; an error leaves nothing of it.
    pub fn push(&mut self, message: &Message) -> Result<Range<usize>, Cause> {
        let start = self.bytes.len();
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        json.extend_from_slice(&message.body);
        json.push(b'}');
        let written = self.write(message, &json);
        self.json = json;
        match written {
            Ok(()) => Ok(start..self.bytes.len()),
            Err(cause) => {
                self.bytes.truncate(start);
                Err(cause)
            }
        }
    }

    pub fn get(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    fn write(&mut self, message: &Message, json: &[u8]) -> Result<(), Cause> {
        let json = simdutf8::basic::from_utf8(json).map_err(|_| Cow::Borrowed(NO_DOCUMENT))?;
        let out = &mut self.bytes;
        let document = begin(out);
        push_name(out, ElementType::ObjectId, "_id");
        out.extend_from_slice(&message.id.0);
        push_name(out, ElementType::String, "conversation_id");
        push_text(out, message.conversation.as_str());
        let mut fields = Fields {
            out,
            seen: [false; FIELDS.len()],
            others: HashSet::new(),
            refused: None,
        };
        let read = json::members(json, |member| fields.push(member));
        if let Some(cause) = fields.refused {
            return Err(cause);
        }
        read.map_err(|_| Cow::Borrowed(NO_DOCUMENT))?;
        push_name(out, ElementType::Boolean, "is_spam");
        out.push(message.is_spam.into());
        if message.seq != Seq::NONE {
            push_name(out, ElementType::Int64, "seq");
            out.extend_from_slice(&int64(message.seq).to_le_bytes());
        }
        end(out, document);
        if out.len() - document > DOCUMENT_BYTES_MAX {
            return Err("the message is larger than a document may be".into());
        }
        Ok(())
    }
}

/// A place as MongoDB counts: places are below 2^53.
pub(super) fn int64(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// The members of a message's JSON, except those that a document has from the message itself.
struct Fields<'o, 'a> {
    out: &'o mut Vec<u8>,
    seen: [bool; FIELDS.len()],
    /// Names that are none of ours.
    others: HashSet<Cow<'a, str>>,
    refused: Option<Cause>,
}

impl<'a> Fields<'_, 'a> {
    fn push(&mut self, member: Member<'a>) -> Result<(), NotJson> {
        self.try_push(member).map_err(|cause| {
            self.refused = Some(cause);
            NotJson
        })
    }

    fn try_push(&mut self, Member { name, value }: Member<'a>) -> Result<(), Cause> {
        let name = name.decode().ok_or(NOT_UNICODE)?;
        if OURS.contains(&name.as_ref()) {
            return Ok(());
        }
        let field = FIELDS.iter().position(|field| *field == name);
        let is_first = match field {
            Some(field) => !std::mem::replace(&mut self.seen[field], true),
            None => self.others.insert(name.clone()),
        };
        if !is_first {
            return Err("the message is no document: a field stands there twice".into());
        }
        let key = cstr(&name)?;
        if !value.get().starts_with('"') {
            return self.push_other(key, value.get());
        }
        let text = value.decode().ok_or(NOT_UNICODE)?;
        let date = match field {
            Some(TIMESTAMP) => date(&text),
            _ => None,
        };
        match date {
            Some(date) => {
                push_name(self.out, ElementType::DateTime, &name);
                self.out
                    .extend_from_slice(&date.timestamp_millis().to_le_bytes());
            }
            None => {
                push_name(self.out, ElementType::String, &name);
                push_text(self.out, &text);
            }
        }
        Ok(())
    }

    /// A value that is no text; few messages have any.
    fn push_other(&mut self, key: &CStr, json: &str) -> Result<(), Cause> {
        let no_document = |error| Cow::Owned(format!("{NO_DOCUMENT}: {error}"));
        let value: Bson = serde_json::from_str::<Value>(json)
            .map_err(|error| no_document(error.to_string()))?
            .0;
        let raw = RawBson::try_from(value).map_err(|error| no_document(error.to_string()))?;
        let mut alone = RawDocumentBuf::new();
        alone.append(key, raw);
        // Without its length and its end.
        let bytes = alone.as_bytes();
        self.out
            .extend_from_slice(bytes.get(4..bytes.len() - 1).unwrap_or_default());
        Ok(())
    }
}

fn cstr(name: &str) -> Result<&CStr, Cause> {
    name.try_into()
        .map_err(|_| Cow::Borrowed("the message is no document: a name holds a NUL"))
}

fn date(text: &str) -> Option<DateTime> {
    // Ours end in `Z`; others may have an offset.
    match humantime::parse_rfc3339(text) {
        Ok(instant) => Some(DateTime::from_system_time(instant)),
        Err(_) => DateTime::parse_rfc3339_str(text).ok(),
    }
}

// === BSON ===

/// Begins a document, or an array; the place at which it has to be ended.
pub(super) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Ends what was begun at `start`. What is larger than a length can tell is refused later, as too large.
pub(super) fn end(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// Begins an element; the name holds no NUL.
pub(super) fn push_name(out: &mut Vec<u8>, kind: ElementType, name: &str) {
    out.push(kind as u8);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

/// The value of an element that is a string.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    let length = i32::try_from(text.len() + 1).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// JSON that is no text, as BSON: not by the driver's own reader, which takes some objects for other types.
struct Value(Bson);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value(Bson::String(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value(Bson::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Value(Bson::Int64(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Value(match i64::try_from(value) {
            Ok(value) => Bson::Int64(value),
            Err(_) => Bson::Double(value as f64),
        }))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Value(Bson::Double(value)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value(Bson::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Value(value)) = seq.next_element::<Value>()? {
            values.push(value);
        }
        Ok(Value(Bson::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut document = Document::new();
        while let Some((name, Value(value))) = map.next_entry::<String, Value>()? {
            document.insert(name, value);
        }
        Ok(Value(Bson::Document(document)))
    }
}

/// Fields that a document has from the message itself, not from its JSON.
const OURS: [&str; 4] = ["_id", "conversation_id", "is_spam", "seq"];

/// What a document may have more than the JSON that it comes from.
const ROOM: usize = 96;

/// What every server takes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

const NO_DOCUMENT: &str = "the message is no document";
const NOT_UNICODE: &str = "the message is no document: a text is not Unicode";

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::rawdoc;
    use proptest::prelude::*;

    use super::*;
    use crate::chat::id::{ConversationId, MessageId};
    use crate::chat::message::push_timestamp;
    use crate::store::mongo::document::to_message;

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

    fn of_message(message: &Message) -> Result<RawDocumentBuf, Cause> {
        let mut documents = Documents::with_room_for(std::slice::from_ref(message));
        let range = documents.push(message)?;
        Ok(RawDocumentBuf::from_bytes(documents.get(range).to_vec()).unwrap())
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
