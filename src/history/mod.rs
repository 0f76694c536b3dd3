//! History: what the store has and what only the log has yet, read as one.
//!
//! A message is here from the moment it is acknowledged, whether the store keeps up or not; pages never show a message
//! twice, and a page that cannot be told completely is an error, never a wrong page.

mod barrier;
mod horizon;
mod index;
mod page;
mod partition;
mod recent;
mod tail;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::chat::foreign;
use crate::chat::id::{ConversationId, MessageId, Seq};
use crate::chat::message::Message;
use crate::chat::rejection::Rejection;
use crate::history::horizon::Horizon;
use crate::history::page::merge;
use crate::history::partition::Partition;
use crate::history::recent::Recent;
use crate::metrics::Metrics;
use crate::store::{Cursor, PageQuery, Store, StoreError};
use crate::topic::{Bounds, Entry, Position, Topic, TopicError, header};

/// Messages of the tail at which the archive does not rest: about twice what one insert takes.
const MUCH_MESSAGES: usize = 16_384;

/// The same in bytes: half of what the journal keeps in memory for its readers.
const MUCH_BYTES: u64 = 16 << 20;

// === History ===

/// Store ∪ tail. Shared by all that read and write messages.
pub struct History {
    store: Arc<dyn Store>,
    partitions: Box<[Partition]>,
    recent: Mutex<Recent>,
    epoch: u32,
    /// The log's name, part of the ids of messages that have none.
    topic: Box<str>,
    tail_bytes_max: usize,
    tail_bytes: AtomicU64,
    /// Told whenever a partition's `read` or `archived` has moved.
    moved: Notify,
    /// Told when somebody waits for the archive, or much does.
    awaited: Notify,
    /// How many wait for it.
    waiters: AtomicUsize,
    /// Held by the log's reader from [`History::feed`] until what it fed has been shown.
    showing: Mutex<()>,
    /// Where other nodes' appends end; `None` for a log of this process alone.
    horizon: Option<Horizon>,
    metrics: Arc<Metrics>,
}

/// Bounds of what history keeps in memory. By default those of a server that is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Bytes of messages that the store does not have yet.
    pub tail_bytes_max: usize,
    /// Ids remembered to recognise a message that the log holds twice.
    pub recent_ids_max: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            tail_bytes_max: 256 << 20,
            recent_ids_max: 262_144,
        }
    }
}

/// Which log this is the history of.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its life: part of every place.
    pub epoch: u32,
    pub topic: &'a str,
}

/// One record as the log's reader hands it over; `message` is `None` for what is no message.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub position: Position,
    pub message: Option<Message>,
    /// Another producer wrote it, and may have done so twice.
    pub is_foreign: bool,
}

/// Held until what was fed has been shown: [`History::shown`] waits for it.
#[must_use]
pub struct Showing<'a> {
    _held: MutexGuard<'a, ()>,
}

/// Where a page begins, by message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Newest,
    After(MessageId),
    Before(MessageId),
}

/// Messages that were asked for by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub messages: Vec<Message>,
    /// Those that were not found may be in the log all the same: the tail forgot some that the store does not have yet.
    pub has_gap: bool,
}

impl Found {
    fn complete(self) -> Result<Vec<Message>, HistoryError> {
        (!self.has_gap)
            .then_some(self.messages)
            .ok_or_else(too_far_behind)
    }
}

/// Why history cannot tell.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HistoryError {
    /// The cursor names no message of this conversation.
    #[error("unknown cursor")]
    UnknownCursor,
    /// Passing: the store is away, or too far behind the log.
    #[error("history is unavailable: {0}")]
    Unavailable(String),
}

