//! A quote was accepted: the event of another service becomes one system message to both people concerned.

use serde_json::{Map, Value};

use crate::chat::id::{ConversationId, ID_BYTES_MAX, MessageId};
use crate::chat::message::{LOG_ENDING, Sealed, push_timestamp};
use crate::json;

/// The only event type that becomes a message.
pub const QUOTE_ACCEPTED: &str = "QUOTE_ACCEPTED";

/// An accepted quote.
#[derive(Debug, PartialEq, Eq)]
pub struct Quote {
    quote_id: String,
    client_id: String,
    professional_id: String,
    conversation: ConversationId,
}

/// What a quote event turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum QuoteEvent {
    Accepted(Quote),
    /// Another event type: nothing to do.
    Ignored(String),
}

/// Why a quote event cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error("the event must be a JSON object")]
    NotAnObject,
    #[error("the event has no type (event_type, eventType, type or event)")]
    TypeMissing,
    #[error("the event has no {0}")]
    Missing(&'static str),
    #[error("{0} must be a string or an integer of at most 1024 bytes")]
    InvalidId(&'static str),
}

impl QuoteEvent {
    /// Reads an event: snake or camel case, its fields flat or under `data` or `payload`.
    pub fn parse(json: &[u8]) -> Result<Self, QuoteError> {
        let value: Value = serde_json::from_slice(json).map_err(|_| QuoteError::NotAnObject)?;
        let event = value.as_object().ok_or(QuoteError::NotAnObject)?;
        let inner = ["data", "payload"]
            .iter()
            .find_map(|name| event.get(*name)?.as_object());
        let kind = kind(event)
            .or_else(|| kind(inner?))
            .ok_or(QuoteError::TypeMissing)?;
        if kind != QUOTE_ACCEPTED {
            return Ok(Self::Ignored(kind.to_owned()));
        }
        Quote::parse(&[inner.unwrap_or(event), event]).map(Self::Accepted)
    }
}

impl Quote {
    fn parse(places: &[&Map<String, Value>]) -> Result<Self, QuoteError> {
        let need =
            |names: [&'static str; 2]| id(places, names)?.ok_or(QuoteError::Missing(names[0]));
        let quote_id = need(["quote_id", "quoteId"])?;
        let client_id = need(["client_id", "clientId"])?;
        let professional_id = need(["professional_id", "professionalId"])?;
        let conversation = match id(places, ["conversation_id", "conversationId"])? {
            Some(id) => ConversationId::new(id).ok_or(QuoteError::InvalidId("conversation_id"))?,
            None => ConversationId::between(&client_id, &professional_id),
        };
        Ok(Self {
            quote_id,
            client_id,
            professional_id,
            conversation,
        })
    }

    /// The id of its system message: the same for every replay of the event.
    pub fn message_id(&self) -> MessageId {
        MessageId::derived([b"quote accepted".as_slice(), self.quote_id.as_bytes()])
    }

    /// Writes the system message.
    pub fn seal(&self, unix_ms: u64) -> Sealed {
        let id = self.message_id();
        let mut out = Vec::with_capacity(512);
        let mut put = |literal: &str, value: &str| {
            out.extend_from_slice(literal.as_bytes());
            json::push_string(&mut out, value);
        };
        put("{\"_id\":", &id.to_string());
        put(",\"conversation_id\":", self.conversation.as_str());
        put(",\"sender_id\":", "system");
        put(",\"receiver_id\":", &self.client_id);
        put(
            ",\"text_content\":",
            &format!("Quote {} was accepted.", self.quote_id),
        );
        out.extend_from_slice(b",\"message_type\":\"system\",\"timestamp\":\"");
        push_timestamp(&mut out, unix_ms);
        let mut put = |literal: &str, value: &str| {
            out.extend_from_slice(literal.as_bytes());
            json::push_string(&mut out, value);
        };
        put("\",\"participants\":[", &self.client_id);
        put(",", &self.professional_id);
        put("],\"metadata\":{\"event_type\":", QUOTE_ACCEPTED);
        put(",\"quote_id\":", &self.quote_id);
        out.push(b'}');
        out.extend_from_slice(LOG_ENDING);
        let value = out.len();
        out.push(b'[');
        json::push_string(&mut out, &self.client_id);
        out.push(b',');
        json::push_string(&mut out, &self.professional_id);
        out.push(b']');
        let conversation = self.conversation.as_str();
        Sealed::new(id, "system", true, out, value, conversation)
    }
}

fn kind(place: &Map<String, Value>) -> Option<&str> {
    let names = ["event_type", "eventType", "type", "event"];
    let kinds = names
        .iter()
        .filter_map(|name| place.get(*name).and_then(Value::as_str));
    kinds.into_iter().find(|kind| !kind.is_empty())
}

/// The first of these names that has a value, in the first place that has it. `null` and `""` mean missing.
fn id(
    places: &[&Map<String, Value>],
    names: [&'static str; 2],
) -> Result<Option<String>, QuoteError> {
    let values = places
        .iter()
        .flat_map(|place| names.iter().filter_map(|name| place.get(*name)));
    for value in values {
        let id = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => return Err(QuoteError::InvalidId(names[0])),
        };
        match id.len() {
            0 => continue,
            1..=ID_BYTES_MAX => return Ok(Some(id)),
            _ => return Err(QuoteError::InvalidId(names[0])),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(json: &str) -> Quote {
        match QuoteEvent::parse(json.as_bytes()) {
            Ok(QuoteEvent::Accepted(quote)) => quote,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn every_shape_is_the_same_quote() {
        let flat = accepted(
            r#"{"event_type":"QUOTE_ACCEPTED","quote_id":"q","client_id":"c","professional_id":7}"#,
        );
        for json in [
            r#"{"eventType":"QUOTE_ACCEPTED","quoteId":"q","clientId":"c","professionalId":"7"}"#,
            r#"{"type":"QUOTE_ACCEPTED","data":{"quote_id":"q","clientId":"c","professional_id":7}}"#,
            r#"{"event":"QUOTE_ACCEPTED","payload":{"quoteId":"q","client_id":"c","professionalId":7,"conversationId":null}}"#,
            r#"{"data":{"type":"QUOTE_ACCEPTED","quoteId":"q","client_id":"c","professional_id":7}}"#,
            r#"{"type":"QUOTE_ACCEPTED","quote_id":"q","data":{"client_id":"c","professional_id":"7","conversation_id":""}}"#,
        ] {
            assert_eq!(accepted(json), flat);
        }
    }

    #[test]
    fn other_types_are_ignored_and_unreadable_ones_refused() {
        let parse = |json: &str| QuoteEvent::parse(json.as_bytes());
        assert_eq!(
            parse(r#"{"type":"QUOTE_SENT"}"#),
            Ok(QuoteEvent::Ignored("QUOTE_SENT".into()))
        );
        assert_eq!(parse("[]"), Err(QuoteError::NotAnObject));
        assert_eq!(parse("{"), Err(QuoteError::NotAnObject));
        assert_eq!(parse(r#"{"quote_id":"q"}"#), Err(QuoteError::TypeMissing));
        assert_eq!(
            parse(r#"{"type":"QUOTE_ACCEPTED","quote_id":"q","client_id":"c"}"#),
            Err(QuoteError::Missing("professional_id"))
        );
        assert_eq!(
            parse(r#"{"type":"QUOTE_ACCEPTED","quote_id":{"$ne":1}}"#),
            Err(QuoteError::InvalidId("quote_id"))
        );
    }

    #[test]
    fn the_system_message_goes_to_both() {
        let quote = accepted(
            r#"{"type":"QUOTE_ACCEPTED","quote_id":"q\"1","client_id":"c","professional_id":"p"}"#,
        );
        let sealed = quote.seal(0);
        let message: Value = serde_json::from_slice(&sealed.value).unwrap();
        assert_eq!(message["_id"], quote.message_id().to_string());
        assert_eq!(message["sender_id"], "system");
        assert_eq!(message["receiver_id"], "c");
        assert_eq!(message["participants"], serde_json::json!(["c", "p"]));
        assert_eq!(
            message["metadata"],
            serde_json::json!({"event_type": "QUOTE_ACCEPTED", "quote_id": "q\"1"})
        );
        assert_eq!(sealed.recipients, r#"["c","p"]"#);
        assert!(sealed.at(crate::chat::id::Seq(1)).may_be_resent());
    }
}
