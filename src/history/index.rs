//! Where in a queue of messages one, or those of a conversation, may stand.
//!
//! Nearly every message leaves the queue before anybody asks for it, so what counts is what one costs that is never
//! asked for: two hashes, and its part of two short sorts once the queue is long. Whoever asks compares.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::chat::id::{ConversationId, MessageId};

/// Messages whose hashes are sorted together: some tenths of a millisecond. The youngest, twice as many at most, are
/// looked through one by one: some microseconds.
const BLOCK: usize = 8_192;

/// What is asked for.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    Id(MessageId),
    Conversation(&'a ConversationId),
}

/// Of a message's id, and of its conversation.
type Hashes = [u32; 2];

/// Follows the queue: each message is pushed, and popped as the oldest.
#[derive(Default)]
pub struct Index {
    hasher: RandomState,
    blocks: VecDeque<Block>,
    /// So many of the first block's messages have been popped.
    popped: usize,
    youngest: VecDeque<Hashes>,
}

/// Of each kind of hash all those of the block, each above its message's number in it, sorted.
struct Block([Box<[u64]>; 2]);

impl Index {
    pub fn push(&mut self, id: MessageId, conversation: &ConversationId) {
        let hashes = [
            self.hash(Key::Id(id)).1,
            self.hash(Key::Conversation(conversation)).1,
        ];
        self.youngest.push_back(hashes);
        if self.youngest.len() > 2 * BLOCK {
            let hashes: Vec<Hashes> = self.youngest.drain(..BLOCK).collect();
            self.blocks.push_back(Block::of(&hashes));
        }
    }

    pub fn pop(&mut self) {
        if self.blocks.is_empty() {
            self.youngest.pop_front();
            return;
        }
        self.popped += 1;
        if self.popped == BLOCK {
            self.blocks.pop_front();
            self.popped = 0;
        }
    }

    /// The places in the queue, from the oldest on, where the key may stand: all where it does, and a few others.
    pub fn places(&self, key: Key<'_>) -> impl DoubleEndedIterator<Item = usize> {
        let (kind, hash) = self.hash(key);
        let sorted = self.blocks.iter().enumerate().flat_map(move |(n, block)| {
            let numbers = block.numbers(kind, hash);
            numbers.filter_map(move |number| (n * BLOCK + number).checked_sub(self.popped))
        });
        let before = self.blocks.len() * BLOCK - self.popped;
        let youngest = self.youngest.iter().enumerate();
        let youngest = youngest.filter(move |(_, hashes)| hashes[kind] == hash);
        sorted.chain(youngest.map(move |(number, _)| before + number))
    }

    /// The kind of hash that a key is found by, and its hash.
    fn hash(&self, key: Key<'_>) -> (usize, u32) {
        match key {
            Key::Id(id) => (0, self.hasher.hash_one(id) as u32),
            Key::Conversation(id) => (1, self.hasher.hash_one(id) as u32),
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.youngest.is_empty()
    }
}

impl Block {
    fn of(hashes: &[Hashes]) -> Self {
        Self([0, 1].map(|kind| {
            let numbered = (0..).zip(hashes);
            let mut sorted: Box<[u64]> = numbered
                .map(|(number, hashes): (u64, &Hashes)| u64::from(hashes[kind]) << 32 | number)
                .collect();
            sorted.sort_unstable();
            sorted
        }))
    }

    /// The numbers of the messages with this hash, rising.
    fn numbers(&self, kind: usize, hash: u32) -> impl DoubleEndedIterator<Item = usize> {
        let sorted = &self.0[kind];
        let hash = u64::from(hash);
        let start = sorted.partition_point(|entry| entry >> 32 < hash);
        let end = sorted.partition_point(|entry| entry >> 32 <= hash);
        let found = sorted.get(start..end).unwrap_or_default();
        found.iter().map(|entry| *entry as u32 as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> MessageId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&n.to_be_bytes());
        MessageId(id)
    }

    fn conversation(n: usize) -> ConversationId {
        ConversationId::new(format!("{n}").into_bytes()).unwrap()
    }

    #[test]
    fn places_are_told_whatever_is_sorted_and_popped() {
        let mut index = Index::default();
        let all = 5 * BLOCK;
        for n in 0..all {
            index.push(id(n), &conversation(n % 10));
        }
        assert_eq!((index.blocks.len(), index.youngest.len()), (3, 2 * BLOCK));
        for popped in 0..all {
            if popped % 1_777 == 0 {
                for n in [
                    0,
                    popped,
                    popped + 1,
                    BLOCK,
                    3 * BLOCK - 1,
                    3 * BLOCK,
                    all - 1,
                ] {
                    let at = n.checked_sub(popped);
                    let found = index.places(Key::Id(id(n))).any(|place| Some(place) == at);
                    assert_eq!(found, at.is_some() && n < all, "{n} with {popped} popped");
                }
                let fives = (popped..all).filter(|n| n % 10 == 5);
                let places = fives.map(|n| n - popped);
                let (five, places): (_, Vec<_>) = (conversation(5), places.collect());
                let rising: Vec<_> = index.places(Key::Conversation(&five)).collect();
                assert_eq!(rising, places);
                let falling = index.places(Key::Conversation(&five)).rev();
                assert!(falling.eq(places.into_iter().rev()));
            }
            index.pop();
        }
        assert!(index.is_empty() && index.popped == 0);
    }

    proptest! {
        #[test]
        fn equal_hashes_are_told_in_order(hashes in prop::collection::vec(0u32..4, 1..200), asked in 0u32..5) {
            let block = Block::of(&hashes.iter().map(|hash| [*hash, 7]).collect::<Vec<_>>());
            let expected: Vec<_> = (0..hashes.len()).filter(|n| hashes[*n] == asked).collect();
            prop_assert_eq!(block.numbers(0, asked).collect::<Vec<_>>(), expected);
            prop_assert_eq!(block.numbers(1, 7).count(), hashes.len());
        }
    }
}
