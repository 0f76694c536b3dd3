//! Recovery of a client's session after its connection broke: how far the client has read, as text, and what it claims
//! when it comes back.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::engineio::Sid;

/// Partitions that an offset may name.
const PARTITIONS_MAX: usize = 100_000;

// === Offset ===

/// A place in what is shown: of each partition of the log, the first offset that has not been shown.
///
/// As text: version, epoch and offsets in hexadecimal digits, `1-1-3e8` or `1-1-3e8.0.2a`. It tells nothing secret, and
/// one that a client made up shows that client no more than its rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offset {
    /// The log's life: offsets of another one mean nothing.
    pub epoch: u32,
    pub next: SmallVec<[u64; 2]>,
}

impl Offset {
    /// Reads what `Display` writes, and only that.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, epoch, next) = (parts.next()?, parts.next()?, parts.next()?);
        if version != VERSION || parts.next().is_some() {
            return None;
        }
        let next = next
            .split('.')
            .take(PARTITIONS_MAX + 1)
            .map(hex)
            .collect::<Option<SmallVec<[u64; 2]>>>()?;
        let epoch = hex(epoch)?.try_into().ok()?;
        (next.len() <= PARTITIONS_MAX).then_some(Self { epoch, next })
    }

    /// Moves past a record.
    pub fn pass(&mut self, partition: u32, offset: u64) {
        if let Some(next) = self.next.get_mut(partition as usize) {
            *next = (*next).max(offset + 1);
        }
    }

    /// The later place of each partition.
    pub fn join(&mut self, other: &Self) {
        for (next, other) in self.next.iter_mut().zip(&other.next) {
            *next = (*next).max(*other);
        }
    }

    /// Rises with every message shown.
    pub fn progress(&self) -> u64 {
        self.next
            .iter()
            .fold(0, |sum, next| sum.saturating_add(*next))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}-{:x}", self.epoch)?;
        for (n, next) in self.next.iter().enumerate() {
            let mark = if n == 0 { '-' } else { '.' };
            write!(f, "{mark}{next:x}")?;
        }
        Ok(())
    }
}

/// A number as `{:x}` writes it.
fn hex(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || !text.starts_with('0');
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (is_canonical && text.bytes().all(is_hex))
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

const VERSION: &str = "1";

// === Claim ===

/// What a client that comes back says of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Names the session, and proves that it is the client's.
    pub pid: Sid,
    pub read: Read,
}

/// How far a client says it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// It has got no message.
    Nothing,
    Until(Offset),
    /// What it says is no offset.
    Unreadable,
}

impl Claim {
    /// Reads a CONNECT's JSON object; `None` when it claims nothing.
    pub fn parse(auth: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Auth<'a> {
            #[serde(borrow)]
            pid: Option<&'a RawValue>,
            #[serde(borrow)]
            offset: Option<&'a RawValue>,
        }
        let auth: Auth<'_> = serde_json::from_str(auth).ok()?;
        let pid: String = serde_json::from_str(auth.pid?.get()).ok()?;
        let offset = |json: &RawValue| {
            let text: String = serde_json::from_str(json.get()).ok()?;
            Offset::parse(&text)
        };
        let read = match auth.offset {
            None => Read::Nothing,
            Some(json) => offset(json).map_or(Read::Unreadable, Read::Until),
        };
        let pid = Sid::parse(&pid)?;
        Some(Self { pid, read })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offset(next: &[u64]) -> Offset {
        Offset {
            epoch: 1,
            next: SmallVec::from_slice(next),
        }
    }

    proptest! {
        #[test]
        fn an_offset_comes_back_from_its_text(epoch: u32, next in prop::collection::vec(any::<u64>(), 1..40)) {
            let offset = Offset { epoch, next: next.into() };
            prop_assert_eq!(Offset::parse(&offset.to_string()), Some(offset));
        }

        #[test]
        fn only_what_is_written_is_read(text in "[0-9a-f.+-]{0,12}|\\PC{0,12}") {
            if let Some(offset) = Offset::parse(&text) {
                prop_assert_eq!(offset.to_string(), text);
            }
        }
    }

    #[test]
    fn garbage_is_no_offset() {
        for text in [
            "",
            "1",
            "1-1",
            "1-1-",
            "2-1-0",
            "1-1-0-0",
            "1-1-0.",
            "1-1-+1",
            "1-1-01",
            "1-1-A",
            "1-100000000-0",
            "1-1-10000000000000000",
            "hello",
            "1-1-é",
        ] {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
        assert_eq!(Offset::parse("1-1-3e8.0.2a"), Some(offset(&[1000, 0, 42])));
    }

    #[test]
    fn places_only_move_on() {
        let mut place = offset(&[5, 5]);
        place.pass(0, 9);
        place.pass(1, 2);
        place.pass(7, 2);
        assert_eq!(place, offset(&[10, 5]));
        place.join(&offset(&[3, 8]));
        assert_eq!(place, offset(&[10, 8]));
        assert_eq!(place.progress(), 18);
    }

    #[test]
    fn a_claim_needs_a_pid() {
        let pid = Sid::new([7; 15]);
        let claim = |read| Some(Claim { pid, read });
        let with = |rest: &str| Claim::parse(&format!("{{\"pid\":\"{pid}\"{rest}}}"));
        assert_eq!(with(""), claim(Read::Nothing));
        assert_eq!(with(",\"offset\":null,\"token\":[1]"), claim(Read::Nothing));
        assert_eq!(
            with(",\"offset\":\"1-1-5\""),
            claim(Read::Until(offset(&[5])))
        );
        for rest in [",\"offset\":5", ",\"offset\":\"x\"", ",\"offset\":{}"] {
            assert_eq!(with(rest), claim(Read::Unreadable), "{rest}");
        }
        for auth in [
            "{}",
            "{\"pid\":1}",
            "{\"pid\":\"short\"}",
            "{\"pid\":null}",
            "{\"offset\":\"1-1-5\"}",
        ] {
            assert_eq!(Claim::parse(auth), None, "{auth}");
        }
        assert_eq!(with(",\"pid\":\"x\""), None, "which of the two?");
    }
}
