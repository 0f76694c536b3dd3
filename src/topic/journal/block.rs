//! A block: the records of one group commit as bytes, all or nothing by its checksum.
//!
//! Layout, little endian: magic 4, crc 4, payload length 4, record count 4, base offset 8, unix time in ms 8, payload.
//! The crc covers all that follows it and starts from the segment's salt, so that bytes which some
//! client sent, or an older file left on the disk, never pass for a block of this segment.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::topic::{Record, header};

/// Records that became durable together. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Offset of the first record; the others follow without a gap.
    pub base: u64,
    pub records: Arc<[Record]>,
}

impl Block {
    /// Offset after the last record.
    pub fn end(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    /// Decodes the block at the start of `bytes`; its records share that memory. `None` when it is not whole and sound.
    pub fn decode(bytes: &Bytes, salt: u32) -> Option<Block> {
        let head = Head::verify(bytes, salt)?;
        let mut payload = bytes.slice(HEAD_BYTES..head.block_bytes());
        let mut records = Vec::with_capacity(head.count as usize);
        for _ in 0..head.count {
            records.push(decode_record(&mut payload)?);
        }
        payload.is_empty().then_some(Block {
            base: head.base,
            records: records.into(),
        })
    }
}

/// What stands before a block's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    crc: u32,
    payload_bytes: u32,
    pub count: u32,
    pub base: u64,
    pub time_ms: u64,
}

impl Head {
    /// Reads a head that can be one; whether it is one, only [`Head::verify`] tells.
    pub fn parse(mut bytes: &[u8]) -> Option<Head> {
        if bytes.len() < HEAD_BYTES || !bytes.starts_with(&MAGIC) {
            return None;
        }
        bytes.advance(MAGIC.len());
        let head = Head {
            crc: bytes.get_u32_le(),
            payload_bytes: bytes.get_u32_le(),
            count: bytes.get_u32_le(),
            base: bytes.get_u64_le(),
            time_ms: bytes.get_u64_le(),
        };
        let payload = head.payload_bytes as usize;
        let plausible = payload <= PAYLOAD_BYTES_MAX
            && head.count > 0
            && head.count as usize * RECORD_HEAD_BYTES <= payload
            && head.base.checked_add(u64::from(head.count)).is_some();
        plausible.then_some(head)
    }

    /// The head of the block at the start of `bytes`, if that block is whole and its checksum right.
    pub fn verify(bytes: &[u8], salt: u32) -> Option<Head> {
        let head = Head::parse(bytes)?;
        let covered = bytes.get(CRC_FROM..head.block_bytes())?;
        (checksum(salt, covered) == head.crc).then_some(head)
    }

    /// Offset after the block's last record.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Bytes of head and payload.
    pub fn block_bytes(&self) -> usize {
        HEAD_BYTES + self.payload_bytes as usize
    }
}

/// Builds one block after the other in the same memory.
pub struct Encoder {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder {
            bytes: vec![0; HEAD_BYTES],
            count: 0,
        }
    }
}

impl Encoder {
    /// Forgets the block before. A buffer that one large block left behind is given back.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_KEPT_BYTES);
        self.bytes.resize(HEAD_BYTES, 0);
        self.count = 0;
    }

    /// Adds the record unless it belongs into the next block. An empty block takes any record.
    pub fn push(&mut self, record: &Record) -> bool {
        let full = self.bytes.len() - HEAD_BYTES + encoded_bytes(record) > BLOCK_BYTES_MAX;
        if self.count > 0 && (full || self.count >= BLOCK_RECORDS_MAX) {
            return false;
        }
        self.put_length(record.key.len());
        self.put_length(record.headers.len());
        self.put_length(record.value.len());
        self.bytes.extend_from_slice(&record.key);
        for (name, value) in &record.headers {
            self.put_length(name.len());
            self.put_length(value.len());
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.extend_from_slice(value);
        }
        self.bytes.extend_from_slice(&record.value);
        self.count += 1;
        true
    }

    /// Writes the head; the block's bytes.
    pub fn finish(&mut self, salt: u32, base: u64, time_ms: u64) -> &[u8] {
        let payload_bytes = (self.bytes.len() - HEAD_BYTES) as u32;
        self.bytes[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&base.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&time_ms.to_le_bytes());
        let crc = checksum(salt, &self.bytes[CRC_FROM..]);
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }

    /// Bytes of the block so far, its head included.
    pub fn block_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn put_length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u32).to_le_bytes());
    }
}

/// Whether a block can hold the record at all.
pub(super) fn fits(record: &Record) -> bool {
    record.headers.len() <= HEADERS_MAX && record.size() <= RECORD_BYTES_MAX
}

