//! The log on Apache Kafka: for more than one node, or more than one machine's durability.
//!
//! Promises what [`crate::topic::Topic`] does, as far as the cluster does: an acknowledged record is on every in-sync
//! replica. Goes on by itself after brokers were away. A record's place is its partition and offset; the partition of a
//! key changes with the topic's partition count, so a topic that changed is not opened.

mod health;
mod oauth;
mod open;
mod pace;
mod polled;
mod producer;
mod pump;
mod reader;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

pub use self::health::KafkaStats;
pub use self::oauth::{TokenServer, TokenSource};
pub use self::open::OpenError;
pub use self::settings::{Identity, KafkaConfig, Security};

use self::health::{Context, listen};
use self::pace::Pace;
use self::producer::Writer;
use self::reader::{Ending, Opening, Reader};
use crate::topic::{Bounds, Outcome, Record, Start, Subscription, Topic, TopicError};

/// An open topic. Close it: dropping it gives up the appends under way.
pub struct KafkaTopic {
    shared: Arc<Shared>,
    writer: Writer,
    pace: Pace,
    ending: watch::Sender<Ending>,
    record_bytes_max: usize,
}

impl KafkaTopic {
    /// Connects, creates the topic when it is missing, and checks it. Ends within the start timeout and a few
    /// request timeouts.
    pub async fn open(config: KafkaConfig) -> Result<KafkaTopic, OpenError> {
        let context = Context::new(&config);
        let (of_search, of_control) = (config.clone(), context.clone());
        let found = spawn_blocking(move || open::open(&of_search, of_control)).await;
        let found = found.map_err(|error| OpenError::Settings(error.to_string()))??;
        let partitions = found.identity.partitions;
        let writer = Writer::new(&config, found.record_bytes_max, partitions, context.clone());
        let pace = Pace::new(config.pace);
        let shared = Shared {
            config,
            control: found.control,
            askers: Mutex::default(),
            identity: found.identity,
            context,
        };
        Ok(KafkaTopic {
            shared: Arc::new(shared),
            writer: writer.map_err(|error| OpenError::Settings(error.to_string()))?,
            pace,
            ending: watch::Sender::new(Ending::Open),
            record_bytes_max: found.record_bytes_max,
        })
    }

    /// To be recorded with the log's epoch, and given to the next [`KafkaTopic::open`].
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Key, headers and value of one record, together, at most; each header takes 16 bytes more.
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    /// Cheap: the brokers are not asked.
    pub fn stats(&self) -> KafkaStats {
        self.shared.context.health.stats()
    }

    async fn start(&self, start: Start) -> Result<Box<dyn Subscription>, TopicError> {
        let config = &self.shared.config;
        let opening = |settings| Opening {
            settings,
            topic: config.topic.clone(),
            context: self.shared.context.clone(),
            ending: self.ending.subscribe(),
            request_timeout: config.request_timeout,
        };
        let reader = match start {
            Start::Group(group) => Reader::member(opening(config.group(group))),
            Start::Latest => {
                let ends = self.ask(|shared, by| shared.ends(by)).await?;
                Reader::tail(opening(config.tail()), &ends)
            }
            Start::Behind {
                group,
                window,
                records_max,
            } => {
                let behind =
                    move |shared: &Shared, by| shared.behind(group, window, records_max, by);
                let starts = self.ask(behind).await?;
                Reader::tail(opening(config.tail()), &starts)
            }
        };
        let reader = reader.map_err(|error| unavailable(&error))?;
        Ok(Box::new(reader))
    }

    async fn close_all(&self) -> Result<(), TopicError> {
        if !matches!(*self.ending.borrow(), Ending::Open) {
            return Ok(());
        }
        let flushed = self.writer.close().await;
        let ends = self.ask(|shared, by| shared.ends(by)).await;
        let ends = ends.ok().map(Arc::from);
        self.ending.send_replace(Ending::Over(ends));
        flushed
    }

    /// Puts questions to the brokers, on a thread that may block, within the request timeout.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Shared, Instant) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, TopicError> {
        let within = self.shared.config.request_timeout;
        self.ask_within(within, question).await
    }

    async fn ask_within<T: Send + 'static>(
        &self,
        within: Duration,
        question: impl FnOnce(&Shared, Instant) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, TopicError> {
        let shared = Arc::clone(&self.shared);
        let by = Instant::now() + within;
        match spawn_blocking(move || question(&shared, by)).await {
            Ok(answer) => answer.map_err(|error| unavailable(&error)),
            Err(error) => Err(TopicError::Failed(error.to_string().into())),
        }
    }
}

impl Topic for KafkaTopic {
    fn turn(&self) -> Option<BoxFuture<'_, ()>> {
        Some(Box::pin(self.pace.turn()))
    }

    fn may_append_late(&self) -> bool {
        true
    }

    fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(self.writer.append(batch))
    }

    /// `Behind` goes back by `records_max` in each partition.
    fn subscribe(&self, start: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>> {
        Box::pin(self.start(start))
    }

    fn bounds(&self, group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
        Box::pin(self.ask(move |shared, by| shared.bounds(group, by)))
    }

    /// One request to each broker that leads a partition.
    fn ends(&self, within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
        Box::pin(self.ask_within(within, |shared, by| shared.ends(by)))
    }

    /// Within the delivery timeout and a request timeout. Without brokers, what is undecided ends as unknown, and
    /// subscriptions end where they are.
    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(self.close_all())
    }
}

