//! The reading side: one thread a subscription takes records from the client library and hands them over in batches.
//!
//! Bounded: four batches wait for the reader, the client library's own queue stands before them. A member of a group
//! whose reader is slow pauses its partitions and goes on polling, so that the group does not expel it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use std::{thread, vec};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use smallvec::SmallVec;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use super::health::{Context, Health};
use crate::topic::{Entry, Position, Record, Subscription, TopicError, header};

/// The end that readers stop at.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    Open,
    /// The topic is closed; each partition's end then, or `None` when the brokers could not be asked.
    Over(Option<Arc<[u64]>>),
}

/// A tail of given partitions, or a member of a group.
///
/// `consumer` stands first: the thread, which drops its own later, is the one that waits for the goodbye.
pub(super) struct Reader {
    consumer: Arc<BaseConsumer<Member>>,
    batches: mpsc::Receiver<Result<Vec<Entry>, TopicError>>,
    ready: vec::IntoIter<Entry>,
    ending: watch::Receiver<Ending>,
    topic: String,
    grouped: bool,
    request_timeout: Duration,
    /// Next offset of each partition that was returned, or started at.
    next: BTreeMap<u32, u64>,
    /// The same, of what was returned since the last commit.
    uncommitted: BTreeMap<u32, u64>,
    committing: Option<JoinHandle<Result<(), KafkaError>>>,
    /// Since when the topic is known to be closed.
    closed: Option<Instant>,
    /// Met after records that had to be returned first.
    fault: Option<TopicError>,
}

/// What a subscription is opened with.
pub(super) struct Opening {
    pub settings: ClientConfig,
    pub topic: String,
    pub health: Arc<Health>,
    pub ending: watch::Receiver<Ending>,
    pub request_timeout: Duration,
}

impl Reader {
    /// Reads every partition from the offset given for it.
    pub fn tail(opening: Opening, starts: &[u64]) -> Result<Reader, KafkaError> {
        let mut partitions = TopicPartitionList::with_capacity(starts.len());
        for (partition, start) in (0..).zip(starts) {
            let offset = Offset::Offset(*start as i64);
            partitions.add_partition_offset(&opening.topic, partition, offset)?;
        }
        let mut reader = Reader::start(opening, false, |consumer, _| consumer.assign(&partitions))?;
        reader.next = (0..).zip(starts.iter().copied()).collect();
        Ok(reader)
    }

    /// Reads what the group assigns, from where the group is.
    pub fn member(opening: Opening) -> Result<Reader, KafkaError> {
        Reader::start(opening, true, |consumer, topic| {
            consumer.subscribe(&[topic])
        })
    }

