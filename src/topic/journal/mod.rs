//! The embedded log: a topic of one partition in a folder of segment files, for one process.
//!
//! Appends that wait together become one checksummed block, written and synced once. Opening cuts what a crash left
//! half written, and refuses what is damaged. Disk-full is passing; a failed sync is for good. It does not replicate.

mod bell;
pub mod block;
mod committer;
mod groups;
mod queue;
mod reader;
mod recovery;
mod rest;
mod segment;
mod shared;
mod tidier;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

pub use block::RECORD_BYTES_MAX;
pub use recovery::OpenError;

use crate::topic::{Bounds, Outcome, Record, Start, Subscription, Topic, TopicError};
use bell::Bell;
use committer::{Committer, Disk, OsDisk};
use groups::Groups;
use queue::{Answer, Queue};
use reader::{Reader, position};
use rest::Rest;
use segment::{Segment, Shelf};
use shared::{Counters, Ring, Shared, Tip};

/// Where the journal lives and how much it may hold.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The folder; created when it is not there. Nothing else may write in it.
    pub path: PathBuf,
    /// A segment that would grow beyond this is closed and the next one begun.
    pub segment_bytes_max: u64,
    /// Records kept in memory until all readers have taken them; one that falls further behind reads the files.
    pub ring_bytes_max: usize,
    /// Records waiting to be written or being written; more are refused as `Unavailable`.
    pub queue_bytes_max: usize,
    /// How long a segment is kept that all groups have committed.
    pub retention: Duration,
    /// Bytes of such segments that are kept at most, however young.
    pub retained_bytes_max: u64,
}

impl JournalConfig {
    /// The defaults, in this folder.
    pub fn new(path: impl Into<PathBuf>) -> JournalConfig {
        JournalConfig {
            path: path.into(),
            segment_bytes_max: 64 << 20,
            ring_bytes_max: 32 << 20,
            queue_bytes_max: 64 << 20,
            retention: Duration::from_secs(600),
            retained_bytes_max: 256 << 20,
        }
    }
}

/// The journal's numbers. Counts are since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    pub appended_records: u64,
    /// As written, with what frames them.
    pub appended_bytes: u64,
    /// Blocks written; each was synced once.
    pub blocks: u64,
    pub segments: usize,
    pub bytes_on_disk: u64,
    pub queued_bytes: usize,
    /// Offset that the next record will get.
    pub end: u64,
    /// No record is accepted until the process is restarted.
    pub failed: bool,
}

