//! A row of messages: some of one conversation that follow each other, so that many cost little more than one.
//!
//! A run's key is its first message's ([`Key`]). No two runs of a conversation overlap, so runs in the order of their
//! keys are messages in the order of their places. One message alone is a flag and its body; several are the mark of
//! `SEVERAL`, then each with its place, flag, length and body.

use bytes::Bytes;

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;

/// Bytes of a run, unless one message alone is larger: about what a page of history takes.
pub const RUN_BYTES_MAX: usize = 32 << 10;

/// Bytes of a key after the conversation: `seq` and message id.
const PLACE_BYTES: usize = 8 + 12;

/// First byte of a run of several messages. Of one alone it is `is_spam`: 0 or 1.
const SEVERAL: u8 = 2;

/// What stands before each body in a run of several.
const HEAD_BYTES: usize = PLACE_BYTES + 1 + 4;

// === Key ===

/// Makes keys: the conversation's length (so that no conversation's keys lie among another's) and bytes, then the
/// place. That is the `seq`, big-endian so that keys sort as it does, and the id, so that even a log that counts anew
/// by mistake overwrites nothing.
pub struct Key {
    bytes: Vec<u8>,
    prefix: usize,
}

impl Key {
    /// For keys of one conversation.
    pub fn of(conversation: &ConversationId) -> Self {
        let id = conversation.as_bytes();
        let length = u16::try_from(id.len()).expect("a conversation id has at most 1,024 bytes");
        let mut bytes = Vec::with_capacity(2 + id.len() + PLACE_BYTES + 1);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(id);
        let prefix = bytes.len();
        Self { bytes, prefix }
    }

    /// The key of a message at this place.
    pub fn at(&mut self, (seq, id): (Seq, MessageId)) -> &[u8] {
        self.bytes.truncate(self.prefix);
        self.bytes.extend_from_slice(&seq.0.to_be_bytes());
        self.bytes.extend_from_slice(&id.0);
        &self.bytes
    }

    /// Below all keys of the conversation.
    pub fn start(&self) -> Vec<u8> {
        self.bytes[..self.prefix].to_vec()
    }

    /// Above all keys of the conversation.
    pub fn end(&self) -> Vec<u8> {
        [&self.bytes[..self.prefix], &[0xff; PLACE_BYTES + 1]].concat()
    }
}

// === Run ===

/// A row as it was read.
pub struct Run<K, V> {
    pub key: K,
    value: V,
}

/// A message within a run.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub seq: Seq,
    pub id: MessageId,
    is_spam: bool,
    body: &'a [u8],
}

impl<'a> Row<'a> {
    pub fn place(&self) -> (Seq, MessageId) {
        (self.seq, self.id)
    }

    pub fn to_message(self, conversation: &ConversationId) -> Message {
        Message {
            id: self.id,
            conversation: conversation.clone(),
            seq: self.seq,
            is_spam: self.is_spam,
            body: Bytes::copy_from_slice(self.body),
        }
    }
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> Run<K, V> {
    /// The row of this key and value; whether it can be read shows later.
    pub fn new(key: K, value: V) -> Self {
        Self { key, value }
    }

    /// The conversation; `None` when the key is none of ours.
    pub fn conversation(&self) -> Option<ConversationId> {
        let (id, _) = split(self.key.as_ref())?;
        ConversationId::new(Bytes::copy_from_slice(id))
    }

    /// The messages in rising order, at least one; `None` when they cannot be read.
    pub fn rows(&self) -> Option<Vec<Row<'_>>> {
        let (mark, mut rest) = self.value.as_ref().split_first()?;
        if *mark != SEVERAL {
            let (_, place) = split(self.key.as_ref())?;
            return Some(vec![row(place, *mark, rest)?]);
        }
        let mut rows = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let (place, head) = head.split_at(PLACE_BYTES);
            let (is_spam, length) = head.split_first()?;
            let length = u32::from_be_bytes(length.try_into().ok()?);
            let (body, behind) = behind.split_at_checked(length as usize)?;
            rows.push(row(place, *is_spam, body)?);
            rest = behind;
        }
        (rest.is_empty() && !rows.is_empty()).then_some(rows)
    }
}

/// A key's conversation and place.
fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = key.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn row<'a>(place: &[u8], is_spam: u8, body: &'a [u8]) -> Option<Row<'a>> {
    let (seq, id) = place.split_first_chunk()?;
    Some(Row {
        seq: Seq(u64::from_be_bytes(*seq)),
        id: MessageId(id.try_into().ok()?),
        is_spam: is_spam != 0,
        body,
    })
}

/// Cuts messages into runs of at most [`RUN_BYTES_MAX`], or one message; none is empty.
pub fn cut<'a, 'm>(messages: &'a [&'m Message]) -> impl Iterator<Item = &'a [&'m Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 1;
        let fits = |message: &&&Message| {
            bytes += HEAD_BYTES + message.body.len();
            bytes <= RUN_BYTES_MAX
        };
        let count = rest.iter().take_while(fits).count();
        let (run, behind) = rest.split_at(count.max(1).min(rest.len()));
        rest = behind;
        (!run.is_empty()).then_some(run)
    })
}

/// Writes a run's value in place of what `out` held.
pub fn write(run: &[&Message], out: &mut Vec<u8>) {
    out.clear();
    if let [message] = run {
        out.push(u8::from(message.is_spam));
        out.extend_from_slice(&message.body);
        return;
    }
    out.push(SEVERAL);
    for message in run {
        let length = u32::try_from(message.body.len()).expect("a run of several is small");
        out.extend_from_slice(&message.seq.0.to_be_bytes());
        out.extend_from_slice(&message.id.0);
        out.push(u8::from(message.is_spam));
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&message.body);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(seq: u64, is_spam: bool, body: Vec<u8>) -> Message {
        Message {
            id: MessageId([seq as u8; 12]),
            conversation: ConversationId::new("a:b").unwrap(),
            seq: Seq(seq),
            is_spam,
            body: body.into(),
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(bodies in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..99)), 1..9)) {
            let mut seq = 0;
            let messages: Vec<_> = bodies.into_iter().map(|(spam, body)| { seq += 1; message(seq, spam, body) }).collect();
            let refs: Vec<_> = messages.iter().collect();
            let mut value = Vec::new();
            write(&refs, &mut value);
            let mut key = Key::of(&messages[0].conversation);
            let run = Run::new(key.at(messages[0].place()), value);
            let conversation = run.conversation().unwrap();
            let read: Vec<_> = run.rows().unwrap().iter().map(|row| row.to_message(&conversation)).collect();
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_refused(key in prop::collection::vec(any::<u8>(), 0..40), value in prop::collection::vec(0..4_u8, 0..80)) {
            let run = Run::new(key, value);
            let _any = (run.conversation(), run.rows().map(|rows| rows.len()));
        }
    }

    #[test]
    fn a_run_is_cut_at_its_limit() {
        let half = (RUN_BYTES_MAX - 1) / 2 - HEAD_BYTES;
        let counts = |bodies: &[usize]| {
            let messages: Vec<_> = bodies
                .iter()
                .map(|n| message(1, false, vec![b'x'; *n]))
                .collect();
            let refs: Vec<_> = messages.iter().collect();
            cut(&refs).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(counts(&[half, half]), [2]);
        assert_eq!(counts(&[half, half + 2]), [1, 1]);
        assert_eq!(counts(&[2 * RUN_BYTES_MAX, 1, 1]), [1, 2]);
        assert_eq!(counts(&[]), [0; 0]);
    }
}
