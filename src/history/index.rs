//! Where in a queue of messages those of a conversation may stand.
//!
//! Nearly every message leaves the queue before anybody asks for its conversation, so what counts is what one costs
//! that is never asked for: a hash, and its part of a short sort once the queue is long. Whoever asks compares.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::chat::id::ConversationId;

/// Messages whose hashes are sorted together, some tens of microseconds. The youngest, twice as many at most, are
/// looked through one by one: a microsecond or two.
const BLOCK: usize = 2_048;

/// Follows the queue: each message is pushed, and popped as the oldest.
#[derive(Default)]
pub struct Index {
    hasher: RandomState,
    blocks: VecDeque<Block>,
    /// So many of the first block's messages have been popped.
    popped: usize,
    youngest: VecDeque<u32>,
}

/// The hashes of all its messages, each above the message's number in the block, sorted.
struct Block(Box<[u64]>);

impl Index {
    pub fn push(&mut self, conversation: &ConversationId) {
        self.youngest.push_back(self.hash(conversation));
        if self.youngest.len() > 2 * BLOCK {
            let block = Block::of(self.youngest.drain(..BLOCK));
            self.blocks.push_back(block);
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

    /// The places within `range` of the queue, from the oldest on, where messages of the conversation may stand: all
    /// where one does, and a few others. Blocks beyond the range cost nothing.
    pub fn places(
        &self,
        conversation: &ConversationId,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = usize> {
        let hash = self.hash(conversation);
        // Counted from the first block's beginning.
        let range = range.start + self.popped..range.end + self.popped;
        let sorted = self.blocks.len() * BLOCK;
        let first = (range.start / BLOCK).min(self.blocks.len());
        let last = range.end.div_ceil(BLOCK).clamp(first, self.blocks.len());
        let blocks = (first..last).zip(self.blocks.range(first..last));
        let of_blocks = blocks.flat_map(move |(n, block)| {
            let numbers = block.numbers(hash);
            numbers.map(move |number| n * BLOCK + number)
        });
        let young = range.start.saturating_sub(sorted)..range.end.saturating_sub(sorted);
        let end = young.end.min(self.youngest.len());
        let start = young.start.min(end);
        let young = (start..end).zip(self.youngest.range(start..end));
        let of_young = young
            .filter(move |(_, own)| **own == hash)
            .map(move |(number, _)| sorted + number);
        let popped = self.popped;
        of_blocks
            .chain(of_young)
            .filter(move |place| range.contains(place))
            .map(move |place| place - popped)
    }

    fn hash(&self, conversation: &ConversationId) -> u32 {
        self.hasher.hash_one(conversation) as u32
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.youngest.is_empty()
    }
}

impl Block {
    fn of(hashes: impl Iterator<Item = u32>) -> Self {
        let numbered = (0..).zip(hashes);
        let mut sorted: Box<[u64]> = numbered
            .map(|(number, hash): (u64, u32)| u64::from(hash) << 32 | number)
            .collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    /// The numbers of the messages with this hash, rising.
    fn numbers(&self, hash: u32) -> impl DoubleEndedIterator<Item = usize> {
        let Self(sorted) = self;
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

    fn conversation(n: usize) -> ConversationId {
        ConversationId::new(format!("{n}").into_bytes()).unwrap()
    }

    #[test]
    fn places_are_told_whatever_is_sorted_and_popped() {
        let mut index = Index::default();
        let all = 5 * BLOCK;
        for n in 0..all {
            index.push(&conversation(n % 10));
        }
        assert_eq!((index.blocks.len(), index.youngest.len()), (3, 2 * BLOCK));
        let five = conversation(5);
        for popped in 0..all {
            if popped % 577 == 0 {
                let left = all - popped;
                for range in [
                    0..left,
                    0..0,
                    left / 3..left,
                    0..left / 2,
                    left / 4..left / 4 + 31,
                ] {
                    let places: Vec<_> = range.clone().filter(|n| (n + popped) % 10 == 5).collect();
                    let rising: Vec<_> = index.places(&five, range.clone()).collect();
                    assert_eq!(rising, places, "{range:?} with {popped} popped");
                    let falling = index.places(&five, range).rev();
                    assert!(falling.eq(places.into_iter().rev()));
                }
            }
            index.pop();
        }
        assert!(index.is_empty() && index.popped == 0);
        assert_eq!(index.places(&five, 0..9).count(), 0);
    }

    proptest! {
        #[test]
        fn equal_hashes_are_told_in_order(hashes in prop::collection::vec(0u32..4, 1..200), asked in 0u32..5) {
            let block = Block::of(hashes.iter().copied());
            let expected: Vec<_> = (0..hashes.len()).filter(|n| hashes[*n] == asked).collect();
            prop_assert_eq!(block.numbers(asked).collect::<Vec<_>>(), expected);
        }
    }
}
