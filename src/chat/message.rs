//! A message: what a person (or the system) wrote, its JSON written once at the door and carried as it is.
//!
//! In the log the JSON ends in `,"is_spam":false}`; on the wire and in history `seq` follows. Between the two only that
//! ending differs, so the rest (the body) is never parsed or written again.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use memchr::memmem::Finder;

use crate::chat::id::{ConversationId, MessageId, Seq};

/// How the JSON of every message ends in the log.
pub const LOG_ENDING: &[u8] = b",\"is_spam\":false}";

/// How it begins: `_id` comes first.
const BEGINNING: &[u8] = b"{\"_id\":\"";

// === Sealed ===

/// A message ready for the log: written, but without a place yet. All parts share one allocation.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub id: MessageId,
    pub conversation: ConversationId,
    /// `text`, `attachment` or `system`.
    pub kind: &'static str,
    /// The JSON object, ending in [`LOG_ENDING`].
    pub value: Bytes,
    /// JSON array of the users whose rooms get it.
    pub recipients: Bytes,
    /// The 24 hex digits of `id`.
    pub id_hex: Bytes,
    /// Whether the id was derived, so that the same message may come again under it.
    pub may_be_resent: bool,
}

impl Sealed {
    /// Takes what was written: the JSON (from `{"_id":"…` to [`LOG_ENDING`]), `value` bytes, and behind it the array of
    /// recipients. `conversation` is the id of one.
    pub(super) fn new(
        id: MessageId,
        kind: &'static str,
        may_be_resent: bool,
        mut written: Vec<u8>,
        value: usize,
        conversation: &str,
    ) -> Self {
        let recipients = written.len();
        written.extend_from_slice(conversation.as_bytes());
        let all = Bytes::from(written);
        Self {
            id,
            kind,
            may_be_resent,
            value: all.slice(..value),
            recipients: all.slice(value..recipients),
            id_hex: all.slice(BEGINNING.len()..BEGINNING.len() + 24),
            conversation: ConversationId::known(all.slice(recipients..)),
        }
    }

    /// The message at its place in the log.
    pub fn at(&self, seq: Seq) -> Message {
        Message {
            id: self.id,
            conversation: self.conversation.clone(),
            seq,
            is_spam: false,
            body: self.value.slice(..self.value.len() - LOG_ENDING.len()),
        }
    }
}

/// Appends an instant as RFC 3339 in UTC with milliseconds, ending in `Z`.
pub fn push_timestamp(out: &mut Vec<u8>, unix_ms: u64) {
    thread_local! {
        /// The last second written: most are of the same one.
        static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
    }
    // Past the year 9999 there is no RFC 3339; a clock that says so is broken, and its last valid instant will do.
    let unix_ms = unix_ms.min(253_402_300_799_999);
    let (unix_seconds, ms) = (unix_ms / 1000, (unix_ms % 1000) as u16);
    let (mut known, mut text) = SECOND.get();
    if known != unix_seconds {
        let at = UNIX_EPOCH + Duration::from_secs(unix_seconds);
        let formatted = humantime::format_rfc3339_seconds(at).to_string();
        text.copy_from_slice(&formatted.as_bytes()[..19]);
        known = unix_seconds;
        SECOND.set((known, text));
    }
    let digit = |value: u16| b'0' + (value % 10) as u8;
    out.extend_from_slice(&text);
    out.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
}

