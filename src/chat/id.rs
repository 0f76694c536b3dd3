//! Who, where and which: user, conversation and message ids, and a message's place in the order.
//!
//! Ids given by clients are opaque, non-empty strings of at most [`ID_BYTES_MAX`] bytes of UTF-8. Message ids are ours.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// Longest user, conversation or client message id, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 1024;

// === UserId ===

/// A user. Also the name of the room that user's sockets join.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Box<str>);

impl UserId {
    /// Takes an id of 1 to [`ID_BYTES_MAX`] bytes; `None` otherwise.
    pub fn new(id: impl Into<Box<str>>) -> Option<Self> {
        let id = id.into();
        fits(&id).then_some(Self(id))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn fits(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
}

// === ConversationId ===

/// A conversation: the key of its records, so the unit of order.
///
/// Cheap to clone; usually a slice of the record it came with.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Bytes);

impl ConversationId {
    /// Takes an id of 1 to [`ID_BYTES_MAX`] bytes of UTF-8; `None` otherwise.
    pub fn new(id: impl Into<Bytes>) -> Option<Self> {
        let id = id.into();
        std::str::from_utf8(&id).is_ok_and(fits).then_some(Self(id))
    }

    /// Bytes that have been an id, copied or cut out of others.
    pub(super) fn known(id: Bytes) -> Self {
        debug_assert!(std::str::from_utf8(&id).is_ok_and(fits));
        Self(id)
    }

    /// The conversation of two users, the same whoever writes first and never the same for two pairs:
    /// both ids encoded as ECMAScript's `encodeURIComponent` does, sorted by bytes, joined by `:`.
    /// Longer than [`ID_BYTES_MAX`], it is `dm_` and the first 32 hex digits of the SHA-256 of that.
    pub fn between(a: &str, b: &str) -> Self {
        Self(Self::text_between(a, b).into())
    }

    /// As [`ConversationId::between`], as text.
    pub fn text_between(a: &str, b: &str) -> String {
        let (a, b) = (encode_uri_component(a), encode_uri_component(b));
        let joined = if a <= b {
            [&*a, ":", &b].concat()
        } else {
            [&*b, ":", &a].concat()
        };
        if joined.len() <= ID_BYTES_MAX {
            return joined;
        }
        let digest = Sha256::digest(joined.as_bytes());
        let mut id = String::from("dm_");
        push_hex(&mut id, &digest[..16]);
        id
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a conversation id is UTF-8 by construction")
    }

    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl std::borrow::Borrow<[u8]> for ConversationId {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// ECMAScript's `encodeURIComponent`: everything but `A-Z a-z 0-9 - _ . ! ~ * ' ( )`.
fn encode_uri_component(text: &str) -> Cow<'_, str> {
    const SET: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'!')
        .remove(b'~')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');
    utf8_percent_encode(text, SET).into()
}

// === MessageId ===

/// Names one message for good: 12 bytes, shown as 24 lower-case hex digits (the shape of a BSON ObjectId).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub [u8; 12]);

/// By their bytes, compared as one number: thousands are sorted at once.
impl Ord for MessageId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let number = |[a, b, c, d, rest @ ..]: [u8; 12]| {
            (u32::from_be_bytes([a, b, c, d]), u64::from_be_bytes(rest))
        };
        number(self.0).cmp(&number(other.0))
    }
}

impl PartialOrd for MessageId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl MessageId {
    /// Reads 24 hex digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_hex(text.as_bytes())
    }

    /// As [`MessageId::parse`], from bytes.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        if text.len() != 24 {
            return None;
        }
        let mut id = [0; 12];
        for (byte, pair) in id.iter_mut().zip(text.as_chunks::<2>().0) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(id))
    }

    /// The id that a resend gets too: the first 96 bits of an unkeyed SHA-256 over `parts`, each preceded by its
    /// length, so that no two lists of parts run together.
    pub fn derived<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut id = [0; 12];
        id.copy_from_slice(&hash.finalize()[..12]);
        Self(id)
    }

    pub fn to_hex(self) -> [u8; 24] {
        let mut hex = [0; 24];
        for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = hex_pair(byte);
        }
        hex
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes fresh message ids as MongoDB's drivers make ObjectIds: seconds, a random value of this process, a counter.
#[derive(Debug)]
pub struct MessageIdMaker {
    process: [u8; 5],
    counter: AtomicU32,
}

impl MessageIdMaker {
    /// `seed` comes from the operating system's random source.
    pub fn new(seed: [u8; 8]) -> Self {
        let [a, b, c, d, e, rest @ ..] = seed;
        let start = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]);
        Self {
            process: [a, b, c, d, e],
            counter: AtomicU32::new(start),
        }
    }

    /// A fresh id. Unique for 16,777,216 ids within one second; orders nothing.
    pub fn fresh(&self, unix_seconds: u64) -> MessageId {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut id = [0; 12];
        id[..4].copy_from_slice(&(unix_seconds as u32).to_be_bytes());
        id[4..9].copy_from_slice(&self.process);
        id[9..].copy_from_slice(&counter[1..]);
        MessageId(id)
    }
}

