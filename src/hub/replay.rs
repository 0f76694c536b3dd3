//! The last messages shown, for clients whose connection broke: which of them a socket in some rooms has missed.
//!
//! In memory and bounded in bytes; after a start it is filled again from the log. What is no longer here is never
//! guessed: the client is told that it has to begin anew.

use std::collections::{HashMap, VecDeque};

use smallvec::{SmallVec, smallvec};

use crate::chat::id::UserId;
use crate::chat::message::Message;
use crate::protocol::recovery::Offset;
use crate::topic::{Bounds, Position};

/// What a message costs beside its bytes and its rooms' names.
const MESSAGE_OVERHEAD: usize = 256;

/// What a room costs beside its name.
const ROOM_OVERHEAD: usize = 64;

// === Replay ===

/// Messages in the order shown, found by room.
pub struct Replay {
    /// What has been shown.
    until: Offset,
    /// Of each partition, the first offset from which on nothing is missing here.
    from: SmallVec<[u64; 2]>,
    /// Of each partition, the next offset that was not handed over.
    taken: SmallVec<[u64; 2]>,
    messages: VecDeque<Shown>,
    /// Number of the first message here: they are numbered as they come.
    first: u64,
    by_room: HashMap<UserId, VecDeque<u64>>,
    bytes: usize,
    bytes_max: usize,
}

/// A message with its place in the log.
pub struct Shown {
    pub position: Position,
    pub message: Message,
    rooms: SmallVec<[UserId; 2]>,
}

/// Why it cannot be told what a client has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// The client's offset is none of this log.
    Foreign,
    /// Some of what it has missed is not here any more.
    Gone,
    /// It has missed more than may be sent at once.
    TooMuch,
}