    fn start(
        opening: Opening,
        grouped: bool,
        begin: impl FnOnce(&BaseConsumer<Member>, &str) -> Result<(), KafkaError>,
    ) -> Result<Reader, KafkaError> {
        let health = Arc::clone(&opening.health);
        let member = Member(Context {
            health: Arc::clone(&health),
        });
        let consumer: BaseConsumer<Member> = opening.settings.create_with_context(member)?;
        begin(&consumer, &opening.topic)?;
        let consumer = Arc::new(consumer);
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let pump = Pump {
            consumer: Arc::clone(&consumer),
            sender,
            health,
            grouped,
        };
        thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || pump.run())
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Reader {
            consumer,
            batches,
            ready: Vec::new().into_iter(),
            ending: opening.ending,
            topic: opening.topic,
            grouped,
            request_timeout: opening.request_timeout,
            next: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            committing: None,
            closed: None,
            fault: None,
        })
    }

    async fn read(&mut self, batch: &mut Vec<Entry>, max: usize) -> Result<(), TopicError> {
        if self.ready.len() == 0 {
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            self.ready = self.arrival().await?.into_iter();
        }
        let enough = batch.len() + max.max(1);
        loop {
            while batch.len() < enough
                && let Some(entry) = self.ready.next()
            {
                let Position { partition, offset } = entry.position;
                self.next.insert(partition, offset + 1);
                self.uncommitted.insert(partition, offset + 1);
                batch.push(entry);
            }
            if batch.len() >= enough {
                return Ok(());
            }
            match self.batches.try_recv() {
                Ok(Ok(entries)) => self.ready = entries.into_iter(),
                Ok(Err(error)) => {
                    self.fault = Some(error);
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// The next batch. Dropping the future loses nothing: what is received is returned in the same step.
    async fn arrival(&mut self) -> Result<Vec<Entry>, TopicError> {
        let mut asked = false;
        loop {
            let ending = self.ending.borrow_and_update().clone();
            let over = matches!(ending, Ending::Over(_));
            if let Ending::Over(Some(ends)) = ending {
                self.closed.get_or_insert_with(Instant::now);
                if !asked && self.grouped {
                    asked = true;
                    self.learn_places().await;
                }
                if self.reached(&ends) {
                    return Err(TopicError::Closed);
                }
            }
            tokio::select! {
                biased;
                batch = self.batches.recv() => return batch.unwrap_or(Err(TopicError::Closed)),
                changed = self.ending.changed(), if !over => {
                    if changed.is_err() {
                        return Err(TopicError::Closed);
                    }
                }
                // Transaction markers at the end are no records, and brokers may be away.
                () = tokio::time::sleep(SILENCE), if over => return Err(TopicError::Closed),
            }
        }
    }

    /// Where the group is in partitions of which this member has read nothing yet.
    async fn learn_places(&mut self) {
        let (consumer, timeout) = (Arc::clone(&self.consumer), self.request_timeout);
        let asked = spawn_blocking(move || consumer.committed(timeout)).await;
        let Ok(Ok(places)) = asked else {
            return;
        };
        for place in places.elements() {
            if let Offset::Offset(offset) = place.offset() {
                let partition = place.partition().max(0) as u32;
                self.next.entry(partition).or_insert(offset.max(0) as u64);
            }
        }
    }

    fn reached(&self, ends: &[u64]) -> bool {
        let at_end = |partition: u32, end: u64| {
            end == 0 || self.next.get(&partition).is_some_and(|next| *next >= end)
        };
        if !self.grouped {
            return (0..)
                .zip(ends)
                .all(|(partition, end)| at_end(partition, *end));
        }
        let Ok(assigned) = self.consumer.assignment() else {
            return false;
        };
        // One that has just come from another member has no place yet; other members' records may come for ever.
        let is_late = self.closed.is_some_and(|since| since.elapsed() > SILENCE);
        let partitions = assigned.elements();
        !partitions.is_empty()
            && partitions.iter().all(|place| {
                let partition = place.partition().max(0) as u32;
                let is_unknown = !self.next.contains_key(&partition);
                (is_late && is_unknown)
                    || ends
                        .get(partition as usize)
                        .is_none_or(|end| at_end(partition, *end))
            })
    }

    async fn commit_returned(&mut self) -> Result<(), TopicError> {
        if !self.grouped || (self.uncommitted.is_empty() && self.committing.is_none()) {
            return Ok(());
        }
        // One that timed out may still be under way; two at once could arrive in the wrong order.
        self.finish_commit().await?;
        let mut places = TopicPartitionList::with_capacity(self.uncommitted.len());
        for (partition, next) in &self.uncommitted {
            let added = places.add_partition_offset(
                &self.topic,
                *partition as i32,
                Offset::Offset(*next as i64),
            );
            added.map_err(|error| unavailable(&error))?;
        }
        let consumer = Arc::clone(&self.consumer);
        self.committing = Some(spawn_blocking(move || commit(&consumer, &places)));
        self.finish_commit().await?;
        self.uncommitted.clear();
        Ok(())
    }

    async fn finish_commit(&mut self) -> Result<(), TopicError> {
        let Some(task) = &mut self.committing else {
            return Ok(());
        };
        let Ok(ended) = tokio::time::timeout(self.request_timeout, task).await else {
            return Err(TopicError::Unavailable(
                "the commit was not answered in time".into(),
            ));
        };
        self.committing = None;
        match ended {
            Ok(committed) => committed.map_err(|error| unavailable(&error)),
            Err(error) => Err(TopicError::Failed(error.to_string().into())),
        }
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
        Box::pin(self.commit_returned())
    }
}

/// Blocks for a round trip. Places in partitions that went to another member are left to that member.
fn commit(consumer: &BaseConsumer<Member>, places: &TopicPartitionList) -> Result<(), KafkaError> {
    if let Err(error) = consumer.store_offsets(places) {
        tracing::debug!(%error, "no place was stored: the partitions are no longer ours");
    }
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        done => done,
    }
}

// === Member ===

/// A consumer's context: what was stored is committed before partitions go to another member.
pub(super) struct Member(Context);

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.0.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(_) = rebalance
            && let Err(error) = consumer.commit_consumer_state(CommitMode::Sync)
        {
            tracing::debug!(%error, "nothing was committed before partitions went");
        }
    }
}

