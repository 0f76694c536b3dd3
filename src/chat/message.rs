//! A message: what a person (or the system) wrote, its JSON written once at the door and carried as it is.
//!
//! In the log the JSON ends in `,"is_spam":false}`; on the wire and in history `seq` follows. Between the two only that
//! ending differs, so the rest ("body") is never parsed or written again.

use bytes::Bytes;

use crate::chat::id::{ConversationId, MessageId, Seq};

/// How the JSON of every message ends in the log.
pub const LOG_ENDING: &[u8] = b",\"is_spam\":false}";

/// A message with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: MessageId,
    pub conversation: ConversationId,
    pub seq: Seq,
    pub is_spam: bool,
    /// The JSON object without its ending: `{"_id":"…", …` up to, not including, `,"is_spam"`.
    pub body: Bytes,
}

impl Message {
    /// Appends the message as clients get it: the body, then `is_spam` and `seq`.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_message(out, &self.body, self.is_spam, self.seq);
    }
}

/// Appends a message's JSON: `body` (see [`Message::body`]), then `is_spam` and `seq`.
pub fn write_message(out: &mut Vec<u8>, body: &[u8], is_spam: bool, seq: Seq) {
    out.extend_from_slice(body);
    out.extend_from_slice(if is_spam {
        b",\"is_spam\":true"
    } else {
        b",\"is_spam\":false"
    });
    out.extend_from_slice(b",\"seq\":");
    out.extend_from_slice(itoa::Buffer::new().format(seq.0).as_bytes());
    out.push(b'}');
}
