//! From a message's id to the key of its run.
//!
//! Ids that this service makes in one second differ in their last bytes only. Many of them inserted together are one
//! row, a pack, under the lowest of them in `packs`. Any other id has a row of its own in `ids`, which is believed
//! first.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Slice};
use foldhash::fast::RandomState;

use super::fault::Fault;
use crate::chat::id::MessageId;

/// Bytes that siblings have in common: second and process ([`crate::chat::id::MessageIdMaker`]).
const COMMON_BYTES: usize = 9;
/// Bytes in which they differ.
const OWN_BYTES: usize = 12 - COMMON_BYTES;
/// Fewer siblings are not worth a pack: to look into packs takes longer.
const PACK_IDS_MIN: usize = 16;
/// Ids of one pack, so that finding one reads little.
const PACK_IDS_MAX: usize = 1024;

const MEMTABLE_BYTES: u64 = 8 << 20;

pub struct Index {
    ids: Keyspace,
    packs: Keyspace,
    /// The first and the last second of any packed id; most ids that are not packed fall outside.
    first: AtomicU32,
    last: AtomicU32,
}

impl Index {
    pub fn open(db: &Database) -> fjall::Result<Self> {
        let ids = db.keyspace("ids", id_options)?;
        let packs = db.keyspace("packs", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .filter_policy(FilterPolicy::disabled())
        })?;
        let first = packs.first_key_value().map(Guard::key).transpose()?;
        let last = packs.last_key_value().map(Guard::key).transpose()?;
        Ok(Self {
            ids,
            packs,
            first: first.map_or(u32::MAX, |id| second(&id)).into(),
            last: last.map_or(0, |id| second(&id)).into(),
        })
    }

    /// The key of the run that holds the message.
    pub fn get(&self, id: MessageId) -> Result<Option<Slice>, Fault> {
        if let Some(key) = self.ids.get(id.0)? {
            return Ok(Some(key));
        }
        for row in self.packs_up_to(id) {
            let (_, value) = row.into_inner()?;
            let pack = Pack::read(&value).ok_or(Fault::Unreadable)?;
            if let Some(key) = pack.find(own(id)) {
                return Ok(Some(key.into()));
            }
        }
        Ok(None)
    }

    /// Which of these are there; `ids` in rising order.
    pub fn stored(&self, ids: &[MessageId]) -> Result<HashSet<MessageId>, Fault> {
        let mut stored = HashSet::new();
        for siblings in ids.chunk_by(are_siblings) {
            if siblings.len() < PACK_IDS_MIN {
                for id in siblings {
                    if self.get(*id)?.is_some() {
                        stored.insert(*id);
                    }
                }
                continue;
            }
            let (first, last) = (siblings[0], siblings[siblings.len() - 1]);
            for row in self.ids.range(first.0..=last.0) {
                stored.extend(row.key()?.as_ref().try_into().map(MessageId));
            }
            for row in self.packs_up_to(last) {
                let (_, value) = row.into_inner()?;
                let pack = Pack::read(&value).ok_or(Fault::Unreadable)?;
                if pack.last >= own(first) {
                    stored.extend(pack.ids().map(|own| sibling(first, own)));
                }
            }
        }
        Ok(stored)
    }

    /// All packs in which the id may be, the last first.
    fn packs_up_to(&self, id: MessageId) -> impl Iterator<Item = Guard> {
        let may_be = (self.first.load(Relaxed)..=self.last.load(Relaxed)).contains(&second(&id.0));
        let rows = may_be.then(|| self.packs.range(sibling(id, [0; OWN_BYTES]).0..=id.0));
        rows.into_iter().flat_map(Iterator::rev)
    }

    /// Writes rows for new ids.
    pub fn put(&self, batch: &mut OwnedWriteBatch, places: &mut Places) {
        places.ids.sort_unstable_by_key(|(id, _)| *id);
        for siblings in places.ids.chunk_by(|(a, _), (b, _)| are_siblings(a, b)) {
            if siblings.len() < PACK_IDS_MIN {
                self.put_rows(batch, siblings, &places.keys);
                continue;
            }
            for pack in siblings.chunks(PACK_IDS_MAX) {
                let second = second(&pack[0].0.0);
                self.first.fetch_min(second, Relaxed);
                self.last.fetch_max(second, Relaxed);
                batch.insert(&self.packs, pack[0].0.0, Pack::write(pack, &places.keys));
            }
        }
    }

    /// Writes a row for each id; it counts for more than a pack.
    pub fn put_single(&self, batch: &mut OwnedWriteBatch, places: &Places) {
        self.put_rows(batch, &places.ids, &places.keys);
    }

    fn put_rows(&self, batch: &mut OwnedWriteBatch, ids: &[(MessageId, u32)], keys: &[Slice]) {
        for (id, run) in ids {
            batch.insert(&self.ids, id.0, keys[*run as usize].clone());
        }
    }
}

/// Where messages are: the keys of runs, and of each id the number of its run among them.
#[derive(Default)]
pub struct Places {
    keys: Vec<Slice>,
    ids: Vec<(MessageId, u32)>,
}