// === Pump ===

/// The thread between the client library and the reader. Ends with the reader.
struct Pump {
    consumer: Arc<BaseConsumer<Member>>,
    sender: mpsc::Sender<Result<Vec<Entry>, TopicError>>,
    health: Arc<Health>,
    grouped: bool,
}

impl Pump {
    fn run(self) {
        while !self.sender.is_closed() {
            let (entries, error) = self.take();
            let batch = (!entries.is_empty()).then_some(Ok(entries));
            for item in batch.into_iter().chain(error.map(Err)) {
                if !self.hand_over(item) {
                    return;
                }
            }
        }
    }

    /// What is there, after waiting for the first a little.
    fn take(&self) -> (Vec<Entry>, Option<TopicError>) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut wait = WAIT;
        while entries.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_MAX {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let entry = entry(&message);
                    bytes += entry.record.size();
                    entries.push(entry);
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
                    if let Some(error) = told(&error) {
                        return (entries, Some(error));
                    }
                }
            }
        }
        self.health
            .read_records
            .fetch_add(entries.len() as u64, Relaxed);
        self.health.read_bytes.fetch_add(bytes as u64, Relaxed);
        (entries, None)
    }

    /// Waits for room. `false` when the reader has gone.
    fn hand_over(&self, item: Result<Vec<Entry>, TopicError>) -> bool {
        if !self.grouped {
            return self.sender.blocking_send(item).is_ok();
        }
        let mut item = item;
        let (mut paused, mut resume) = (false, false);
        let full_since = Instant::now();
        loop {
            match self.sender.try_send(item) {
                Ok(()) => {
                    if resume {
                        self.switch(|partitions| self.consumer.resume(partitions));
                    }
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
            if !paused {
                self.switch(|partitions| self.consumer.pause(partitions));
                (paused, resume) = (true, true);
            }
            // A partition that was assigned just now is not paused yet.
            if let Some(Ok(message)) = self.consumer.poll(PAUSED_WAIT) {
                let late = entry(&message);
                match &mut item {
                    Ok(entries) => entries.push(late),
                    Err(_) => item = Ok(vec![late]),
                }
                paused = false;
            }
        }
    }

    fn switch(&self, change: impl Fn(&TopicPartitionList) -> Result<(), KafkaError>) {
        let changed = self
            .consumer
            .assignment()
            .and_then(|partitions| change(&partitions));
        if let Err(error) = changed {
            tracing::warn!(%error, "partitions could not be paused or resumed");
        }
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

fn unavailable(error: &KafkaError) -> TopicError {
    TopicError::Unavailable(error.to_string().into())
}

/// A copy in one allocation, however many parts it has.
fn entry(message: &BorrowedMessage<'_>) -> Entry {
    let key = message.key().unwrap_or_default();
    let value = message.payload().unwrap_or_default();
    let headers = headers(message);
    let of_headers: usize = headers.iter().map(|(_, value)| value.len()).sum();
    let mut all = BytesMut::with_capacity(key.len() + value.len() + of_headers);
    all.extend_from_slice(key);
    all.extend_from_slice(value);
    for (_, value) in &headers {
        all.extend_from_slice(value);
    }
    let mut rest: Bytes = all.freeze();
    let record = Record {
        key: rest.split_to(key.len()),
        value: rest.split_to(value.len()),
        headers: headers
            .into_iter()
            .map(|(key, value)| (name(key), rest.split_to(value.len())))
            .collect(),
    };
    let position = Position {
        partition: message.partition().max(0) as u32,
        offset: message.offset().max(0) as u64,
    };
    let time_ms = message.timestamp().to_millis().unwrap_or_default().max(0) as u64;
    Entry {
        position,
        time_ms,
        record,
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

const BATCHES_MAX: usize = 4;
const BATCH_RECORDS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How long a thread without records waits before it looks whether its reader is still there.
const WAIT: Duration = Duration::from_millis(100);
const PAUSED_WAIT: Duration = Duration::from_millis(20);

/// How long a member whose reader has no room looks for some, and how often, before it pauses. It hears of no rebalance
/// meanwhile, so other members may have to wait as long.
const PATIENCE: Duration = Duration::from_secs(1);
const FULL_WAIT: Duration = Duration::from_millis(2);

/// After a close, a reader that is not at the end ends when nothing came for so long.
const SILENCE: Duration = Duration::from_secs(3);
