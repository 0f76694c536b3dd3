//! Messages: as clients write them, as frames, as the log and the store get them.

use chat_svc::chat::draft::Draft;
use chat_svc::chat::id::{MessageIdMaker, Seq};
use chat_svc::chat::message::{Message, Sealed};
use chat_svc::protocol::websocket::{Decoder, Event, Opcode, Step, head};
use chat_svc::topic::Record;

/// A client's packet at most, as the server's limits have it.
pub const PAYLOAD_BYTES_MAX: usize = 1_000_000;

/// 2026-11-23T12:00:00Z.
pub const UNIX_MS: u64 = 1_795_435_200_000;

/// Who writes the messages.
pub const SENDER: &str = "user-0815";

/// To whom they go.
pub const RECEIVER: &str = "user-4712";

/// A `client_message_id`.
pub const NAME: &str = "0190b3f2-7c1e";

// === As clients write them ===

/// The argument of a `chatMessage`.
pub fn draft_json(text: &str, client_message_id: Option<&str>) -> String {
    let ids =
        format!(r#""conversation_id":"c-4711","sender_id":"{SENDER}","receiver_id":"{RECEIVER}""#);
    let named = client_message_id.map(|id| format!(r#","client_message_id":"{id}""#));
    let named = named.unwrap_or_default();
    format!(r#"{{{ids},"text_content":"{text}"{named}}}"#)
}

/// A `chatMessage` as a packet; a third of its letters is not ASCII. With 120 bytes of text some 250.
pub fn chat_message(text_bytes: usize, client_message_id: Option<&str>) -> String {
    let json = draft_json(&umlauts(text_bytes), client_message_id);
    format!(r#"42["chatMessage",{json}]"#)
}

pub fn umlauts(bytes: usize) -> String {
    "grüße ".repeat(bytes / 8)
}

/// The packet as a client's websocket frame, masked.
pub fn client_frame(packet: &str) -> Vec<u8> {
    let payload = packet.as_bytes();
    let (head, head_len) = head(Opcode::Text, payload.len());
    let mut frame = head[..head_len].to_vec();
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// Hands on the packet in a frame that holds one whole.
pub fn unframe<T>(frame: &mut [u8], take: impl FnOnce(&str) -> T) -> T {
    let (len, mut decoder) = (frame.len(), Decoder::new());
    match decoder.decode(frame, PAYLOAD_BYTES_MAX) {
        Ok(Step::Done {
            consumed,
            event: Some(Event::Text(packet)),
        }) if consumed == len => take(packet),
        _ => unreachable!("the frame is a whole text"),
    }
}

// === As the log and the store get them ===

/// Makes messages of which no two are equal, in 64 conversations, with 120 bytes of text that compresses as chats do.
pub struct Writer {
    ids: MessageIdMaker,
    written: u64,
    random: u64,
}

impl Writer {
    pub fn new() -> Self {
        let seed = getrandom::u64().expect("random");
        Self {
            ids: MessageIdMaker::new(seed.to_le_bytes()),
            written: 0,
            random: seed | 1,
        }
    }

    pub fn sealed(&mut self) -> Sealed {
        let text = self.text(120);
        let (n, receiver) = (self.written % 64, self.written % 1_000);
        let json = format!(
            r#"{{"conversation_id":"c-{n}","sender_id":"user-{n}","receiver_id":"user-{receiver}","text_content":"{text}"}}"#
        );
        self.written += 1;
        let draft = Draft::parse(&json).expect("a draft");
        draft.seal(self.ids.fresh(UNIX_MS / 1000), UNIX_MS)
    }

    pub fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut message = || {
            let seq = Seq::new(1, self.written);
            self.sealed().at(seq)
        };
        (0..count).map(|_| message()).collect()
    }

    /// As a lane hands them to the log.
    pub fn records(&mut self, count: usize) -> Vec<Record> {
        (0..count).map(|_| self.sealed().into()).collect()
    }

    fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            // xorshift64
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            text.push_str(WORDS[self.random as usize % WORDS.len()]);
            text.push(' ');
        }
        text.truncate(bytes);
        text
    }
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const WORDS: [&str; 32] = [
    "the", "we", "and", "tomorrow", "at", "station", "you", "coffee", "see", "is", "it", "train",
    "late", "again", "sorry", "from", "office", "with", "Anna", "meeting", "half", "past", "nine",
    "please", "bring", "keys", "of", "car", "thanks", "until", "then", "weekend",
];