fn encoded_bytes(record: &Record) -> usize {
    RECORD_HEAD_BYTES + record.headers.len() * HEADER_HEAD_BYTES + record.size()
}

fn decode_record(payload: &mut Bytes) -> Option<Record> {
    let [key, headers, value] = [
        take_length(payload)?,
        take_length(payload)?,
        take_length(payload)?,
    ];
    if headers > HEADERS_MAX {
        return None;
    }
    let key = take(payload, key)?;
    let mut list = SmallVec::with_capacity(headers);
    for _ in 0..headers {
        let [name, value] = [take_length(payload)?, take_length(payload)?];
        let name = header_name(&take(payload, name)?)?;
        list.push((name, take(payload, value)?));
    }
    Some(Record {
        key,
        headers: list,
        value: take(payload, value)?,
    })
}

/// The names that we write ourselves cost no allocation.
fn header_name(bytes: &[u8]) -> Option<Cow<'static, str>> {
    let name = simdutf8::basic::from_utf8(bytes).ok()?;
    let ours = [header::MESSAGE_ID, header::RECIPIENTS, header::TYPE];
    Some(match ours.into_iter().find(|known| *known == name) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name.to_owned()),
    })
}

fn take_length(payload: &mut Bytes) -> Option<usize> {
    payload.try_get_u32_le().ok().map(|length| length as usize)
}

fn take(payload: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= payload.len()).then(|| payload.split_to(length))
}

fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// Key, headers and value of one record, together, at most.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
/// Bytes before a block's payload.
pub(super) const HEAD_BYTES: usize = 32;
/// No byte of it occurs in UTF-8, so text never looks like a block.
pub(super) const MAGIC: [u8; 4] = [0xFE, 0xF9, 0xFF, 0xFB];

const CRC_FROM: usize = 8;
const BLOCK_BYTES_MAX: usize = 8 << 20;
const BLOCK_RECORDS_MAX: u32 = 16_384;
const HEADERS_MAX: usize = 1_024;
const RECORD_HEAD_BYTES: usize = 12;
const HEADER_HEAD_BYTES: usize = 8;
const PAYLOAD_BYTES_MAX: usize = BLOCK_BYTES_MAX + RECORD_BYTES_MAX;
const BUFFER_KEPT_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;

    fn record(key: &'static str, value: &'static str) -> Record {
        Record {
            key: Bytes::from_static(key.as_bytes()),
            headers: smallvec![
                (Cow::Borrowed(header::TYPE), Bytes::from_static(b"text")),
                (Cow::Borrowed("x-foreign"), Bytes::new()),
            ],
            value: Bytes::from_static(value.as_bytes()),
        }
    }

    fn encode(records: &[Record], salt: u32) -> Bytes {
        let mut encoder = Encoder::default();
        encoder.begin();
        for record in records {
            assert!(encoder.push(record));
        }
        Bytes::copy_from_slice(encoder.finish(salt, 7, 1_700_000_000_000))
    }

    #[test]
    fn what_was_encoded_comes_back() {
        let records = [record("a", "one"), record("", "")];
        let bytes = encode(&records, 9);
        let head = Head::verify(&bytes, 9).expect("sound");
        assert_eq!((head.base, head.count, head.end()), (7, 2, 9));
        assert_eq!(head.time_ms, 1_700_000_000_000);
        assert_eq!(head.block_bytes(), bytes.len());
        assert_eq!(*Block::decode(&bytes, 9).expect("sound").records, records);
    }

    #[test]
    fn no_changed_bit_and_no_missing_byte_goes_unseen() {
        let bytes = encode(&[record("a", "one"), record("b", "two")], 9);
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert!(Head::verify(&changed, 9).is_none(), "bit at {at}");
            assert!(Head::verify(&bytes[..at], 9).is_none(), "cut at {at}");
        }
        assert!(Head::verify(&bytes, 8).is_none(), "another segment's");
    }

    #[test]
    fn a_block_is_full_at_its_bound_but_takes_one_record_of_any_size() {
        let mut encoder = Encoder::default();
        encoder.begin();
        let big = Record {
            key: Bytes::new(),
            headers: smallvec![],
            value: vec![0; RECORD_BYTES_MAX].into(),
        };
        let pushed = (0..10).take_while(|_| encoder.push(&big)).count();
        assert_eq!(pushed, 3);
        encoder.begin();
        let empty = Record {
            value: Bytes::new(),
            ..big
        };
        let pushed = (0..20_000).take_while(|_| encoder.push(&empty)).count();
        assert_eq!(pushed, 16_384);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes: Vec<u8>, salt: u32) {
            let mut block = MAGIC.to_vec();
            block.extend_from_slice(&bytes);
            prop_assert!(Block::decode(&Bytes::from(block), salt).is_none());
        }
    }
}