/// A group, and the client that asks for its places.
type Asker = (&'static str, Arc<BaseConsumer<Context>>);

/// What is needed to ask the brokers something. Its methods block.
struct Shared {
    config: KafkaConfig,
    control: BaseConsumer<Context>,
    /// One for each group whose places were asked for.
    askers: Mutex<Vec<Asker>>,
    identity: Identity,
    context: Context,
}

impl Shared {
    fn ends(&self, by: Instant) -> Result<Vec<u64>, KafkaError> {
        self.marks(Offset::End, by)
    }

    /// Where each partition begins, or ends: to the brokers both are answers to "since when?".
    fn marks(&self, which: Offset, by: Instant) -> Result<Vec<u64>, KafkaError> {
        loop {
            listen(&self.control);
            let asked = self.partitions(which)?;
            let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable);
            let marks = self.control.offsets_for_times(asked, left(by));
            let marks = marks.and_then(|marks| {
                let marks: Option<Vec<u64>> = self.offsets(&marks).into_iter().collect();
                marks.ok_or(unknown)
            });
            match marks {
                // The client library knows another leader by now, or will soon.
                Err(error) if is_of_the_leader(&error) && left(by) > LEADER_REST => {
                    std::thread::sleep(LEADER_REST);
                }
                known => return known,
            }
        }
    }

    fn bounds(&self, group: &'static str, by: Instant) -> Result<Vec<Bounds>, KafkaError> {
        // In this order, so that no place is above the end.
        let first = self.marks(Offset::Beginning, by)?;
        let committed = self.committed(group, by)?;
        let ends = self.ends(by)?;
        let bounds = (0..).zip(first.iter().zip(&ends)).zip(committed);
        let bounds = bounds.map(|((partition, (&first, &end)), committed)| {
            if committed.is_some_and(|committed| committed < first) {
                let what = "records that the group has not read are gone";
                tracing::error!(group, partition, ?committed, first, what);
            }
            Bounds {
                partition,
                committed: committed.unwrap_or(first).clamp(first, end.max(first)),
                end,
            }
        });
        Ok(bounds.collect())
    }

    /// Of a group that this client does not join.
    fn committed(&self, group: &'static str, by: Instant) -> Result<Vec<Option<u64>>, KafkaError> {
        let asker = self.asker(group)?;
        listen(&asker);
        let places = asker.committed_offsets(self.partitions(Offset::Invalid)?, left(by))?;
        Ok(self.offsets(&places))
    }

    /// The client that asks for a group's places; kept, for it is asked every second.
    fn asker(&self, group: &'static str) -> Result<Arc<BaseConsumer<Context>>, KafkaError> {
        let mut askers = self.askers.lock();
        if let Some((_, asker)) = askers.iter().find(|(of, _)| *of == group) {
            return Ok(Arc::clone(asker));
        }
        let settings = self.config.group(group);
        let asker = settings.create_with_context(self.context.clone())?;
        let asker: Arc<BaseConsumer<Context>> = Arc::new(asker);
        askers.push((group, Arc::clone(&asker)));
        Ok(asker)
    }

    fn behind(
        &self,
        group: &'static str,
        window: Duration,
        records_max: u64,
        by: Instant,
    ) -> Result<Vec<u64>, KafkaError> {
        let bounds = self.bounds(group, by)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // The first moment that is younger.
        let since = now.saturating_sub(window).as_millis() as i64 + 1;
        let times = self.partitions(Offset::Offset(since))?;
        let young = self.offsets(&self.control.offsets_for_times(times, left(by))?);
        let starts = bounds.iter().zip(young).map(|(bounds, young)| {
            let least = bounds.committed.saturating_sub(records_max);
            young.map_or(bounds.committed, |young| {
                young.max(least).min(bounds.committed)
            })
        });
        let first = self.marks(Offset::Beginning, by)?;
        Ok(starts
            .zip(first)
            .map(|(start, first)| start.max(first))
            .collect())
    }

    fn partitions(&self, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let count = self.identity.partitions as i32;
        let mut list = TopicPartitionList::with_capacity(count as usize);
        for partition in 0..count {
            list.add_partition_offset(&self.config.topic, partition, offset)?;
        }
        Ok(list)
    }

    /// By partition; `None` where the answer is no place in the log.
    fn offsets(&self, list: &TopicPartitionList) -> Vec<Option<u64>> {
        let place = |partition| {
            let found = list.find_partition(&self.config.topic, partition)?;
            match found.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            }
        };
        (0..self.identity.partitions as i32).map(place).collect()
    }
}

fn left(by: Instant) -> Duration {
    by.saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

fn unavailable(error: &KafkaError) -> TopicError {
    TopicError::Unavailable(error.to_string().into())
}

/// Whether a question went to a broker that does not lead the partition, or not any more.
fn is_of_the_leader(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        FencedLeaderEpoch, LeaderNotAvailable, NotLeaderForPartition, UnknownLeaderEpoch,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(FencedLeaderEpoch | LeaderNotAvailable | NotLeaderForPartition | UnknownLeaderEpoch)
    )
}

/// How long such a question rests before it is asked again.
const LEADER_REST: Duration = Duration::from_millis(100);
