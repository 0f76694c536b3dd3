//! The committer: one thread that writes all that queued while it wrote the last block, as one block with one sync.
//!
//! Promises: an answer `appended` comes after the sync; after a failed write either the file is as it was before, or
//! the journal has failed for good. After a failed sync nobody can know what the disk holds, so the journal fails for
//! good.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::vec;

use crate::topic::journal::block::{Block, Encoder};
use crate::topic::journal::queue::{Answer, Append, cost};
use crate::topic::journal::segment::{self, Segment, segment_path};
use crate::topic::journal::shared::{Shared, now_ms};
use crate::topic::{Record, TopicError};

/// Owns the last segment's file and the folder's lock, until it ends.
pub(super) struct Committer {
    pub shared: Arc<Shared>,
    pub disk: Box<dyn Disk>,
    pub folder: PathBuf,
    pub segment_bytes_max: u64,
    pub file: File,
    /// The last segment, as on the shelf.
    pub segment: Segment,
    /// Length of the file: up to here there are zeros after the last block.
    pub prepared: u64,
    pub encoder: Encoder,
    pub salt: u32,
    /// A segment was begun: the one before takes no more, or a crash could leave two that overlap.
    pub rolling: bool,
    /// Whether the last write failed: only changes are logged.
    pub refusing: bool,
    /// Removes segments for as long as this thread lives.
    pub tidier: Option<JoinHandle<()>>,
    /// Held for as long as these threads may write.
    pub lock: File,
}

/// The two calls that fail on a bad or full disk.
pub(super) trait Disk: Send {
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        file.write_all_at(bytes, position)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The operating system's.
pub(super) struct OsDisk;

impl Disk for OsDisk {}

impl Committer {
    /// Until the queue is closed and empty, or the journal has failed.
    pub fn run(mut self) {
        while let Some(appends) = self.shared.queue.take() {
            self.commit(appends);
            self.shared.rest.take();
        }
    }

    fn commit(&mut self, appends: Vec<Append>) {
        let mut round = Round::new(appends, self.segment.end);
        if round.rest().len() > 1 {
            self.shared.rest.begin();
        }
        while !round.is_settled() {
            let records = round.fill(&mut self.encoder);
            match self.write_block() {
                Ok(time_ms) => {
                    let (count, bytes) = (records.len(), records.iter().map(cost).sum());
                    self.publish(records, time_ms);
                    self.shared.queue.release(bytes);
                    if !round.appended(count) {
                        self.shared.tell();
                    }
                }
                Err(failure) => {
                    let bytes = records.iter().chain(round.rest()).map(cost).sum();
                    self.shared.queue.release(bytes);
                    return self.refuse(round, records.len(), failure);
                }
            }
        }
    }

    /// Writes and syncs the encoded block, in a new segment when it does not fit; its time.
    fn write_block(&mut self) -> Result<u64, Failure> {
        let block_bytes = self.encoder.block_bytes();
        let full = self.segment.bytes + block_bytes > self.segment_bytes_max;
        if self.rolling || full && !self.segment.is_empty() {
            self.rolling = true;
            self.roll()?;
            self.rolling = false;
        }
        let Segment { bytes, end, .. } = self.segment;
        self.prepare(bytes + block_bytes);
        let time_ms = now_ms().max(self.segment.last_ms);
        let block = self.encoder.finish(self.segment.salt, end, time_ms);
        if let Err(error) = self.disk.write(&self.file, block, bytes) {
            return Err(self.undo(error));
        }
        match self.disk.sync(&self.file) {
            Ok(()) => Ok(time_ms),
            Err(error) => Err(Failure::Unsure(describe("sync", &error))),
        }
    }

    /// Lengthens the file by zeros when a small block would: syncs that need not make a length durable take two thirds
    /// of the time and of the processor. Large blocks lengthen it themselves, or each byte would be written twice.
    fn prepare(&mut self, end: u64) {
        if end <= self.prepared {
            return;
        }
        let small = end - self.segment.bytes <= SMALL_BLOCK_BYTES;
        let room = self.segment_bytes_max.saturating_sub(self.prepared);
        let zeros = &ZEROS[..room.min(ZEROS.len() as u64) as usize];
        // Where there is no space, the block's own write tells.
        if small {
            self.prepared += match self.disk.write(&self.file, zeros, self.prepared) {
                Ok(()) => zeros.len() as u64,
                // As far as it came, or the next block would write the same again.
                Err(_) => {
                    let length = self.file.metadata().map_or(0, |file| file.len());
                    length.saturating_sub(self.prepared)
                }
            };
        }
        self.prepared = self.prepared.max(end);
    }