// === Seq ===

/// A message's place in the order of its conversation: `epoch × 2^40 + offset`. Exact in a JSON number (below 2^53).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seq(pub u64);

impl Seq {
    /// No place: a message that was stored before there was a log. It stands before all that have one, and such
    /// messages stand among themselves in the order of their ids. Epochs start at 1, so no place in the log is this
    /// one.
    pub const NONE: Self = Self(0);

    /// Offsets an epoch has room for.
    pub const OFFSETS: u64 = 1 << 40;

    pub fn new(epoch: u32, offset: u64) -> Self {
        Self(u64::from(epoch) * Self::OFFSETS + offset)
    }

    pub fn epoch(self) -> u32 {
        (self.0 / Self::OFFSETS) as u32
    }

    pub fn offset(self) -> u64 {
        self.0 % Self::OFFSETS
    }
}

// === hex ===

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_pair(byte: u8) -> [u8; 2] {
    [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.extend(hex_pair(*byte).map(char::from));
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_id_has_1_to_1024_bytes() {
        assert!(UserId::new("").is_none());
        assert!(UserId::new("a".repeat(ID_BYTES_MAX)).is_some());
        assert!(UserId::new("a".repeat(ID_BYTES_MAX + 1)).is_none());
    }

    #[test]
    fn encode_uri_component_is_ecmascripts() {
        assert_eq!(
            encode_uri_component("a b:c%é'()*!~._-"),
            "a%20b%3Ac%25%C3%A9'()*!~._-"
        );
    }

    #[test]
    fn a_long_pair_of_users_gets_a_hashed_conversation() {
        let long = "x".repeat(ID_BYTES_MAX);
        let id = ConversationId::between(&long, "y");
        assert_eq!(id.as_str().len(), 35);
        assert!(id.as_str().starts_with("dm_"));
        assert_eq!(
            ConversationId::between(&"x".repeat(1022), "y")
                .as_str()
                .len(),
            1024
        );
    }

    #[test]
    fn fresh_ids_carry_the_time_and_never_repeat() {
        let maker = MessageIdMaker::new([1, 2, 3, 4, 5, 0xff, 0xff, 0xff]);
        let (a, b) = (maker.fresh(0x0102_0304), maker.fresh(0x0102_0304));
        assert_eq!(a.to_string(), "010203040102030405ffffff");
        assert_eq!(b.to_string(), "010203040102030405000000");
    }

    #[test]
    fn derived_parts_do_not_run_together() {
        let id = |parts: &[&str]| MessageId::derived(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(id(&["ab", "c"]), id(&["a", "bc"]));
        assert_ne!(id(&["ab"]), id(&["ab", ""]));
        assert_eq!(id(&["ab", "c"]), id(&["ab", "c"]));
    }

    proptest! {
        #[test]
        fn message_ids_come_back_from_their_text(bytes: [u8; 12]) {
            let id = MessageId(bytes);
            prop_assert_eq!(MessageId::parse(&id.to_string()), Some(id));
            prop_assert_eq!(MessageId::parse(&id.to_string().to_uppercase()), Some(id));
        }

        #[test]
        fn message_ids_are_ordered_as_their_bytes(a: [u8; 12], b: [u8; 12], common in 0usize..12) {
            let mut b = b;
            b[..common].copy_from_slice(&a[..common]);
            prop_assert_eq!(MessageId(a).cmp(&MessageId(b)), a.cmp(&b));
        }

        #[test]
        fn a_conversation_does_not_depend_on_who_writes_first(a in ".{1,20}", b in ".{1,20}") {
            prop_assert_eq!(ConversationId::between(&a, &b), ConversationId::between(&b, &a));
        }

        #[test]
        fn two_pairs_never_share_a_conversation(
            a in "[a:%]{1,4}", b in "[a:%]{1,4}", c in "[a:%]{1,4}", d in "[a:%]{1,4}",
        ) {
            let same = ConversationId::between(&a, &b) == ConversationId::between(&c, &d);
            prop_assert_eq!(same, (a == c && b == d) || (a == d && b == c));
        }

        #[test]
        fn seq_keeps_epoch_and_offset(epoch in 0u32..8192, offset in 0..Seq::OFFSETS) {
            let seq = Seq::new(epoch, offset);
            prop_assert!(seq.0 < 1 << 53);
            prop_assert_eq!((seq.epoch(), seq.offset()), (epoch, offset));
        }
    }
}