impl Replay {
    /// `bounds`: the log's partitions at start. The log's reader will hand over each from `committed` on, or from
    /// earlier.
    pub fn new(epoch: u32, bounds: &[Bounds], bytes_max: usize) -> Self {
        Self {
            until: Offset {
                epoch,
                next: bounds.iter().map(|bounds| bounds.end).collect(),
            },
            from: bounds.iter().map(|bounds| bounds.committed).collect(),
            taken: smallvec![0; bounds.len()],
            messages: VecDeque::new(),
            first: 0,
            by_room: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The place behind all that has been shown.
    pub fn until(&self) -> &Offset {
        &self.until
    }

    /// Messages here.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next message of its partition. One that comes again is left out.
    pub fn push(&mut self, position: Position, rooms: &[&str], message: &Message) {
        let Position { partition, offset } = position;
        let Some(taken) = self.taken.get_mut(partition as usize) else {
            return;
        };
        if offset < *taken {
            return;
        }
        *taken = offset + 1;
        self.until.pass(partition, offset);
        let from = &mut self.from[partition as usize];
        *from = (*from).min(offset);
        let mut names: SmallVec<[UserId; 2]> =
            rooms.iter().filter_map(|room| UserId::new(*room)).collect();
        names.sort_unstable();
        names.dedup();
        let number = self.first + self.messages.len() as u64;
        for room in &names {
            self.by_room
                .entry(room.clone())
                .or_default()
                .push_back(number);
        }
        let shown = Shown {
            position,
            message: message.clone(),
            rooms: names,
        };
        self.bytes += cost(&shown);
        self.messages.push_back(shown);
        while self.bytes > self.bytes_max {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(oldest) = self.messages.pop_front() else {
            return;
        };
        self.first += 1;
        self.bytes -= cost(&oldest);
        let Position { partition, offset } = oldest.position;
        self.from[partition as usize] = offset + 1;
        for room in &oldest.rooms {
            if let Some(numbers) = self.by_room.get_mut(room) {
                numbers.pop_front();
                if numbers.is_empty() {
                    self.by_room.remove(room);
                }
            }
        }
    }

    /// The messages to these rooms that were shown from `read` on, in the order shown, each once. `bytes_max` bounds
    /// their sizes, each with `overhead`.
    pub fn missed(
        &self,
        rooms: &[UserId],
        read: &Offset,
        overhead: usize,
        bytes_max: usize,
    ) -> Result<Vec<&Shown>, Untold> {
        let until = &self.until;
        if read.epoch != until.epoch || read.next.len() != until.next.len() {
            return Err(Untold::Foreign);
        }
        for ((read, until), from) in read.next.iter().zip(&until.next).zip(&self.from) {
            if read > until {
                return Err(Untold::Foreign);
            }
            if read < from {
                return Err(Untold::Gone);
            }
        }
        let mut missed: Vec<(u64, &Shown)> = Vec::new();
        for room in rooms {
            for number in self.by_room.get(room).into_iter().flatten().rev() {
                let Some(shown) = self.messages.get((number - self.first) as usize) else {
                    continue;
                };
                let Position { partition, offset } = shown.position;
                if offset < read.next[partition as usize] {
                    // Others before it may still be missed, in another partition.
                    if read.next.len() == 1 {
                        break;
                    }
                    continue;
                }
                missed.push((*number, shown));
            }
        }
        missed.sort_unstable_by_key(|(number, _)| *number);
        missed.dedup_by_key(|(number, _)| *number);
        let sizes = missed.iter().map(|(_, shown)| shown.message.size());
        if sizes.map(|size| size + overhead).sum::<usize>() > bytes_max {
            return Err(Untold::TooMuch);
        }
        Ok(missed.into_iter().map(|(_, shown)| shown).collect())
    }
}

fn cost(shown: &Shown) -> usize {
    let rooms: usize = shown
        .rooms
        .iter()
        .map(|room| 2 * room.as_str().len() + ROOM_OVERHEAD)
        .sum();
    shown.message.body.len() + MESSAGE_OVERHEAD + rooms
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::chat::id::{ConversationId, MessageId, Seq};

    const OVERHEAD: usize = 10;

    fn replay(partitions: u32, bytes_max: usize) -> Replay {
        let bounds = |partition| Bounds {
            partition,
            committed: 0,
            end: 0,
        };
        let bounds: Vec<Bounds> = (0..partitions).map(bounds).collect();
        Replay::new(1, &bounds, bytes_max)
    }

    fn at(partition: u32, offset: u64) -> Position {
        Position { partition, offset }
    }

    fn message(offset: u64) -> Message {
        Message {
            id: MessageId([7; 12]),
            conversation: ConversationId::new(Bytes::from_static(b"c")).unwrap(),
            seq: Seq(offset),
            is_spam: false,
            body: Bytes::from_static(b"{\"_id\":\"x\""),
        }
    }

    fn read(next: &[u64]) -> Offset {
        Offset {
            epoch: 1,
            next: SmallVec::from_slice(next),
        }
    }

    fn missed(replay: &Replay, rooms: &[&str], next: &[u64]) -> Result<Vec<(u32, u64)>, Untold> {
        let rooms: Vec<_> = rooms.iter().map(|r| UserId::new(*r).unwrap()).collect();
        let missed = replay.missed(&rooms, &read(next), OVERHEAD, 1 << 20)?;
        let position = |shown: &&Shown| (shown.position.partition, shown.position.offset);
        Ok(missed.iter().map(position).collect())
    }

    #[test]
    fn what_was_missed_is_told_in_order_and_once() {
        let mut replay = replay(1, 1 << 20);
        for (offset, rooms) in [&["a"][..], &["b"], &["a", "b"], &["c"], &["a", "a"]]
            .iter()
            .enumerate()
        {
            replay.push(at(0, offset as u64), rooms, &message(offset as u64));
        }
        replay.push(at(0, 2), &["a"], &message(2));
        assert_eq!(
            missed(&replay, &["a", "b"], &[1]),
            Ok(vec![(0, 1), (0, 2), (0, 4)])
        );
        assert_eq!(missed(&replay, &["a"], &[5]), Ok(vec![]));
        assert_eq!(missed(&replay, &[], &[0]), Ok(vec![]));
        assert_eq!(
            missed(&replay, &["a"], &[6]),
            Err(Untold::Foreign),
            "the future"
        );
        assert_eq!(missed(&replay, &["a"], &[1, 1]), Err(Untold::Foreign));
    }

    #[test]
    fn what_is_gone_is_not_guessed() {
        let cost = {
            let mut replay = replay(1, 1 << 20);
            replay.push(at(0, 0), &["a"], &message(0));
            replay.bytes()
        };
        let mut replay = replay(1, 2 * cost);
        for offset in 0..2 {
            replay.push(at(0, offset), &["a"], &message(offset));
        }
        assert_eq!(
            missed(&replay, &["a"], &[0]),
            Ok(vec![(0, 0), (0, 1)]),
            "at the bound"
        );
        replay.push(at(0, 2), &["a"], &message(2));
        assert_eq!(missed(&replay, &["a"], &[0]), Err(Untold::Gone), "one more");
        assert_eq!(missed(&replay, &["a"], &[1]), Ok(vec![(0, 1), (0, 2)]));
        assert_eq!((replay.count(), replay.bytes()), (2, 2 * cost));
    }

    #[test]
    fn before_the_start_counts_what_the_log_gave_again() {
        let bounds = [Bounds {
            partition: 0,
            committed: 10,
            end: 12,
        }];
        let mut replay = Replay::new(1, &bounds, 1 << 20);
        assert_eq!(missed(&replay, &["a"], &[9]), Err(Untold::Gone));
        for offset in 8..12 {
            replay.push(at(0, offset), &["a"], &message(offset));
        }
        assert_eq!(replay.until(), &read(&[12]));
        assert_eq!(missed(&replay, &["a"], &[7]), Err(Untold::Gone));
        assert_eq!(missed(&replay, &["a"], &[10]), Ok(vec![(0, 10), (0, 11)]));
    }

    #[test]
    fn exactly_the_bound_is_told_and_a_byte_more_is_too_much() {
        let mut replay = replay(1, 1 << 20);
        for offset in 0..3 {
            replay.push(at(0, offset), &["a"], &message(offset));
        }
        let bytes = 3 * (message(0).size() + OVERHEAD);
        let rooms = [UserId::new("a").unwrap()];
        let told = |bytes_max| replay.missed(&rooms, &read(&[0]), OVERHEAD, bytes_max);
        assert_eq!(told(bytes).map(|missed| missed.len()), Ok(3));
        assert_eq!(told(bytes - 1).err(), Some(Untold::TooMuch));
    }

    proptest! {
        #[test]
        fn of_all_partitions_exactly_what_stands_behind_the_offset_is_told(
            pushes in prop::collection::vec((0u32..3, 0usize..3), 0..60),
            cut in 0usize..60,
        ) {
            let (mut replay, mut next) = (replay(3, 1 << 20), [0u64; 3]);
            let (mut expected, mut read) = (Vec::new(), replay.until().clone());
            for (n, (partition, room)) in pushes.into_iter().enumerate() {
                let offset = next[partition as usize];
                next[partition as usize] += 1;
                replay.push(at(partition, offset), &[["a", "b", "c"][room]], &message(offset));
                if n < cut {
                    read = replay.until().clone();
                } else if room < 2 {
                    expected.push((partition, offset));
                }
            }
            prop_assert_eq!(missed(&replay, &["b", "a"], &read.next), Ok(expected));
        }
    }
}