    /// Cuts off what follows the last block, zeros or what a failed write left, and makes that durable.
    fn trim(&mut self) -> io::Result<()> {
        match self.shorten()? {
            true => self.disk.sync(&self.file),
            false => Ok(()),
        }
    }

    /// Cuts off what follows the last block; whether there was anything.
    fn shorten(&mut self) -> io::Result<bool> {
        self.prepared = self.segment.bytes;
        let is_longer = self.file.metadata()?.len() != self.segment.bytes;
        if is_longer {
            self.file.set_len(self.segment.bytes)?;
        }
        Ok(is_longer)
    }

    /// After a failed write: cuts what it left, so that it is certainly not in the log.
    fn undo(&mut self, error: io::Error) -> Failure {
        match self.trim() {
            Ok(()) => Failure::Passing(describe("write", &error)),
            Err(error) => Failure::Unsure(describe("undo a failed write", &error)),
        }
    }

    fn roll(&mut self) -> Result<(), Failure> {
        let shortened = self.shorten();
        // Some file systems need space even for that.
        let shortened =
            shortened.map_err(|error| Failure::Passing(describe("cut a segment", &error)))?;
        if shortened {
            let synced = self.disk.sync(&self.file);
            synced.map_err(|error| Failure::Unwritten(describe("close a segment", &error)))?;
        }
        let base = self.segment.end;
        let path = segment_path(&self.folder, base);
        // Opened first: without a descriptor left, no segment has been made yet.
        let folder = File::open(&self.folder)
            .map_err(|error| Failure::Passing(describe("open its folder", &error)))?;
        let file = segment::create(&path, base, self.salt)
            .map_err(|error| Failure::Passing(describe("create a segment", &error)))?;
        let synced = self.disk.sync(&file);
        synced
            .and_then(|()| folder.sync_all())
            .map_err(|error| Failure::Unwritten(describe("sync a new segment", &error)))?;
        self.file = file;
        let last_ms = self.segment.last_ms;
        self.segment = Segment::empty(base, self.salt);
        self.prepared = self.segment.bytes;
        self.segment.last_ms = last_ms;
        self.shared.shelf.lock().add(self.segment);
        self.shared.tidying.ring();
        Ok(())
    }

    /// Lets everybody see a durable block. Readers are not woken here: a call that hears its answer tells them, on a
    /// thread that runs tasks, so that answers and new messages wait together for the sockets' tasks.
    fn publish(&mut self, records: Arc<[Record]>, time_ms: u64) {
        if self.refusing {
            self.refusing = false;
            tracing::info!("the journal accepts records again");
        }
        let block_bytes = self.encoder.block_bytes();
        let count = records.len() as u64;
        let base = self.segment.end;
        let block = Block { base, records };
        self.segment.grow(block_bytes, block.end(), time_ms);
        if let Some(last) = self.shared.shelf.lock().last_mut() {
            *last = self.segment;
        }
        self.shared.ring.lock().push(block);
        let counters = &self.shared.counters;
        counters.records.fetch_add(count, Relaxed);
        counters.bytes.fetch_add(block_bytes, Relaxed);
        counters.blocks.fetch_add(1, Relaxed);
        let end = self.segment.end;
        self.shared.tip.send_if_modified(|tip| {
            tip.end = end;
            false
        });
    }

