//! Messages as the scenarios need them, each with a fresh id.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use chat_svc::chat::id::{ConversationId, MessageId, MessageIdMaker, Seq};
use chat_svc::chat::message::Message;

use crate::unique;

pub fn conversation() -> ConversationId {
    ConversationId::new(unique()).unwrap()
}

/// Mostly as the service makes them, alike but for their end; some as it derives them, of any bytes.
pub fn fresh_id() -> MessageId {
    static MADE: AtomicU32 = AtomicU32::new(0);
    static MAKER: LazyLock<MessageIdMaker> =
        LazyLock::new(|| MessageIdMaker::new(getrandom::u64().unwrap().to_be_bytes()));
    if !MADE.fetch_add(1, Relaxed).is_multiple_of(5) {
        let now = UNIX_EPOCH.elapsed().unwrap();
        return MAKER.fresh(now.as_secs());
    }
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
