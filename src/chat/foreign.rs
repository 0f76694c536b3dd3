//! Messages that another producer wrote into the log: plain JSON, perhaps without our headers, id or time.

use serde::Deserialize;

use crate::chat::draft::Draft;
use crate::chat::id::MessageId;
use crate::chat::message::Sealed;
use crate::chat::rejection::Rejection;

/// What a foreign message may say beside a draft's fields. Anything else in these places counts as missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Marks {
    #[serde(rename = "_id")]
    id: Option<serde_json::Value>,
    timestamp: Option<serde_json::Value>,
}

/// Reads a foreign message as one of ours: its own `_id` and `timestamp` where they are valid, else `id` and `unix_ms`,
/// which the caller makes from the record's place, so that every reader makes the same.
pub fn read(json: &[u8], id: MessageId, unix_ms: u64) -> Result<Sealed, Rejection> {
    let json =
        std::str::from_utf8(json).map_err(|_| Rejection::Invalid("the message is not UTF-8"))?;
    let draft = Draft::parse(json).map_err(|refused| refused.rejection)?;
    let marks: Marks = serde_json::from_str(json)
        .map_err(|_| Rejection::Invalid("the message must be an object"))?;
    let own_id = marks
        .id
        .as_ref()
        .and_then(|id| MessageId::parse(id.as_str()?));
    let own_ms = marks.timestamp.as_ref().and_then(|time| match time {
        serde_json::Value::Number(ms) => ms.as_u64(),
        serde_json::Value::String(text) => {
            let at = humantime::parse_rfc3339_weak(text).ok()?;
            let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
            u64::try_from(since.as_millis()).ok()
        }
        _ => None,
    });
    Ok(draft.seal(own_id.unwrap_or(id), own_ms.unwrap_or(unix_ms)))
}

/// The id of a foreign message that has none: made from its place, so the same whoever reads it, and however often. In
/// another life of the log, its epoch, the same place is another message's.
pub fn id_of_place(topic: &str, epoch: u32, partition: u32, offset: u64) -> MessageId {
    let (life, partition, offset) = (
        epoch.to_le_bytes(),
        partition.to_le_bytes(),
        offset.to_le_bytes(),
    );
    let place = [b"foreign", topic.as_bytes(), &partition, &offset];
    // Stores hold ids of a first life that were made without it.
    let life = (epoch > 1).then_some(&life[..]);
    MessageId::derived(place.into_iter().chain(life))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn value(json: &str) -> Option<Value> {
        let sealed = read(json.as_bytes(), MessageId([7; 12]), 5).ok()?;
        Some(serde_json::from_slice(&sealed.value).unwrap())
    }

    #[test]
    fn its_own_id_and_time_are_kept() {
        let message = value(
            r#"{"_id":"0123456789ABCDEF01234567","sender_id":"a","receiver_id":"b","text_content":"t",
               "timestamp":"2023-11-14T22:13:20.123Z","is_spam":true,"seq":1}"#,
        );
        let message = message.unwrap();
        assert_eq!(message["_id"], "0123456789abcdef01234567");
        assert_eq!(message["timestamp"], "2023-11-14T22:13:20.123Z");
        assert_eq!(message["is_spam"], false);
        assert_eq!(message["conversation_id"], "a:b");
        let message =
            value(r#"{"sender_id":"a","receiver_id":"b","text_content":"t","timestamp":1000}"#);
        assert_eq!(message.unwrap()["timestamp"], "1970-01-01T00:00:01.000Z");
    }

    #[test]
    fn without_them_those_of_its_place_are_taken() {
        for marks in [
            "",
            r#","_id":7,"timestamp":"yesterday""#,
            r#","_id":{"$oid":1},"timestamp":{}"#,
        ] {
            let json =
                format!(r#"{{"sender_id":"a","receiver_id":"b","text_content":"t"{marks}}}"#);
            let message = value(&json).unwrap();
            assert_eq!(message["_id"], "070707070707070707070707");
            assert_eq!(message["timestamp"], "1970-01-01T00:00:00.005Z");
        }
        let id = |epoch, partition, offset| id_of_place("t", epoch, partition, offset);
        assert_eq!(id(1, 1, 2), id(1, 1, 2));
        for other in [id(1, 2, 1), id(2, 1, 2), id(3, 1, 2)] {
            assert_ne!(id(1, 1, 2), other);
        }
        assert_ne!(id(2, 1, 2), id(3, 1, 2));
    }

    #[test]
    fn what_is_no_message_is_none() {
        for json in ["", "null", "[]", "{}", r#"{"sender_id":"a"}"#, "\u{0}"] {
            assert_eq!(value(json), None, "{json}");
        }
        assert!(read(b"\xff", MessageId([0; 12]), 0).is_err());
    }
}