// === Message ===

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
    /// Reads a record that this service wrote: its key and its value. `None` when it is not one of ours.
    pub fn from_log(key: &Bytes, value: &Bytes, seq: Seq) -> Option<Self> {
        let hex = value.strip_prefix(BEGINNING)?.get(..24)?;
        let id = MessageId::from_hex(hex)?;
        let conversation = ConversationId::new(key.clone())?;
        let body = value.slice(..value.strip_suffix(LOG_ENDING)?.len());
        Some(Self {
            id,
            conversation,
            seq,
            is_spam: false,
            body,
        })
    }

    /// Whether the id was derived, so that the same message may come again under it.
    pub fn may_be_resent(&self) -> bool {
        may_be_resent(&self.body)
    }

    /// Its `receiver_id`, read back from the body: for the few that come without a list of recipients.
    pub fn receiver(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Receiver {
            receiver_id: String,
        }
        let mut json = self.body.to_vec();
        json.push(b'}');
        serde_json::from_slice(&json)
            .ok()
            .map(|Receiver { receiver_id }| receiver_id)
    }

    /// Where the message stands in its conversation, and no other does.
    pub fn place(&self) -> (Seq, MessageId) {
        (self.seq, self.id)
    }

    /// Appends the message as clients get it: the body, then `is_spam` and, unless it has none, `seq`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.body);
        let spam: &[u8] = if self.is_spam {
            b",\"is_spam\":true"
        } else {
            b",\"is_spam\":false"
        };
        out.extend_from_slice(spam);
        if self.seq != Seq::NONE {
            out.extend_from_slice(b",\"seq\":");
            out.extend_from_slice(itoa::Buffer::new().format(self.seq.0).as_bytes());
        }
        out.push(b'}');
    }

    /// Bytes that [`Message::write`] will append, at most.
    pub fn size(&self) -> usize {
        self.body.len() + 48
    }
}

/// Inside a JSON string a quote is escaped, so these bytes can only be our own fields.
fn may_be_resent(json: &[u8]) -> bool {
    // Made once: a searcher costs more to make than a short message to search.
    static MARKS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| {
        [
            Finder::new(b",\"client_message_id\":"),
            Finder::new(b",\"message_type\":\"system\""),
        ]
    });
    MARKS.iter().any(|mark| mark.find(json).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::draft::Draft;

    fn sealed(json: &str) -> Sealed {
        Draft::parse(json).unwrap().seal(MessageId([7; 12]), 0)
    }

    #[test]
    fn a_message_read_from_the_log_is_the_one_sealed() {
        let sealed = sealed(r#"{"sender_id":"a","receiver_id":"b","text_content":"t"}"#);
        let seq = Seq::new(1, 5);
        let key = sealed.conversation.as_bytes();
        let read = Message::from_log(key, &sealed.value, seq).unwrap();
        assert_eq!(read, sealed.at(seq));
        let mut json = Vec::new();
        read.write(&mut json);
        assert!(json.len() <= read.size());
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["seq"], seq.0);
        assert_eq!(value["is_spam"], false);
    }

    #[test]
    fn a_message_without_a_place_is_shown_without_seq() {
        let message = sealed(r#"{"sender_id":"a","receiver_id":"b","text_content":"t"}"#);
        let mut json = Vec::new();
        message.at(Seq::NONE).write(&mut json);
        assert!(json.ends_with(LOG_ENDING));
    }

    #[test]
    fn what_is_not_ours_is_not_read_as_ours() {
        let key = Bytes::from_static(b"k");
        for value in [
            "",
            "{}",
            "{\"_id\":\"zz\"}",
            "{\"_id\":\"070707070707070707070707\"}",
        ] {
            assert!(
                Message::from_log(&key, &Bytes::from(value), Seq(1)).is_none(),
                "{value}"
            );
        }
    }

    #[test]
    fn only_a_field_of_ours_marks_a_resend() {
        let at = |json: &str| sealed(json).at(Seq(1));
        assert!(
            !at(r#"{"sender_id":"a","receiver_id":"b","text_content":",\"client_message_id\":"}"#)
                .may_be_resent()
        );
        assert!(
            at(r#"{"sender_id":"a","receiver_id":"b","text_content":"t","client_message_id":"c"}"#)
                .may_be_resent()
        );
    }

    #[test]
    fn timestamps_have_milliseconds_and_end_in_z() {
        let mut out = Vec::new();
        push_timestamp(&mut out, 1_700_000_000_007);
        assert_eq!(out, b"2023-11-14T22:13:20.007Z");
        for (unix_ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_999, "2023-11-14T22:13:20.999Z"),
            (1_700_000_001_010, "2023-11-14T22:13:21.010Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            out.clear();
            push_timestamp(&mut out, unix_ms);
            assert_eq!(str::from_utf8(&out), Ok(expected));
        }
    }
}