    /// Answers the rest of the round: nothing after a failed block is tried, or a call's records could lose their
    /// order.
    fn refuse(&mut self, round: Round, in_block: usize, failure: Failure) {
        let (unknown, error) = match failure {
            Failure::Passing(what) => (0, TopicError::Unavailable(what)),
            Failure::Unwritten(what) => (0, TopicError::Failed(what)),
            Failure::Unsure(what) => (in_block, TopicError::Failed(what)),
        };
        if matches!(error, TopicError::Failed(_)) {
            tracing::error!(%error, "the journal takes no more records: restart when the disk is sound");
            self.shared.queue.fail(&error);
        } else if !self.refusing {
            self.refusing = true;
            tracing::warn!(%error, "the journal refuses records until a write succeeds");
        }
        round.refuse(unknown, error);
    }
}

/// Also when the thread panics: no append waits for ever, and the lock goes last.
impl Drop for Committer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = TopicError::Failed(Cow::Borrowed("its thread panicked"));
            self.shared.queue.fail(&error);
        }
        self.shared.queue.close();
        if self.shared.queue.failure().is_none() {
            self.trim().ok();
        }
        self.shared.groups.lock().close();
        self.shared.rest.end();
        self.shared.tidying.end();
        if let Some(tidier) = self.tidier.take() {
            tidier.join().ok();
        }
        self.lock.unlock().ok();
        self.shared.tip.send_modify(|tip| tip.over = true);
    }
}

/// Zeros that are written at once.
pub(super) static ZEROS: [u8; 512 << 10] = [0; 512 << 10];
/// The largest block that makes it worth while.
pub(super) const SMALL_BLOCK_BYTES: u64 = 32 << 10;

enum Failure {
    /// The block is certainly not in the log, and the file as before.
    Passing(Cow<'static, str>),
    /// The block is certainly not in the log, but the journal cannot go on.
    Unwritten(Cow<'static, str>),
    /// Nobody knows.
    Unsure(Cow<'static, str>),
}

/// The calls that are answered together, and how far they are.
struct Round {
    records: vec::IntoIter<Record>,
    calls: VecDeque<Call>,
    base: u64,
    /// Records of this round that are durable.
    durable: usize,
}

struct Call {
    /// Its records within the round.
    from: usize,
    to: usize,
    reply: tokio::sync::oneshot::Sender<Answer>,
}

impl Round {
    fn new(appends: Vec<Append>, base: u64) -> Round {
        let mut records = Vec::new();
        let mut calls = VecDeque::with_capacity(appends.len());
        for append in appends {
            let from = records.len();
            match from {
                0 => records = append.records,
                _ => records.extend(append.records),
            }
            let to = records.len();
            let reply = append.reply;
            calls.push_back(Call { from, to, reply });
        }
        Round {
            records: records.into_iter(),
            calls,
            base,
            durable: 0,
        }
    }

    fn is_settled(&self) -> bool {
        self.calls.is_empty()
    }

    fn rest(&self) -> &[Record] {
        self.records.as_slice()
    }

    /// Moves the next block's worth of records into the encoder; the records themselves.
    fn fill(&mut self, encoder: &mut Encoder) -> Arc<[Record]> {
        encoder.begin();
        let waiting = self.records.as_slice().iter();
        let count = waiting.take_while(|record| encoder.push(record)).count();
        self.records.by_ref().take(count).collect()
    }

    /// `count` more are durable: answers the calls that are complete. True when somebody hears, who tells the readers.
    fn appended(&mut self, count: usize) -> bool {
        self.durable += count;
        let mut is_heard = false;
        while let Some(call) = self.calls.pop_front_if(|call| call.to <= self.durable) {
            let answer = call.answer(self.base, self.durable, 0, None);
            is_heard |= call.reply.send(answer).is_ok();
        }
        is_heard
    }

    /// Answers all the others.
    fn refuse(self, unknown: usize, error: TopicError) {
        for call in self.calls {
            let answer = call.answer(self.base, self.durable, unknown, Some(error.clone()));
            call.reply.send(answer).ok();
        }
    }
}

impl Call {
    fn answer(
        &self,
        base: u64,
        durable: usize,
        unknown: usize,
        error: Option<TopicError>,
    ) -> Answer {
        let durable = durable.clamp(self.from, self.to);
        let unknown = (durable + unknown).min(self.to);
        Answer {
            base: base + self.from as u64,
            appended: durable - self.from,
            unknown: unknown - durable,
            error,
        }
    }
}

fn describe(what: &str, error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Cow::Borrowed("no space left for the journal")
        }
        _ => Cow::Owned(format!("cannot {what}: {error}")),
    }
}
