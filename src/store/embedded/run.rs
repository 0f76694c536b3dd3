//! A row of messages: some of one conversation that follow each other, so that many cost little more than one.
//!
//! A run's key is its first message's ([`Key`]). No two runs of a conversation overlap, so runs in the order of their
//! keys are messages in the order of their places. One message alone is a flag and its body; several are the mark of
//! `SEVERAL`, then each with its place, flag, length and body. What is long is packed: the mark of `PACKED`, the length
//! and the LZ4 block of what it would be else.

use bytes::Bytes;
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;

/// Bytes of a run, unless one message alone is larger: about what a page of history takes.
pub const RUN_BYTES_MAX: usize = 32 << 10;

/// Bytes of a key after the conversation: `seq` and message id.
const PLACE_BYTES: usize = 8 + 12;

/// First byte of a run of several messages. Of one alone it is `is_spam`: 0 or 1.
const SEVERAL: u8 = 2;

/// First byte of what is packed.
const PACKED: u8 = 3;

/// What stands before a packed value's block.
const PACKED_HEAD_BYTES: usize = 1 + 4;

/// Shorter values are not worth packing by themselves: the engine packs them together.
const PACKED_BYTES_MIN: usize = 1 << 10;

/// An LZ4 block stands for fewer bytes than so many times its own. What claims more is damaged.
const LZ4_RATIO_MAX: usize = 256;

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
    value: Value<V>,
}

enum Value<V> {
    Plain(V),
    Unpacked(Vec<u8>),
}

impl<V: AsRef<[u8]>> Value<V> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(value) => value.as_ref(),
            Self::Unpacked(value) => value,
        }
    }
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
        let value = match unpacked(value.as_ref()) {
            Some(unpacked) => Value::Unpacked(unpacked),
            None => Value::Plain(value),
        };
        Self { key, value }
    }

    /// The conversation; `None` when the key is none of ours.
    pub fn conversation(&self) -> Option<ConversationId> {
        let (id, _) = split(self.key.as_ref())?;
        ConversationId::new(Bytes::copy_from_slice(id))
    }

    /// The messages in rising order, at least one; `None` when they cannot be read.
    pub fn rows(&self) -> Option<Vec<Row<'_>>> {
        let (mark, mut rest) = self.value.bytes().split_first()?;
        match *mark {
            is_spam @ (0 | 1) => {
                let (_, place) = split(self.key.as_ref())?;
                return Some(vec![row(place, is_spam, rest)?]);
            }
            SEVERAL => {}
            _ => return None,
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

/// What was packed; `None` when nothing was, or it is damaged.
fn unpacked(value: &[u8]) -> Option<Vec<u8>> {
    let (head, block) = value.split_first_chunk::<PACKED_HEAD_BYTES>()?;
    let [PACKED, length @ ..] = *head else {
        return None;
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > block.len().saturating_mul(LZ4_RATIO_MAX) {
        return None;
    }
    let mut plain = vec![0; length];
    (decompress_into(block, &mut plain).ok()? == length).then_some(plain)
}

/// Where the first message of this key's run stands; `None` when the key is none of ours.
pub fn first_place(key: &[u8]) -> Option<(Seq, MessageId)> {
    let (_, place) = split(key)?;
    Some(row(place, 0, &[])?.place())
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

/// Writes runs' values, one after the other in the same memory.
#[derive(Default)]
pub struct Writer {
    plain: Vec<u8>,
    packed: Vec<u8>,
    table: CompressTable,
}

impl Writer {
    /// The run's value.
    pub fn write(&mut self, run: &[&Message]) -> &[u8] {
        self.write_plain(run);
        let most = self.plain.len() - self.plain.len() / 8;
        if self.plain.len() < PACKED_BYTES_MIN || self.pack() > most {
            return &self.plain;
        }
        &self.packed
    }

    fn write_plain(&mut self, run: &[&Message]) {
        let out = &mut self.plain;
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

    /// How many bytes the value is packed.
    fn pack(&mut self) -> usize {
        let Ok(length) = u32::try_from(self.plain.len()) else {
            return usize::MAX;
        };
        let room = PACKED_HEAD_BYTES + get_maximum_output_size(self.plain.len());
        self.packed.resize(room, 0);
        self.packed[0] = PACKED;
        self.packed[1..PACKED_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        let block = &mut self.packed[PACKED_HEAD_BYTES..];
        let packed = compress_into_with_table(&self.plain, block, &mut self.table);
        let packed = packed.expect("there is room for what does not compress");
        self.packed.truncate(PACKED_HEAD_BYTES + packed);
        self.packed.len()
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
            let mut writer = Writer::default();
            let mut key = Key::of(&messages[0].conversation);
            let run = Run::new(key.at(messages[0].place()), writer.write(&refs));
            let conversation = run.conversation().unwrap();
            let read: Vec<_> = run.rows().unwrap().iter().map(|row| row.to_message(&conversation)).collect();
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_refused(key in prop::collection::vec(any::<u8>(), 0..40), value in prop::collection::vec(0..5_u8, 0..80)) {
            let run = Run::new(key, value);
            let _any = (run.conversation(), run.rows().map(|rows| rows.len()));
        }
    }

    #[test]
    fn what_is_long_is_packed_when_that_makes_it_shorter() {
        let mut writer = Writer::default();
        let mut random = 1_u64;
        let mut noise = |bytes: usize| {
            let step = |_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 56) as u8
            };
            (0..bytes).map(step).collect::<Vec<u8>>()
        };
        let words = |bytes: usize| {
            b"half past nine at the station ".repeat(bytes / 30 + 1)[..bytes].to_vec()
        };
        let long = PACKED_BYTES_MIN - 1;
        for (body, is_packed) in [
            (words(long - 1), false),
            (words(long), true),
            (words(3 << 20), true),
            (noise(long), false),
            (noise(100_000), false),
        ] {
            let message = message(7, true, body);
            let value = writer.write(&[&message]).to_vec();
            assert_eq!(value[0] == PACKED, is_packed);
            assert_eq!(value.len() < message.body.len(), is_packed);
            let run = Run::new(
                Key::of(&message.conversation).at(message.place()).to_vec(),
                value.clone(),
            );
            let rows = run.rows().unwrap();
            assert_eq!(
                rows.iter()
                    .map(|row| row.to_message(&message.conversation))
                    .collect::<Vec<_>>(),
                [message]
            );
            if is_packed {
                let cut = Run::new(run.key.clone(), value[..value.len() - 1].to_vec());
                assert!(cut.rows().is_none(), "a damaged value is no message");
            }
        }
        let claims_much = [&[PACKED][..], &u32::MAX.to_be_bytes(), &[0; 9]].concat();
        assert!(Run::new(Vec::new(), claims_much).rows().is_none());
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
