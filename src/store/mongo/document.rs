//! A BSON document as a message: what [`encode`](super::encode) made, and what an earlier service did.

use bytes::Bytes;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{RawBsonRef, RawDocument};

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::{Message, push_timestamp};
use crate::json;

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
pub(super) const FIELDS: [&str; 11] = [
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
pub(super) const TIMESTAMP: usize = 4;
const ATTACHMENT_URL: usize = 5;

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, raw::RawBson, rawdoc};

    use super::*;

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
}
