//! The thread of a subscription: takes records from the client library and hands them over in batches.
//!
//! The client library's own queue stands before it. A member of a group whose reader has stopped pauses its partitions
//! and goes on polling, so that the group does not expel it.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, TopicPartitionList};
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::health::{Health, Member};
use crate::topic::{Entry, Position, Record, SharedRecord, TopicError, header};

// === Pump ===

/// The thread between the client library and the reader. Ends with the reader.
pub(super) struct Pump {
    pub consumer: Arc<BaseConsumer<Member>>,
    pub sender: mpsc::Sender<Result<Vec<Entry>, TopicError>>,
    pub health: Arc<Health>,
    pub grouped: bool,
}

impl Pump {
    pub fn run(self) {
        let mut memory = Vec::new();
        while !self.sender.is_closed() {
            let (entries, error) = self.take(&mut memory);
            let batch = (!entries.is_empty()).then_some(Ok(entries));
            for item in batch.into_iter().chain(error.map(Err)) {
                if !self.hand_over(item) {
                    return;
                }
            }
        }
    }

    /// What is there, after waiting for the first a little.
    fn take(&self, memory: &mut Vec<u8>) -> (Vec<Entry>, Option<TopicError>) {
        let mut taken = Taken::new(memory);
        let mut failure = None;
        let mut wait = WAIT;
        while taken.records < BATCH_RECORDS_MAX && taken.bytes < BATCH_BYTES_MAX {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    taken.push(&message);
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
                    failure = told(&error);
                    if failure.is_some() {
                        break;
                    }
                }
            }
        }
        let (records, bytes) = (taken.records as u64, taken.bytes as u64);
        self.health.read_records.fetch_add(records, Relaxed);
        self.health.read_bytes.fetch_add(bytes, Relaxed);
        (taken.entries(), failure)
    }

    /// Waits for room. `false` when the reader has gone.
    fn hand_over(&self, item: Result<Vec<Entry>, TopicError>) -> bool {
        if !self.grouped {
            return self.sender.blocking_send(item).is_ok();
        }
        let mut item = item;
        let mut paused = TopicPartitionList::new();
        let mut is_paused = false;
        let full_since = Instant::now();
        loop {
            match self.sender.try_send(item) {
                Ok(()) => {
                    self.resume(&paused);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(back)) => item = back,
            }
            // A pause throws away what the client library has fetched: it is for a reader that has stopped.
            if full_since.elapsed() < PATIENCE {
                thread::sleep(FULL_WAIT);
                continue;
            }
            if !is_paused {
                self.pause(&mut paused);
                is_paused = true;
            }
            match self.consumer.poll(PAUSED_WAIT) {
                None => {}
                // A partition that was assigned just now is not paused yet.
                Some(Ok(message)) => {
                    let mut memory = Vec::new();
                    let mut late = Taken::new(&mut memory);
                    late.push(&message);
                    put_behind(&mut item, late.entries());
                    is_paused = false;
                }
                // Told once only. The reader ends with it, and has not committed what stands before it.
                Some(Err(error)) => {
                    if let Some(failure @ TopicError::Failed(_)) = told(&error) {
                        item = Err(failure);
                    }
                }
            }
        }
    }

    /// Pauses what is assigned, and adds it to `paused`.
    fn pause(&self, paused: &mut TopicPartitionList) {
        let assigned = self.consumer.assignment();
        let done = assigned.and_then(|assigned| {
            for place in assigned.elements() {
                let (topic, partition) = (place.topic(), place.partition());
                if paused.find_partition(topic, partition).is_none() {
                    paused.add_partition(topic, partition);
                }
            }
            self.consumer.pause(&assigned)
        });
        if let Err(error) = done {
            tracing::warn!(%error, "partitions could not be paused");
        }
    }

    /// Those too that went to another member meanwhile: the client library forgets no pause, and would never read them
    /// when they come back.
    fn resume(&self, paused: &TopicPartitionList) {
        if paused.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.resume(paused) {
            tracing::warn!(%error, "partitions could not be resumed");
        }
    }
}

/// Adds what came late to what waits for room.
fn put_behind(item: &mut Result<Vec<Entry>, TopicError>, late: Vec<Entry>) {
    match item {
        Ok(entries) => entries.extend(late),
        // The reader ends with it, and has not committed these.
        Err(TopicError::Failed(_)) => {}
        Err(_) => *item = Ok(late),
    }
}

/// What the reader has to know. Lost connections are not for it: the client library tries again by itself.
fn told(error: &KafkaError) -> Option<TopicError> {
    let code = error.rdkafka_error_code()?;
    match code {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
            let what = "records that were still to be read are no longer in the topic";
            Some(TopicError::Failed(what.into()))
        }
        RDKafkaErrorCode::Fatal => Some(TopicError::Failed(error.to_string().into())),
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::Authentication => Some(unavailable(error)),
        _ => None,
    }
}

