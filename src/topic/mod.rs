//! The log: a topic is an ordered, durable list of records in one or more partitions. Kafka's words for Kafka's things.
//!
//! A record with a key always lands in the same partition as others of that key, so one key's order is the log's.

pub mod dead_letters;
pub mod journal;
pub mod kafka;
pub mod memory;
#[cfg(test)]
pub mod reluctant;

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;

use crate::chat::message::Sealed;

// === Record ===

/// What is appended: opaque bytes with a key and a few headers. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Decides the partition; records of one key keep their order.
    pub key: Bytes,
    /// Name and value, in order. Ours are [`header`]'s; other producers' are kept as they are.
    pub headers: SmallVec<[(Cow<'static, str>, Bytes); 3]>,
    pub value: Bytes,
}

impl Record {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    }

    /// Bytes of key, headers and value: what limits on queued records count.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.key.len() + headers + self.value.len()
    }
}

impl From<Sealed> for Record {
    fn from(sealed: Sealed) -> Self {
        let kind = Bytes::from_static(sealed.kind.as_bytes());
        Self {
            key: sealed.conversation.into_bytes(),
            headers: SmallVec::from_buf([
                (header::MESSAGE_ID.into(), sealed.id_hex),
                (header::RECIPIENTS.into(), sealed.recipients),
                (header::TYPE.into(), kind),
            ]),
            value: sealed.value,
        }
    }
}

/// Names of the headers that our records carry.
pub mod header {
    /// The message's `_id`, 24 hex digits.
    pub const MESSAGE_ID: &str = "message_id";
    /// JSON array of the user ids whose rooms get the message.
    pub const RECIPIENTS: &str = "recipients";
    /// The message's `message_type`.
    pub const TYPE: &str = "type";
}

/// Where a record stands: offsets of one partition rise by at least one from record to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: u32,
    pub offset: u64,
}

/// A record as a topic's readers get it: the memory is that of the batch it was appended or read with, and a clone
/// counts one reference, where a clone of a [`Record`] counts one for each of its parts.
#[derive(Clone, Debug)]
pub struct SharedRecord {
    batch: Arc<[Record]>,
    index: usize,
}

impl SharedRecord {
    /// The records of a batch from `first` on.
    pub fn of(batch: &Arc<[Record]>, first: usize) -> impl Iterator<Item = Self> {
        (first..batch.len()).map(|index| Self {
            batch: Arc::clone(batch),
            index,
        })
    }
}

impl Deref for SharedRecord {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.batch[self.index]
    }
}

impl From<Record> for SharedRecord {
    fn from(record: Record) -> Self {
        Self {
            batch: Arc::new([record]),
            index: 0,
        }
    }
}

/// A record read from a topic, with its place.
#[derive(Clone, Debug)]
pub struct Entry {
    pub position: Position,
    /// When it was appended, in milliseconds since 1970; 0 where the log does not keep that. Orders nothing.
    pub time_ms: u64,
    pub record: SharedRecord,
}

// === Topic ===

/// What became of one record handed to [`Topic::append`].
#[derive(Debug)]
pub enum Outcome {
    /// Durable at this position.
    Appended(Position),
    /// Certainly not in the log, now or later.
    NotAppended(TopicError),
    /// It may be in the log, or appear there yet, once.
    Unknown(TopicError),
}

/// An append-only log of records.
pub trait Topic: Send + Sync {
    /// What waits, a few milliseconds at most, until an append pays: where a small one costs as much as a large one,
    /// the appends of all that wait go together, and keep apart from the last. For who has more to append meanwhile.
    /// `None`: it always pays.
    fn turn(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }

    /// Whether a record whose outcome is unknown may yet appear, and be followed by others. Who then appends it again
    /// learns which place counts by reading only.
    fn may_append_late(&self) -> bool {
        false
    }

    /// Appends in order; one outcome a record, in the order given. An `Appended` record is durable (it survives
    /// kill -9 and, with the journal, loss of power) and will be seen by every subscription.
    ///
    /// Dropping the future does not undo the append. Until it is dropped, or has been polled to its end, subscriptions
    /// need not see the records.
    fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>>;

    /// Opens a reader at `start`.
    fn subscribe(&self, start: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>>;

    /// Each partition's bounds: what `group` has committed, and the end of the log now.
    fn bounds(&self, group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>>;

    /// The offset that each partition's next record will get, by partition, whoever appends: all that was acknowledged
    /// before the call, by any process, lies below. Fails when that cannot be known within `within`.
    fn ends(&self, within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>>;

    /// Refuses further appends, finishes those under way, makes everything durable. Subscriptions then end with
    /// [`TopicError::Closed`] once they have read to the end.
    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>>;
}

/// Where a subscription begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// With the next record appended.
    Latest,
    /// After the last commit of this group; from the first retained record when it never committed.
    Group(&'static str),
    /// As `Group`, but earlier: with the first retained record that is younger than `window`, yet at most
    /// `records_max` records before the group's place. Takes part in no group: a commit does nothing.
    Behind {
        group: &'static str,
        window: Duration,
        records_max: u64,
    },
}

/// One partition's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub partition: u32,
    /// Next offset that the group has not committed.
    pub committed: u64,
    /// Offset that the next record will get.
    pub end: u64,
}

/// A reader of a topic.
pub trait Subscription: Send {
    /// Waits for one record, then adds what is there to `batch`, at most `max` records. At least once; in order per
    /// key. Dropping the future loses no record.
    fn poll<'a>(
        &'a mut self,
        batch: &'a mut Vec<Entry>,
        max: usize,
    ) -> BoxFuture<'a, Result<(), TopicError>>;

    /// Remembers, for the subscription's group, all that `poll` has returned so far. A commit may be lost in a crash:
    /// the group then reads those records again.
    fn commit(&mut self) -> BoxFuture<'_, Result<(), TopicError>>;
}

/// Why a topic did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopicError {
    /// Passing: the same call may succeed later.
    #[error("the log is unavailable: {0}")]
    Unavailable(Cow<'static, str>),
    /// For good, in this process: a write failed in a way that leaves the log's state unsure.
    #[error("the log has failed: {0}")]
    Failed(Cow<'static, str>),
    /// The record can never be appended.
    #[error("the record is too large for the log")]
    TooLarge,
    #[error("the log is closed")]
    Closed,
}