/// An open journal. Dropping it finishes the appends under way, as [`Topic::close`] does, and blocks for so long.
pub struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the folder, or creates it. Blocks: it reads the last segment and every earlier block's head.
    ///
    /// Starts one thread. Fails when another process has it open, and on damage that is more than a torn end.
    pub fn open(config: JournalConfig) -> Result<Journal, OpenError> {
        Journal::open_on(config, Box::new(OsDisk))
    }

    fn open_on(config: JournalConfig, disk: Box<dyn Disk>) -> Result<Journal, OpenError> {
        let folder = config.path;
        let failed = |error| OpenError::io(&folder)(error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = lock(&folder)?;
        let salt = getrandom::u32().map_err(|error| failed(io::Error::other(error.to_string())))?;
        tidier::remove_rests(&folder).map_err(failed)?;
        let (segments, file) = recovery::recover(&folder, salt)?;
        let segment = segments.back().copied().unwrap_or(Segment::empty(0, salt));
        let end = segment.end;
        let groups = Groups::open(&folder.join(GROUPS), end).map_err(failed)?;
        sync_names(&folder).map_err(failed)?;
        let shared = Arc::new(Shared {
            queue: Queue::new(config.queue_bytes_max),
            shelf: Mutex::new(Shelf::new(
                folder.clone(),
                segments,
                config.retention,
                config.retained_bytes_max,
            )),
            ring: Mutex::new(Ring::new(config.ring_bytes_max)),
            groups: Mutex::new(groups),
            tip: watch::Sender::new(Tip {
                end,
                told: end,
                over: false,
            }),
            rest: Rest::default(),
            tidying: Bell::default(),
            counters: Counters::default(),
        });
        let tidier = thread::Builder::new().name("journal-tidy".to_owned());
        let (tidied, tidied_folder) = (Arc::clone(&shared), folder.clone());
        let tidier = tidier.spawn(move || tidier::run(&tidied, &tidied_folder));
        let committer = Committer {
            shared: Arc::clone(&shared),
            disk,
            folder: folder.clone(),
            segment_bytes_max: config.segment_bytes_max,
            file,
            prepared: segment.bytes,
            segment,
            encoder: block::Encoder::default(),
            salt,
            rolling: false,
            refusing: false,
            tidier: Some(tidier.map_err(failed)?),
            lock,
        };
        let thread = thread::Builder::new().name("journal".to_owned());
        let thread = thread.spawn(move || committer.run()).map_err(failed)?;
        Ok(Journal {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Cheap: no files are looked at.
    pub fn stats(&self) -> JournalStats {
        let (segments, bytes_on_disk) = {
            let shelf = self.shared.shelf.lock();
            (shelf.count(), shelf.bytes())
        };
        let counters = &self.shared.counters;
        JournalStats {
            appended_records: counters.records.load(Relaxed),
            appended_bytes: counters.bytes.load(Relaxed),
            blocks: counters.blocks.load(Relaxed),
            segments,
            bytes_on_disk,
            queued_bytes: self.shared.queue.bytes(),
            end: self.shared.tip.borrow().end,
            failed: self.shared.queue.failure().is_some(),
        }
    }

    async fn append_all(&self, mut batch: Vec<Record>) -> Vec<Outcome> {
        let mut too_large = Vec::new();
        let mut index = 0;
        batch.retain(|record| {
            let fits = block::fits(record);
            if !fits {
                too_large.push(index);
            }
            index += 1;
            fits
        });
        let mut outcomes = self.append_fitting(batch).await;
        for index in too_large {
            outcomes.insert(index, Outcome::NotAppended(TopicError::TooLarge));
        }
        outcomes
    }

    async fn append_fitting(&self, batch: Vec<Record>) -> Vec<Outcome> {
        let count = batch.len();
        // Declared before the answer's receiver, so dropped after it: either the committer could not send, and tells,
        // or this does.
        let _telling = Telling(&self.shared);
        let pushed = match self.shared.queue.push(batch) {
            Ok(pushed) => pushed,
            Err(error) => return refusals(count, &error).collect(),
        };
        let mut outcomes = Vec::with_capacity(count);
        if pushed.admitted > 0 {
            match pushed.answer.await {
                Ok(answer) => outcomes.extend(answered(pushed.admitted, &answer)),
                Err(_) => outcomes.extend(unanswered(pushed.admitted)),
            }
        }
        let full = TopicError::Unavailable("its queue is full".into());
        outcomes.extend(refusals(count - pushed.admitted, &full));
        outcomes
    }

    async fn start(&self, start: Start) -> Result<Reader, TopicError> {
        let shared = Arc::clone(&self.shared);
        let (group, next) = match start {
            Start::Latest => (None, shared.tip.borrow().end),
            Start::Group(group) => {
                let joined = shared.groups.lock().join(group);
                joined.map_err(|error| {
                    TopicError::Unavailable(format!("cannot join {group}: {error}").into())
                })?;
                (Some(group), self.place(group))
            }
            Start::Behind {
                group,
                window,
                records_max,
            } => {
                let place = self.place(group);
                let task = Arc::clone(&shared);
                let young = spawn_blocking(move || reader::find_time(&task, window)).await;
                let young = young.map_err(|_| TopicError::Closed)??;
                let least = place.saturating_sub(records_max).max(self.first());
                (None, young.max(least).min(place))
            }
        };
        Ok(Reader::new(shared, group, next))
    }

    /// Where the group goes on.
    fn place(&self, group: &str) -> u64 {
        let committed = self.shared.groups.lock().committed(group);
        let first = self.first();
        if committed.is_some_and(|committed| committed < first) {
            tracing::warn!(
                group,
                ?committed,
                first,
                "records that the group has not read are gone"
            );
        }
        committed.unwrap_or(first).max(first)
    }

    fn first(&self) -> u64 {
        self.shared.shelf.lock().first()
    }

    async fn finish(&self) -> Result<(), TopicError> {
        self.shared.queue.close();
        let mut tip = self.shared.tip.subscribe();
        tip.wait_for(|tip| tip.over).await.ok();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            spawn_blocking(move || thread.join()).await.ok();
        }
        self.shared.queue.failure().map_or(Ok(()), Err)
    }
}

impl Topic for Journal {
    fn turn(&self) -> Option<BoxFuture<'_, ()>> {
        let turn = self.shared.rest.turn()?;
        Some(Box::pin(turn))
    }

    fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(self.append_all(batch))
    }

    fn subscribe(&self, start: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>> {
        Box::pin(async move {
            let reader = self.start(start).await?;
            Ok(Box::new(reader) as Box<dyn Subscription>)
        })
    }

    fn bounds(&self, group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
        let bounds = Bounds {
            partition: 0,
            committed: self.place(group),
            end: self.shared.tip.borrow().end,
        };
        Box::pin(async move { Ok(vec![bounds]) })
    }

    fn ends(&self, _within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
        let end = self.shared.tip.borrow().end;
        Box::pin(async move { Ok(vec![end]) })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(self.finish())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.get_mut().take() {
            thread.join().ok();
        }
    }
}

/// Tells the readers when it is dropped.
struct Telling<'a>(&'a Shared);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.tell();
    }
}

/// The lock lasts as long as the file is open, so the kernel gives it back even after kill -9.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&path)(error)),
    }
}

/// Of what is in the folder, and of the folder itself.
fn sync_names(folder: &Path) -> io::Result<()> {
    segment::sync_folder(folder)?;
    let whole = folder.canonicalize()?;
    whole.parent().map_or(Ok(()), segment::sync_folder)
}

fn answered(count: usize, answer: &Answer) -> impl Iterator<Item = Outcome> + '_ {
    let error = answer.error.clone().unwrap_or(TopicError::Closed);
    let places = (answer.base..).map(|offset| Outcome::Appended(position(offset)));
    let unknown = {
        let error = error.clone();
        (0..answer.unknown).map(move |_| Outcome::Unknown(error.clone()))
    };
    let rest = (0..).map(move |_| Outcome::NotAppended(error.clone()));
    let outcomes = places.take(answer.appended).chain(unknown).chain(rest);
    outcomes.take(count)
}

/// The committer ended without an answer: it panicked.
fn unanswered(count: usize) -> impl Iterator<Item = Outcome> {
    let error = TopicError::Failed("its thread panicked".into());
    (0..count).map(move |_| Outcome::Unknown(error.clone()))
}

fn refusals(count: usize, error: &TopicError) -> impl Iterator<Item = Outcome> {
    (0..count).map(move |_| Outcome::NotAppended(error.clone()))
}

const LOCK: &str = "lock";
const GROUPS: &str = "groups";

#[cfg(test)]
mod tests;
