//! What the committer, the readers and the journal's handle share: the last blocks, the end, the shelf, the groups.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::topic::journal::bell::Bell;
use crate::topic::journal::block::Block;
use crate::topic::journal::groups::Groups;
use crate::topic::journal::queue::{self, Queue};
use crate::topic::journal::rest::Rest;
use crate::topic::journal::segment::Shelf;

/// Locks are taken one at a time, never one inside the other.
pub(super) struct Shared {
    pub queue: Queue,
    pub shelf: Mutex<Shelf>,
    pub ring: Mutex<Ring>,
    pub groups: Mutex<Groups>,
    /// Readers wait on it. It is moved after the block is on the shelf and in the ring, and they are told of it later,
    /// by [`Shared::tell`].
    pub tip: watch::Sender<Tip>,
    pub rest: Rest,
    /// Rung when there may be segments to remove.
    pub tidying: Bell,
    pub counters: Counters,
}

/// How far the log reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tip {
    /// Offset that the next record will get.
    pub end: u64,
    /// The end that readers have been told of.
    pub told: u64,
    /// No record will follow.
    pub over: bool,
}

/// Since the journal was opened.
#[derive(Default)]
pub(super) struct Counters {
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub blocks: AtomicU64,
}

impl Shared {
    /// Tells readers of the end that others see already.
    pub fn tell(&self) {
        self.tip.send_if_modified(|tip| {
            let is_news = tip.told < tip.end;
            tip.told = tip.end;
            is_news
        });
    }

    /// Whether the oldest segment can go now.
    pub fn can_tidy(&self) -> bool {
        let least = self.groups.lock().least();
        self.shelf.lock().removable(least, now_ms()).is_some()
    }
}

/// The last durable blocks, without a gap, as they were appended: those that some reader has still to take. What all
/// have taken goes at once, so that the log's way through memory is short and stays in the processor's cache. Bounded
/// in bytes, but always keeps one block for a reader.
pub(super) struct Ring {
    blocks: VecDeque<(Block, usize)>,
    bytes: usize,
    bytes_max: usize,
    /// Offset of the next record of each reader; `None` for one that has gone.
    readers: Vec<Option<u64>>,
}

/// A reader's number in the ring.
#[derive(Clone, Copy)]
pub(super) struct Seat(usize);

impl Ring {
    pub fn new(bytes_max: usize) -> Ring {
        Ring {
            blocks: VecDeque::new(),
            bytes: 0,
            bytes_max,
            readers: Vec::new(),
        }
    }

    /// Keeps what a reader will read from `next` on.
    pub fn join(&mut self, next: u64) -> Seat {
        let free = self.readers.iter().position(Option::is_none);
        let seat = free.unwrap_or(self.readers.len());
        if free.is_none() {
            self.readers.push(None);
        }
        self.readers[seat] = Some(next);
        Seat(seat)
    }

    pub fn leave(&mut self, seat: Seat) {
        self.readers[seat.0] = None;
        self.drop_read();
    }

    pub fn push(&mut self, block: Block) {
        let bytes = block.records.iter().map(queue::cost).sum();
        self.bytes += bytes;
        self.blocks.push_back((block, bytes));
        while self.bytes > self.bytes_max && self.blocks.len() > 1 {
            self.pop();
        }
        self.drop_read();
    }

    /// Drops what no reader has still to take.
    fn drop_read(&mut self) {
        let least = self.readers.iter().flatten().min().copied();
        let is_read = |(block, _): &(Block, usize)| least.is_none_or(|least| block.end() <= least);
        while self.blocks.front().is_some_and(is_read) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        self.bytes -= self.blocks.pop_front().map_or(0, |(_, bytes)| bytes);
    }

    /// Hands a reader the block that holds `offset`, and those after it, up to `records_max` records or a little more.
    /// Nothing when that block is not here.
    pub fn read(
        &mut self,
        seat: Seat,
        offset: u64,
        records_max: usize,
        into: &mut VecDeque<Block>,
    ) {
        let after = self
            .blocks
            .partition_point(|(block, _)| block.base <= offset);
        let Some(from) = after.checked_sub(1) else {
            return;
        };
        let mut records = 0;
        for (block, _) in self.blocks.range(from..) {
            if block.end() > offset && records < records_max {
                records += block.records.len();
                into.push_back(block.clone());
            }
        }
        self.readers[seat.0] = Some(into.back().map_or(offset, Block::end));
        self.drop_read();
    }
}

/// Unix time; 0 for a clock before 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::topic::Record;

    fn block(base: u64, count: usize) -> Block {
        let record = Record {
            key: Bytes::new(),
            headers: Default::default(),
            value: Bytes::from_static(&[0; 100]),
        };
        Block {
            base,
            records: vec![record; count].into(),
        }
    }

    fn bases(ring: &mut Ring, seat: Seat, offset: u64, records_max: usize) -> Vec<u64> {
        let mut blocks = VecDeque::new();
        ring.read(seat, offset, records_max, &mut blocks);
        blocks.iter().map(|block| block.base).collect()
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_gives_what_follows() {
        let mut ring = Ring::new(queue::cost(&block(0, 1).records[0]) * 7);
        let (slow, reader) = (ring.join(0), ring.join(0));
        for base in [0, 3, 6, 9] {
            ring.push(block(base, 3));
        }
        assert_eq!(
            bases(&mut ring, reader, 5, 100),
            [] as [u64; 0],
            "it has gone"
        );
        assert_eq!(bases(&mut ring, reader, 7, 100), [6, 9]);
        assert_eq!(bases(&mut ring, reader, 7, 3), [6]);
        assert_eq!(
            bases(&mut ring, reader, 12, 100),
            [] as [u64; 0],
            "not there yet"
        );
        ring.push(block(12, 50));
        assert_eq!(
            bases(&mut ring, reader, 12, 1),
            [12],
            "one block is always kept"
        );
        assert_eq!(
            bases(&mut ring, slow, 0, 1),
            [] as [u64; 0],
            "it is too slow"
        );
    }

    #[test]
    fn what_all_readers_have_taken_goes() {
        let mut ring = Ring::new(1 << 20);
        ring.push(block(0, 3));
        assert_eq!(ring.bytes, 0, "nobody reads");
        let (quick, slow) = (ring.join(3), ring.join(4));
        for base in [3, 6, 9] {
            ring.push(block(base, 3));
        }
        assert_eq!(bases(&mut ring, quick, 3, 100), [3, 6, 9]);
        assert_eq!(ring.blocks.len(), 3, "the other has still to take them");
        assert_eq!(bases(&mut ring, slow, 4, 4), [3, 6]);
        assert_eq!(ring.blocks.len(), 1);
        ring.leave(slow);
        assert_eq!((ring.blocks.len(), ring.bytes), (0, 0));
        assert_eq!(bases(&mut ring, quick, 12, 1), [] as [u64; 0]);
        ring.push(block(12, 1));
        assert_eq!(bases(&mut ring, quick, 12, 1), [12]);
    }
}