impl Places {
    /// Adds a run and what is in it.
    pub fn add(&mut self, key: Slice, ids: impl Iterator<Item = MessageId>) {
        let run = self.keys.len() as u32;
        self.keys.push(key);
        self.ids.extend(ids.map(|id| (id, run)));
    }
}

fn are_siblings(a: &MessageId, b: &MessageId) -> bool {
    a.0[..COMMON_BYTES] == b.0[..COMMON_BYTES]
}

fn own(id: MessageId) -> [u8; OWN_BYTES] {
    let mut own = [0; OWN_BYTES];
    own.copy_from_slice(&id.0[COMMON_BYTES..]);
    own
}

fn sibling(mut of: MessageId, own: [u8; OWN_BYTES]) -> MessageId {
    of.0[COMMON_BYTES..].copy_from_slice(&own);
    of
}

/// Of an id; a key that is none has no second.
fn second(id: &[u8]) -> u32 {
    id.first_chunk()
        .map_or(0, |second| u32::from_be_bytes(*second))
}

// === Pack ===

/// A pack's value: the last id's own bytes, how many runs, each run's key with its length before it, and in rising
/// order each id's own bytes with the number of its run.
struct Pack<'a> {
    last: [u8; OWN_BYTES],
    runs: usize,
    keys: &'a [u8],
    ids: &'a [[u8; OWN_BYTES + 2]],
}

impl<'a> Pack<'a> {
    /// Of ids in rising order, each with the number of its run among `runs`.
    fn write(entries: &[(MessageId, u32)], runs: &[Slice]) -> Vec<u8> {
        let mut numbers: HashMap<u32, u16, RandomState> = HashMap::default();
        let mut keys = Vec::new();
        let mut ids = Vec::with_capacity(entries.len() * (OWN_BYTES + 2));
        let mut last = [0; OWN_BYTES];
        for (id, run) in entries {
            let next = numbers.len() as u16;
            let number = *numbers.entry(*run).or_insert_with(|| {
                let key = &runs[*run as usize];
                keys.extend_from_slice(&(key.len() as u16).to_be_bytes());
                keys.extend_from_slice(key);
                next
            });
            last = own(*id);
            ids.extend_from_slice(&last);
            ids.extend_from_slice(&number.to_be_bytes());
        }
        [
            &last[..],
            &(numbers.len() as u16).to_be_bytes(),
            &keys,
            &ids,
        ]
        .concat()
    }

    fn read(value: &'a [u8]) -> Option<Self> {
        let (last, rest) = value.split_first_chunk()?;
        let (runs, keys) = rest.split_first_chunk()?;
        let runs = usize::from(u16::from_be_bytes(*runs));
        let mut rest = keys;
        for _ in 0..runs {
            (_, rest) = split_key(rest)?;
        }
        let (ids, odd) = rest.as_chunks();
        odd.is_empty().then_some(Self {
            last: *last,
            runs,
            keys,
            ids,
        })
    }

    fn ids(&self) -> impl Iterator<Item = [u8; OWN_BYTES]> + 'a {
        self.ids.iter().map(|[a, b, c, ..]| [*a, *b, *c])
    }

    fn find(&self, own: [u8; OWN_BYTES]) -> Option<&'a [u8]> {
        let index = self
            .ids
            .binary_search_by(|[a, b, c, ..]| [*a, *b, *c].cmp(&own));
        let [.., high, low] = *self.ids.get(index.ok()?)?;
        let number = usize::from(u16::from_be_bytes([high, low]));
        let mut rest = self.keys;
        for _ in 0..number.min(self.runs) {
            (_, rest) = split_key(rest)?;
        }
        split_key(rest).map(|(key, _)| key)
    }
}

/// The first key, and what is behind it.
fn split_key(keys: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = keys.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Ids are mostly asked for in vain, by inserts: every level keeps a filter.
fn id_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(
            BloomConstructionPolicy::BitsPerKey(12.0),
        )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_finds_its_own_and_no_other() {
        let id = |n: u32| MessageId([&[7; 8][..], &n.to_be_bytes()].concat().try_into().unwrap());
        let key = |n: u32| Slice::from(format!("run {}", n % 5));
        let runs: Vec<_> = (0..5).map(key).collect();
        let entries: Vec<_> = (1..=300).map(|n| (id(2 * n), n % 5)).collect();
        let value = Pack::write(&entries, &runs);
        let pack = Pack::read(&value).unwrap();
        assert_eq!(pack.last, own(id(600)));
        for n in 1..=300 {
            assert_eq!(pack.find(own(id(2 * n))), Some(&*key(n)));
            assert_eq!(pack.find(own(id(2 * n - 1))), None);
        }
        assert!(pack.ids().eq(entries.iter().map(|(id, _)| own(*id))));
    }

    #[test]
    fn a_pack_that_is_cut_short_is_refused_or_short() {
        let id = |n: u8| MessageId([n; 12]);
        let runs = ["a", "b"].map(Slice::from);
        let value = Pack::write(&[(id(1), 0), (id(1), 1)], &runs);
        for length in 0..value.len() {
            if let Some(pack) = Pack::read(&value[..length]) {
                let _any = pack.find([1; OWN_BYTES]);
            }
        }
    }
}
