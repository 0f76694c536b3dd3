//! Messages as the scenarios need them, each with a fresh id.

use bytes::Bytes;
use chat_svc::chat::id::{ConversationId, MessageId, Seq};
use chat_svc::chat::message::Message;

use crate::unique;

pub fn conversation() -> ConversationId {
    ConversationId::new(unique()).unwrap()
}

pub fn fresh_id() -> MessageId {
    let mut id = [0; 12];
    getrandom::fill(&mut id).unwrap();
    MessageId(id)
}

pub fn message(conversation: &ConversationId, seq: u64) -> Message {
    let id = fresh_id();
    Message {
        id,
        conversation: conversation.clone(),
        seq: Seq(seq),
        is_spam: false,
        body: Bytes::from(format!(
            r#"{{"_id":"{id}","conversation_id":{},"sender_id":"ann","receiver_id":"bob","text_content":"number {seq}","message_type":"text","timestamp":"2026-08-01T12:00:00.123Z""#,
            serde_json::to_string(conversation.as_str()).unwrap(),
        )),
    }
}

/// The same message with another text.
pub fn with_text(message: Message, text: &str) -> Message {
    let body = std::str::from_utf8(&message.body).unwrap();
    let old = format!(r#""number {}""#, message.seq.0);
    let body = body.replacen(&old, &serde_json::to_string(text).unwrap(), 1);
    Message {
        body: body.into(),
        ..message
    }
}

/// Padded with text until it counts for so many bytes.
pub fn sized(message: Message, bytes: usize) -> Message {
    let bare = with_text(message.clone(), "").size();
    let sized = with_text(message, &"x".repeat(bytes - bare));
    assert_eq!(sized.size(), bytes);
    sized
}

pub fn messages(
    conversation: &ConversationId,
    seqs: impl IntoIterator<Item = u64>,
) -> Vec<Message> {
    seqs.into_iter()
        .map(|seq| message(conversation, seq))
        .collect()
}

/// The same message at another place, as a replay from elsewhere would bring it.
pub fn moved(message: &Message, seq: u64) -> Message {
    Message {
        seq: Seq(seq),
        ..message.clone()
    }
}
