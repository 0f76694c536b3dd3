//! The reading side: what a subscription returns, and what it commits. Sixteen batches wait for it at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{thread, vec};

use futures_util::future::BoxFuture;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use super::health::{Context, Member};
use super::pump::{Pump, unavailable};
use crate::topic::{Entry, Position, Subscription, TopicError};

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
    pub context: Context,
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
        let health = Arc::clone(&opening.context.health);
        let member = Member(opening.context);
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
        let mut bytes = 0;
        loop {
            while batch.len() < enough
                && bytes < BYTES_MAX
                && let Some(entry) = self.ready.next()
            {
                bytes += entry.record.size();
                let Position { partition, offset } = entry.position;
                self.next.insert(partition, offset + 1);
                self.uncommitted.insert(partition, offset + 1);
                batch.push(entry);
            }
            if batch.len() >= enough || bytes >= BYTES_MAX {
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

/// More than come while the archive rests, or its thread would look for room all the time.
const BATCHES_MAX: usize = 16;

/// Bytes of records that one poll returns, and one record more: what comes meanwhile waits for the next.
const BYTES_MAX: usize = 16 << 20;

/// After a close, a reader that is not at the end ends when nothing came for so long.
const SILENCE: Duration = Duration::from_secs(3);