pub(super) fn unavailable(error: &KafkaError) -> TopicError {
    TopicError::Unavailable(error.to_string().into())
}

// === Taken ===

/// Records as they are taken. What comes behind one another of a partition is copied into one piece of memory, which
/// lives as long as any of it: a partition's records are done with in order, those of several are not.
struct Taken<'m> {
    records: usize,
    bytes: usize,
    entries: Vec<Entry>,
    run: Run<'m>,
}

impl<'m> Taken<'m> {
    /// `memory` is used again from one to the next: it is empty before and after.
    fn new(memory: &'m mut Vec<u8>) -> Self {
        Self {
            records: 0,
            bytes: 0,
            entries: Vec::new(),
            run: Run {
                partition: 0,
                memory,
                records: Vec::new(),
            },
        }
    }

    fn push(&mut self, message: &BorrowedMessage<'_>) {
        let partition = message.partition().max(0) as u32;
        if self.run.partition != partition {
            self.run.end(&mut self.entries);
            self.run.partition = partition;
        }
        self.records += 1;
        self.bytes += self.run.push(message);
    }

    fn entries(mut self) -> Vec<Entry> {
        self.run.end(&mut self.entries);
        self.entries
    }
}

/// Records of one partition, one behind the other.
struct Run<'m> {
    partition: u32,
    memory: &'m mut Vec<u8>,
    records: Vec<Parts>,
}

/// Where a record stands, and how much of the memory each of its parts is, in this order.
struct Parts {
    offset: u64,
    time_ms: u64,
    key: usize,
    value: usize,
    headers: SmallVec<[(Cow<'static, str>, usize); 3]>,
}

impl Run<'_> {
    /// Copies a record; its size as [`Record::size`] counts.
    fn push(&mut self, message: &BorrowedMessage<'_>) -> usize {
        let start = self.memory.len();
        let key = message.key().unwrap_or_default();
        let value = message.payload().unwrap_or_default();
        self.memory.extend_from_slice(key);
        self.memory.extend_from_slice(value);
        let mut names = 0;
        let headers = headers(message).into_iter().map(|(key, value)| {
            names += key.len();
            self.memory.extend_from_slice(value);
            (name(key), value.len())
        });
        self.records.push(Parts {
            offset: message.offset().max(0) as u64,
            time_ms: message.timestamp().to_millis().unwrap_or_default().max(0) as u64,
            key: key.len(),
            value: value.len(),
            headers: headers.collect(),
        });
        self.memory.len() - start + names
    }

    /// Hands over what there is.
    fn end(&mut self, entries: &mut Vec<Entry>) {
        let mut rest = Bytes::copy_from_slice(self.memory);
        self.memory.clear();
        let records = self.records.iter_mut().map(|parts| Record {
            key: rest.split_to(parts.key),
            value: rest.split_to(parts.value),
            headers: parts
                .headers
                .drain(..)
                .map(|(name, bytes)| (name, rest.split_to(bytes)))
                .collect(),
        });
        let records: Arc<[Record]> = records.collect();
        let places = self.records.drain(..);
        entries.extend(
            places
                .zip(SharedRecord::of(&records, 0))
                .map(|(parts, record)| Entry {
                    position: Position {
                        partition: self.partition,
                        offset: parts.offset,
                    },
                    time_ms: parts.time_ms,
                    record,
                }),
        );
    }
}

/// Names and values. The client library panics at a name that is no UTF-8: such a record comes without its headers, for
/// it must not end the thread that reads all the others.
fn headers<'a>(message: &'a BorrowedMessage<'_>) -> SmallVec<[(&'a str, &'a [u8]); 4]> {
    let read = || {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        headers
            .map(|header| (header.key, header.value.unwrap_or_default()))
            .collect()
    };
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_default()
}

/// Our own headers' names cost no allocation.
fn name(name: &str) -> Cow<'static, str> {
    [header::MESSAGE_ID, header::RECIPIENTS, header::TYPE]
        .into_iter()
        .find(|known| *known == name)
        .map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

const BATCH_RECORDS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How long a thread without records waits before it looks whether its reader is still there.
const WAIT: Duration = Duration::from_millis(100);
const PAUSED_WAIT: Duration = Duration::from_millis(20);

/// How long a member whose reader has no room looks for some, and how often, before it pauses. It hears of no rebalance
/// meanwhile, so other members may have to wait as long.
const PATIENCE: Duration = Duration::from_secs(1);
const FULL_WAIT: Duration = Duration::from_millis(10);