impl From<StoreError> for HistoryError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl History {
    /// `bounds`: the log's partitions, with what the archive has committed.
    pub fn new(
        store: Arc<dyn Store>,
        bounds: &[Bounds],
        origin: Origin,
        limits: HistoryLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            partitions: bounds.iter().map(Partition::new).collect(),
            recent: Mutex::new(Recent::new(limits.recent_ids_max)),
            epoch: origin.epoch,
            topic: origin.topic.into(),
            tail_bytes_max: limits.tail_bytes_max,
            tail_bytes: AtomicU64::new(0),
            moved: Notify::new(),
            awaited: Notify::new(),
            waiters: AtomicUsize::new(0),
            showing: Mutex::new(()),
            horizon: None,
            metrics,
        }
    }

    /// The history of a log of this process alone, in its first life, with the default limits: for tests and benches.
    /// Fails when the log does not tell its bounds.
    pub async fn alone(
        log: &dyn Topic,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TopicError> {
        let origin = Origin {
            epoch: 1,
            topic: "chat.messages",
        };
        let bounds = log.bounds("archive").await?;
        let limits = HistoryLimits::default();
        Ok(Self::new(store, &bounds, origin, limits, metrics))
    }

    /// Reads a record as a message: ours as it stands, another producer's as [`foreign::read`] makes it. An error
    /// when it is no message.
    pub fn read(&self, entry: &Entry) -> Result<Message, Rejection> {
        let (position, record) = (entry.position, &entry.record);
        let seq = self.seq(position);
        let is_ours = record.header(header::MESSAGE_ID).is_some();
        if is_ours && let Some(message) = Message::from_log(&record.key, &record.value, seq) {
            return Ok(message);
        }
        let Position { partition, offset } = position;
        let id = foreign::id_of_place(&self.topic, self.epoch, partition, offset);
        Ok(foreign::read(&record.value, id, entry.time_ms)?.at(seq))
    }

    /// The place that a position of the log stands for.
    pub fn seq(&self, position: Position) -> Seq {
        Seq::new(self.epoch, position.offset)
    }

    fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions
            .iter()
            .find(|partition| partition.number == number)
    }

    // --- fed by the pipeline ---

    /// Notes that a record at `position` is about to be acknowledged: from now on no page is told before the log's
    /// reader has come past it.
    pub fn appended(&self, position: Position) {
        if let Some(partition) = self.partition(position.partition) {
            partition
                .appended
                .fetch_max(position.offset + 1, Ordering::Release);
        }
    }

    /// Takes what the log's reader has read, in its order; leaves in `batch` the messages read for the first time. Of
    /// them, those that [are new](History::is_new) are to be shown.
    pub fn feed(&self, batch: &mut Vec<Arrival>) -> Showing<'_> {
        let showing = Showing {
            _held: self.showing.lock(),
        };
        let mut recent = self.recent.lock();
        batch.retain_mut(|arrival| {
            let Some(partition) = self.partition(arrival.position.partition) else {
                return false;
            };
            let first = arrival.message.as_ref().is_some_and(|message| {
                let may_come_again = arrival.is_foreign || message.may_be_resent();
                let first = !may_come_again || recent.insert(message.id, message.seq);
                if first {
                    self.keep(partition, message);
                } else {
                    self.metrics.duplicates_hidden.inc();
                }
                first
            });
            partition
                .read
                .fetch_max(arrival.position.offset + 1, Ordering::Release);
            first
        });
        self.metrics.recent_ids.set(recent.len() as i64);
        drop(recent);
        self.shed();
        let messages = self.count();
        // Of a shared log the tail holds what other nodes archive, too.
        if self.horizon.is_none() && self.is_much(messages) {
            self.awaited.notify_one();
        }
        self.moved.notify_waiters();
        showing
    }

    /// Whether a record was appended since the start: who has connected since finds the others in history.
    pub fn is_new(&self, position: Position) -> bool {
        let partition = self.partition(position.partition);
        partition.is_some_and(|partition| position.offset >= partition.shown_from)
    }

    fn keep(&self, partition: &Partition, message: &Message) {
        let mut tail = partition.tail.lock();
        if message.seq.offset() >= partition.archived.load(Ordering::Acquire) {
            let bytes = tail.push(message.clone());
            drop(tail);
            self.tail_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Forgets the oldest of the tail when it is over its bound: pages then fail until the store has caught up.
    fn shed(&self) {
        while self.tail_bytes.load(Ordering::Relaxed) > self.tail_bytes_max as u64 {
            let freed: usize = self.partitions.iter().map(|p| p.tail.lock().shed()).sum();
            if freed == 0 {
                return;
            }
            self.tail_bytes.fetch_sub(freed as u64, Ordering::Relaxed);
        }
    }

    /// Notes that the store has everything of this partition below `next`, but for what it refuses for good: that is
    /// in history no more.
    pub fn archived(&self, next: Position) {
        let Some(partition) = self.partition(next.partition) else {
            return;
        };
        let mut tail = partition.tail.lock();
        partition.archived.fetch_max(next.offset, Ordering::Release);
        let freed = tail.archived(Seq::new(self.epoch, next.offset));
        drop(tail);
        self.tail_bytes.fetch_sub(freed as u64, Ordering::Relaxed);
        self.count();
        self.moved.notify_waiters();
    }

    /// More than is found quickly, or than the log's readers may leave in memory: it is cheaper to store it.
    fn is_much(&self, messages: usize) -> bool {
        messages > MUCH_MESSAGES || self.tail_bytes.load(Ordering::Relaxed) > MUCH_BYTES
    }

    /// Messages in the tail.
    fn count(&self) -> usize {
        let messages: usize = self.partitions.iter().map(|p| p.tail.lock().len()).sum();
        self.metrics.tail_messages.set(messages as i64);
        self.metrics
            .tail_bytes
            .set(self.tail_bytes.load(Ordering::Relaxed) as i64);
        messages
    }

    // --- read by clients ---

    /// One page of a conversation in rising `seq`: at most `limit` messages nearest to `place`. It holds every message
    /// acknowledged before the call, by any node; of other nodes' only what is known here while the log is away.
    pub async fn page(
        &self,
        conversation: &ConversationId,
        place: Place,
        limit: usize,
    ) -> Result<Vec<Message>, HistoryError> {
        self.caught_up_or_cut_off().await?;
        let cursor = match place {
            Place::Newest => Cursor::Newest,
            Place::After(id) => Cursor::After(self.seq_of(id, conversation).await?, id),
            Place::Before(id) => Cursor::Before(self.seq_of(id, conversation).await?, id),
        };
        let query = PageQuery {
            conversation,
            cursor,
            limit,
        };
        // The tail first: what moves from it into the store meanwhile is then seen twice, not missed.
        let tail = self.tail_page(query)?;
        let nearest_are_in_tail = !matches!(cursor, Cursor::After(..)) && tail.len() >= limit;
        let stored = if nearest_are_in_tail {
            Vec::new()
        } else {
            self.store.page(query).await?
        };
        Ok(merge(stored, tail, cursor, limit))
    }

    fn tail_page(&self, query: PageQuery<'_>) -> Result<Vec<Message>, HistoryError> {
        let mut page = Vec::new();
        for partition in &self.partitions {
            let tail = partition.tail.lock();
            if tail.has_gap() {
                return Err(too_far_behind());
            }
            page.extend(tail.page(query));
        }
        Ok(page)
    }

    async fn seq_of(
        &self,
        id: MessageId,
        conversation: &ConversationId,
    ) -> Result<Seq, HistoryError> {
        let found = self.find_now(&[id]).await?.complete()?;
        let message = found
            .first()
            .filter(|message| message.conversation == *conversation);
        message
            .map(|message| message.seq)
            .ok_or(HistoryError::UnknownCursor)
    }

    /// The messages of these ids, those that exist, in any order; complete for all acknowledged before the call.
    pub async fn find(&self, ids: &[MessageId]) -> Result<Vec<Message>, HistoryError> {
        self.caught_up().await?;
        self.find_now(ids).await?.complete()
    }

    /// As [`History::find`], but complete only for what this process acknowledged, and not even that with a gap.
    pub async fn find_own(&self, ids: &[MessageId]) -> Result<Found, HistoryError> {
        self.read_up_to(&[]).await?;
        self.find_now(ids).await
    }

    async fn find_now(&self, ids: &[MessageId]) -> Result<Found, HistoryError> {
        let mut messages = self.find_in_tail(ids);
        let known: HashSet<MessageId> = messages.iter().map(|m| m.id).collect();
        let missing = ids.iter().copied().filter(|id| !known.contains(id));
        let missing: Vec<_> = missing.collect::<HashSet<_>>().into_iter().collect();
        let mut has_gap = false;
        if !missing.is_empty() {
            // Looked for between tail and store: what goes from one to the other meanwhile is found, or told of.
            has_gap = self.has_gap();
            let stored = self.store.find(&missing).await?;
            has_gap &= stored.len() < missing.len();
            messages.extend(stored);
        }
        Ok(Found { messages, has_gap })
    }

    /// Those of these ids that the store does not have yet; never waits.
    pub fn find_in_tail(&self, ids: &[MessageId]) -> Vec<Message> {
        let in_tail = |id: &MessageId| {
            let mut partitions = self.partitions.iter();
            partitions.find_map(|partition| partition.tail.lock().get(*id))
        };
        ids.iter().filter_map(in_tail).collect()
    }

    /// Whether there are messages that neither the tail nor the store has.
    fn has_gap(&self) -> bool {
        self.partitions
            .iter()
            .any(|partition| partition.tail.lock().has_gap())
    }

    /// Whether the log's reader has come upon this id lately.
    pub fn was_read(&self, id: MessageId) -> bool {
        self.recent.lock().contains(id)
    }

    /// Marks a message as spam for good; `None` when there is no such message. When this returns, every page shows it,
    /// and neither a late insert nor a restart undoes it: a message still on its way to the store is waited for.
    pub async fn report_spam(&self, id: MessageId) -> Result<Option<Message>, HistoryError> {
        self.caught_up().await?;
        let in_tail = |partition: &Partition| {
            partition
                .tail
                .lock()
                .get(id)
                .map(|message| (partition.number, message.seq.offset()))
        };
        if let Some((number, offset)) = self.partitions.iter().find_map(in_tail) {
            let _hurry = self.horizon.as_ref().map(Horizon::hurry);
            let _waiter = Waiter::new(&self.waiters);
            self.awaited.notify_one();
            self.wait("the message is not in the store yet", || {
                let archived = self
                    .partition(number)
                    .map(|p| p.archived.load(Ordering::Acquire));
                archived.is_none_or(|archived| archived > offset)
            })
            .await?;
        } else if self.has_gap() {
            return Err(too_far_behind());
        }
        Ok(self.store.report_spam(id).await?)
    }

    /// Whether somebody waits for the archive now.
    pub fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::Acquire) > 0
    }

    /// Waits until somebody waits for the archive, or much does: then it should not rest.
    pub async fn awaited(&self) {
        self.awaited.notified().await;
    }

    /// Rises with each record that the store gets.
    pub fn watermark(&self) -> u64 {
        let archived = |p: &Partition| p.archived.load(Ordering::Acquire);
        self.partitions.iter().map(archived).sum()
    }

    /// Records that the store does not have yet, as far as this process knows.
    pub fn lag(&self) -> u64 {
        self.partitions.iter().map(Partition::lag).sum()
    }

    /// As [`History::lag`], of one partition.
    pub fn lag_of(&self, partition: u32) -> u64 {
        self.partition(partition).map_or(0, Partition::lag)
    }
}

fn too_far_behind() -> HistoryError {
    HistoryError::Unavailable("the store is too far behind the log".into())
}

/// Counts one who waits, for as long as it is there.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Ordering::Release);
        Self(waiters)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
