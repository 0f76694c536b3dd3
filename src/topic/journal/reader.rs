//! A subscription of the journal: from the ring while it keeps up, from the segments when it does not.
//!
//! Every block read from a file is verified. A reader that retention has overtaken gets an error, it never skips.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::topic::journal::block::{Block, Head};
use crate::topic::journal::segment::{SEGMENT_HEAD_BYTES, Segment, Walk};
use crate::topic::journal::shared::{Seat, Shared, Tip, now_ms};
use crate::topic::{Entry, Position, SharedRecord, Subscription, TopicError};

pub(super) struct Reader {
    shared: Arc<Shared>,
    tip: watch::Receiver<Tip>,
    /// Its place in the ring, which keeps what it has still to take.
    seat: Seat,
    group: Option<&'static str>,
    /// Offset of the next record to return.
    next: u64,
    /// Blocks to return; the first holds `next`.
    ahead: VecDeque<Block>,
    /// Under way on another thread. It outlives a dropped `poll`, so nothing is read twice or lost.
    reading: Option<JoinHandle<Result<Chunk, TopicError>>>,
    place: Option<Place>,
}

/// Blocks read from a file, and where it went on.
struct Chunk {
    blocks: Vec<Block>,
    place: Place,
}

/// A place in a segment's file: the block whose base is `next` begins at `position`.
struct Place {
    file: File,
    base: u64,
    position: u64,
    next: u64,
}

impl Reader {
    pub fn new(shared: Arc<Shared>, group: Option<&'static str>, next: u64) -> Reader {
        let seat = shared.ring.lock().join(next);
        Reader {
            tip: shared.tip.subscribe(),
            shared,
            seat,
            group,
            next,
            ahead: VecDeque::new(),
            reading: None,
            place: None,
        }
    }

    async fn read(&mut self, batch: &mut Vec<Entry>, max: usize) -> Result<(), TopicError> {
        // With a full ring nothing below would ever wait: let the task's neighbours run.
        consume_budget().await;
        let mut left = max;
        while left > 0 {
            self.take(batch, &mut left);
            let tip = *self.tip.borrow_and_update();
            if left == 0 || self.next == tip.end && left < max {
                break;
            }
            if self.next < tip.end {
                self.take_ring(left);
                match self.ahead.is_empty() {
                    true if left < max => break,
                    true => self.read_segment().await?,
                    false => {}
                }
            } else if tip.over || self.tip.changed().await.is_err() {
                return Err(TopicError::Closed);
            }
        }
        Ok(())
    }

    fn take_ring(&mut self, records_max: usize) {
        let mut ring = self.shared.ring.lock();
        ring.read(self.seat, self.next, records_max, &mut self.ahead);
    }

    /// Moves what is at hand into the batch.
    fn take(&mut self, batch: &mut Vec<Entry>, left: &mut usize) {
        while let Some(block) = self.ahead.front().filter(|_| *left > 0) {
            let skip = (self.next - block.base) as usize;
            let records = SharedRecord::of(&block.records, skip).take(*left);
            let before = batch.len();
            batch.extend(records.zip(self.next..).map(|(record, offset)| Entry {
                time_ms: 0,
                position: position(offset),
                record,
            }));
            let taken = batch.len() - before;
            *left -= taken;
            self.next += taken as u64;
            if self.next == block.end() {
                self.ahead.pop_front();
            }
        }
    }

    async fn read_segment(&mut self) -> Result<(), TopicError> {
        let reading = self.reading.get_or_insert_with(|| {
            let (shared, next) = (Arc::clone(&self.shared), self.next);
            let place = self.place.take();
            spawn_blocking(move || read_chunk(&shared, place, next))
        });
        let read = reading.await;
        self.reading = None;
        let chunk = read.map_err(|_| failed("a read of the log did not finish".into()))??;
        self.place = Some(chunk.place);
        self.ahead.extend(chunk.blocks);
        Ok(())
    }

    fn commit_place(&self) -> Result<(), TopicError> {
        let Some(group) = self.group else {
            return Ok(());
        };
        let committed = self.shared.groups.lock().commit(group, self.next);
        committed.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => TopicError::Closed,
            _ => TopicError::Unavailable(format!("cannot commit for {group}: {error}").into()),
        })?;
        if self.shared.can_tidy() {
            self.shared.tidying.ring();
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.ring.lock().leave(self.seat);
    }
}

impl Subscription for Reader {
    fn poll<'a>(
        &'a mut self,
        batch: &'a mut Vec<Entry>,
        max: usize,
    ) -> BoxFuture<'a, Result<(), TopicError>> {
        Box::pin(self.read(batch, max))
    }

    fn commit(&mut self) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(async { self.commit_place() })
    }
}

/// Offset of the first retained record that is younger; the log's end when there is none.
pub(super) fn find_time(shared: &Shared, window: std::time::Duration) -> Result<u64, TopicError> {
    let window_ms = window.as_millis().try_into().unwrap_or(u64::MAX);
    let since_ms = now_ms().saturating_sub(window_ms) + 1;
    loop {
        let Some(segment) = shared.shelf.lock().find_time(since_ms) else {
            return Ok(shared.tip.borrow().end);
        };
        let found = open(shared, &segment).and_then(|mut place| {
            place.walk(&segment, |walk| walk.seek_time(since_ms))?;
            Ok(place.next)
        });
        // It may be removed meanwhile; those behind it are fewer each time.
        if found.is_ok() || shared.shelf.lock().first() <= segment.base {
            return found;
        }
    }
}

/// Reads on from `next`: at least one block, at most about [`CHUNK_BYTES`] of them, all of one segment.
fn read_chunk(shared: &Shared, place: Option<Place>, next: u64) -> Result<Chunk, TopicError> {
    let Some(segment) = shared.shelf.lock().find(next) else {
        return Err(overtaken(next));
    };
    read_segment(shared, place, &segment, next)
}

fn read_segment(
    shared: &Shared,
    place: Option<Place>,
    segment: &Segment,
    next: u64,
) -> Result<Chunk, TopicError> {
    let read = || {
        let kept = place.filter(|place| place.base == segment.base && place.next <= next);
        let mut place = kept.map_or_else(|| open(shared, segment), Ok)?;
        if place.next != next {
            place.walk(segment, |walk| walk.seek(next))?;
        }
        let blocks = place.read(segment)?;
        Ok(Chunk { blocks, place })
    };
    // What is removed meanwhile gets shorter while it is read.
    read().map_err(|error| match shared.shelf.lock().find(next) {
        Some(_) => error,
        None => overtaken(next),
    })
}

fn open(shared: &Shared, segment: &Segment) -> Result<Place, TopicError> {
    let path = shared.shelf.lock().path(segment.base);
    let file = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => overtaken(segment.base),
        _ => failed(format!("cannot open {}: {error}", path.display())),
    })?;
    Ok(Place {
        file,
        base: segment.base,
        position: SEGMENT_HEAD_BYTES,
        next: segment.base,
    })
}

impl Place {
    fn walk(
        &mut self,
        segment: &Segment,
        seek: impl FnOnce(&mut Walk<'_>) -> io::Result<()>,
    ) -> Result<(), TopicError> {
        let mut walk = Walk {
            file: &self.file,
            position: self.position,
            limit: segment.bytes,
            next: self.next,
        };
        let sought = seek(&mut walk);
        (self.position, self.next) = (walk.position, walk.next);
        sought.map_err(|error| self.unreadable(&error))
    }

    fn read(&mut self, segment: &Segment) -> Result<Vec<Block>, TopicError> {
        let left = segment.bytes - self.position;
        let mut bytes = self.bytes(left.min(CHUNK_BYTES))?;
        let first = Head::parse(&bytes).map_or(0, |head| head.block_bytes() as u64);
        if first > CHUNK_BYTES && first <= left {
            bytes = self.bytes(first)?;
        }
        let mut blocks = Vec::new();
        while let Some(head) = Head::parse(&bytes).filter(|h| h.block_bytes() <= bytes.len()) {
            let block = Block::decode(&bytes, segment.salt);
            let Some(block) = block.filter(|block| block.base == self.next) else {
                break;
            };
            self.position += head.block_bytes() as u64;
            self.next = block.end();
            blocks.push(block);
            bytes = bytes.slice(head.block_bytes()..);
        }
        match blocks.is_empty() {
            true => Err(self.unreadable(&io::ErrorKind::InvalidData.into())),
            false => Ok(blocks),
        }
    }

    fn bytes(&self, length: u64) -> Result<Bytes, TopicError> {
        let mut bytes = vec![0; length as usize];
        let read = self.file.read_exact_at(&mut bytes, self.position);
        read.map_err(|error| self.unreadable(&error))?;
        Ok(bytes.into())
    }

    fn unreadable(&self, error: &io::Error) -> TopicError {
        let Place {
            base,
            position,
            next,
            ..
        } = self;
        failed(format!(
            "cannot read offset {next} at byte {position} of {base:020}.log: {error}"
        ))
    }
}

/// The journal has one partition.
pub(super) fn position(offset: u64) -> Position {
    Position {
        partition: 0,
        offset,
    }
}

fn overtaken(next: u64) -> TopicError {
    failed(format!(
        "the record at offset {next} was removed before it was read"
    ))
}

fn failed(what: String) -> TopicError {
    TopicError::Failed(Cow::Owned(what))
}

/// Read from a file at once. One larger block is read whole.
const CHUNK_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::journal::{Journal, JournalConfig};
    use crate::topic::{Record, Topic};

    #[tokio::test]
    async fn a_segment_that_is_removed_while_it_is_read_is_told_from_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(JournalConfig::new(folder.path())).unwrap();
        let record = Record {
            key: Bytes::new(),
            headers: Default::default(),
            value: Bytes::from_static(b"value"),
        };
        journal.append(vec![record]).await;
        let shared = &journal.shared;
        let segment = shared.shelf.lock().find(0).unwrap();
        let path = shared.shelf.lock().path(0);
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(SEGMENT_HEAD_BYTES + 1).unwrap();
        let told = || read_segment(shared, None, &segment, 0).err().unwrap();
        assert!(told().to_string().contains("cannot read offset 0"));
        shared.shelf.lock().remove_first();
        assert!(told().to_string().contains("removed before it was read"));
    }
}
