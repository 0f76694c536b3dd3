//! The writing side: batches go into the client library's queue; each record's delivery report counts its batch down.
//!
//! Promises one outcome a record, within the delivery timeout and a little, and never calls "not appended" what may yet
//! appear. A producer that failed for good is replaced; its records keep their own outcomes.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message, Statistics};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::health::{Context, ProducerHealth, log};
use super::polled::Polled;
use super::settings::KafkaConfig;
use crate::topic::{Outcome, Position, Record, TopicError};

/// Appends to one topic.
pub(super) struct Writer {
    topic: String,
    settings: ClientConfig,
    record_bytes_max: usize,
    delivery_timeout: Duration,
    partitions: u32,
    context: Context,
    live: RwLock<Live>,
}

/// Read by those who enqueue, written by those who replace or close: nothing is enqueued after a close.
enum Live {
    Open(Arc<Producer>),
    Closed,
}

type Producer = Polled<Reports>;

impl Writer {
    /// Starts a producer; it connects by itself. `partitions`: as many as the topic had when it was opened.
    pub fn new(
        config: &KafkaConfig,
        record_bytes_max: usize,
        partitions: u32,
        context: Context,
    ) -> Result<Writer, KafkaError> {
        let mut writer = Writer {
            topic: config.topic.clone(),
            settings: config.producer(record_bytes_max),
            record_bytes_max,
            delivery_timeout: config.delivery_timeout,
            partitions,
            context,
            live: RwLock::new(Live::Closed),
        };
        let producer = writer.producer()?;
        writer.live = RwLock::new(Live::Open(Arc::new(producer)));
        Ok(writer)
    }

    fn producer(&self) -> Result<Producer, KafkaError> {
        let state = ProducerHealth {
            context: self.context.clone(),
            fatal: AtomicBool::new(false),
            topic: self.topic.clone(),
            partitions: self.partitions,
        };
        let reports = Reports {
            state,
            places: Places::default(),
        };
        Polled::start(&self.settings, reports)
    }

    /// Enqueues before it waits, so a future dropped after its first poll has appended.
    pub async fn append(&self, records: Vec<Record>) -> Vec<Outcome> {
        if records.is_empty() {
            return Vec::new();
        }
        self.replace_if_failed();
        let (batch, done) = Batch::new(records.len());
        self.enqueue(&batch, &records);
        drop(records);
        // The client library has its own deadline; this one is for a report that never comes.
        let outcomes = match tokio::time::timeout(self.delivery_timeout + GRACE, done).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(_)) | Err(_) => batch.take(),
        };
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(no_report))
            .collect()
    }

    fn enqueue(&self, batch: &Arc<Batch>, records: &[Record]) {
        let live = self.live.read();
        for (index, record) in records.iter().enumerate() {
            let refused = match &*live {
                Live::Closed => Some(TopicError::Closed),
                Live::Open(_) if !self.fits(record) => Some(TopicError::TooLarge),
                Live::Open(producer) => self.send(producer, batch, index, record).err(),
            };
            if let Some(error) = refused {
                self.context.health.refused_records.fetch_add(1, Relaxed);
                batch.decide(index, Outcome::NotAppended(error));
            }
        }
        drop(live);
        batch.release();
    }

    fn fits(&self, record: &Record) -> bool {
        record.size() + record.headers.len() * HEADER_OVERHEAD <= self.record_bytes_max
    }

    fn send(
        &self,
        producer: &Producer,
        batch: &Arc<Batch>,
        index: usize,
        record: &Record,
    ) -> Result<(), TopicError> {
        let headers = headers(record)?;
        let bytes = record.size() as u64;
        let ticket = Box::new(Ticket {
            batch: Arc::clone(batch),
            index,
            bytes,
        });
        self.context.health.queued_records.fetch_add(1, Relaxed);
        self.context.health.queued_bytes.fetch_add(bytes, Relaxed);
        let message = BaseRecord {
            topic: &self.topic,
            // Told here: the client library would count partitions that were added since, which nobody reads.
            partition: Some(partition_of(&record.key, self.partitions)),
            payload: Some(&*record.value),
            key: Some(&*record.key),
            timestamp: None,
            headers,
            delivery_opaque: ticket,
        };
        producer.send(message).map_err(|(error, _)| {
            self.context.health.dequeue(bytes);
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                producer.context().state.fatal.store(true, Relaxed);
            }
            not_taken(&error)
        })
    }

    fn replace_if_failed(&self) {
        let failed = |live: &Live| match live {
            Live::Open(producer) => producer.context().state.fatal.load(Relaxed),
            Live::Closed => false,
        };
        if !failed(&self.live.read()) {
            return;
        }
        let mut live = self.live.write();
        if !failed(&live) {
            return;
        }
        match self.producer() {
            Ok(producer) => {
                let old = std::mem::replace(&mut *live, Live::Open(Arc::new(producer)));
                drop(live);
                self.context.health.producers_replaced.fetch_add(1, Relaxed);
                // It ends on its own thread, which waits for its last reports.
                drop(old);
            }
            Err(error) => tracing::error!(%error, "no new producer could be made"),
        }
    }

    /// Refuses further appends and waits for the outcomes of those under way.
    pub async fn close(&self) -> Result<(), TopicError> {
        let old = std::mem::replace(&mut *self.live.write(), Live::Closed);
        let Live::Open(producer) = old else {
            return Ok(());
        };
        let bound = self.delivery_timeout + GRACE;
        let flushed = spawn_blocking(move || {
            let flushed = producer.flush(bound);
            drop(producer);
            flushed
        });
        match flushed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(TopicError::Unavailable(error.to_string().into())),
            Err(error) => Err(TopicError::Failed(error.to_string().into())),
        }
    }
}

// === Batch ===

/// Outcomes of the records that were appended together, until all are known.
struct Batch {
    state: Mutex<State>,
}

struct State {
    outcomes: Vec<Option<Outcome>>,
    /// Outcomes to come, and one for the batch being enqueued.
    left: usize,
    done: Option<oneshot::Sender<Vec<Option<Outcome>>>>,
}

impl Batch {
    fn new(records: usize) -> (Arc<Batch>, oneshot::Receiver<Vec<Option<Outcome>>>) {
        let (done, all) = oneshot::channel();
        let state = State {
            outcomes: (0..records).map(|_| None).collect(),
            left: records + 1,
            done: Some(done),
        };
        let batch = Batch {
            state: Mutex::new(state),
        };
        (Arc::new(batch), all)
    }

    fn decide(&self, index: usize, outcome: Outcome) {
        let mut state = self.state.lock();
        if let Some(place) = state.outcomes.get_mut(index) {
            *place = Some(outcome);
        }
        state.count_down();
    }

    fn release(&self) {
        self.state.lock().count_down();
    }

    /// What is known so far.
    fn take(&self) -> Vec<Option<Outcome>> {
        std::mem::take(&mut self.state.lock().outcomes)
    }
}

impl State {
    fn count_down(&mut self) {
        self.left -= 1;
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            // Whoever appended may have gone; the append stands.
            let _ = done.send(std::mem::take(&mut self.outcomes));
        }
    }
}

/// What a record carries through the client library: whose it is.
pub(super) struct Ticket {
    batch: Arc<Batch>,
    index: usize,
    bytes: u64,
}

/// Hears of deliveries, on the producer's own thread.
pub(super) struct Reports {
    state: ProducerHealth,
    /// Its own: another producer's reports come on another thread, in no order with these.
    places: Places,
}

/// Which offsets of delivery reports can be believed, by partition: they come in the log's order.
#[derive(Default)]
struct Places(Mutex<Vec<Place>>);

#[derive(Clone, Copy, Default)]
struct Place {
    /// The least offset that the next report can name.
    least: i64,
    /// What the last report said, if it told no place.
    untold: Option<i64>,
}

impl Places {
    /// Where a record stands that was delivered. `None`: it is in the log, but the answer that told where was lost, and
    /// that to its retry told no offset. The client library then gives none, or counts on from -1.
    fn of(&self, partition: i32, offset: i64) -> Option<Position> {
        let number = usize::try_from(partition).ok()?;
        let mut places = self.0.lock();
        if places.len() <= number {
            places.resize(number + 1, Place::default());
        }
        let place = &mut places[number];
        let is_counted_on = place.untold.is_some_and(|untold| offset == untold + 1);
        if offset < place.least || is_counted_on {
            place.untold = Some(offset);
            return None;
        }
        *place = Place {
            least: offset + 1,
            untold: None,
        };
        Some(Position {
            partition: u32::try_from(partition).ok()?,
            offset: u64::try_from(offset).ok()?,
        })
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.state.context.token()
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.state.error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.state.observe(&statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let health = &self.state.context.health;
        health.dequeue(ticket.bytes);
        let outcome = match result {
            Ok(message) => match self.places.of(message.partition(), message.offset()) {
                Some(position) => Outcome::Appended(position),
                None => Outcome::Unknown(TopicError::Unavailable(
                    "Kafka has the record and does not tell where".into(),
                )),
            },
            Err((error, _)) => undelivered(error),
        };
        match &outcome {
            Outcome::Appended(_) => {
                health.appended_records.fetch_add(1, Relaxed);
                health.appended_bytes.fetch_add(ticket.bytes, Relaxed);
            }
            Outcome::NotAppended(_) => {
                health.refused_records.fetch_add(1, Relaxed);
            }
            Outcome::Unknown(_) => {
                health.unknown_records.fetch_add(1, Relaxed);
            }
        }
        ticket.batch.decide(ticket.index, outcome);
    }
}

// === Outcomes ===

/// The client library refused to enqueue, so it cannot be in the log.
fn not_taken(error: &KafkaError) -> TopicError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => {
            TopicError::Unavailable("the queue of records for Kafka is full".into())
        }
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => TopicError::TooLarge,
        _ => TopicError::Unavailable(error.to_string().into()),
    }
}

/// Only what cannot have reached a broker's log is called not appended. A timeout does not tell whether the record
/// was sent, and any refusal may be the answer to a retry of what a broker took before.
fn undelivered(error: &KafkaError) -> Outcome {
    let because = || TopicError::Unavailable(error.to_string().into());
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => Outcome::NotAppended(TopicError::TooLarge),
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition) => {
            Outcome::NotAppended(because())
        }
        _ => Outcome::Unknown(because()),
    }
}

fn no_report() -> Outcome {
    Outcome::Unknown(TopicError::Unavailable(
        "Kafka did not answer in time".into(),
    ))
}

// === Partitions ===

/// Where the records of a key go, as Java's default partitioner has it: Murmur2 of the key, without its sign.
fn partition_of(key: &[u8], partitions: u32) -> i32 {
    let hash = murmur2(key) & 0x7fff_ffff;
    (hash % partitions.max(1)) as i32
}

/// Murmur2 of 32 bits with Kafka's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

fn headers(record: &Record) -> Result<Option<OwnedHeaders>, TopicError> {
    if record.headers.is_empty() {
        return Ok(None);
    }
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        if key.contains('\0') {
            return Err(TopicError::Unavailable(
                "a header's name holds a NUL".into(),
            ));
        }
        headers = headers.insert(Header {
            key,
            value: Some(&**value),
        });
    }
    Ok(Some(headers))
}

/// Lengths of a header's name and value, at most.
const HEADER_OVERHEAD: usize = 16;

/// How much longer than the client library's own deadline an append waits.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_been_sent_is_called_not_appended() {
        let verdict = |code| undelivered(&KafkaError::MessageProduction(code));
        let refused = [
            RDKafkaErrorCode::MessageSizeTooLarge,
            RDKafkaErrorCode::UnknownTopic,
        ];
        for code in refused {
            assert!(matches!(verdict(code), Outcome::NotAppended(_)), "{code}");
        }
        let open = [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::PurgeInflight,
            RDKafkaErrorCode::PurgeQueue,
            RDKafkaErrorCode::NotEnoughReplicasAfterAppend,
            RDKafkaErrorCode::OutOfOrderSequenceNumber,
            RDKafkaErrorCode::Fatal,
            RDKafkaErrorCode::TopicAuthorizationFailed,
        ];
        for code in open {
            assert!(matches!(verdict(code), Outcome::Unknown(_)), "{code}");
        }
    }

    /// Hashes of `UtilsTest.testMurmur2` in Kafka.
    #[test]
    fn keys_are_hashed_as_java_does() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
            assert!((0..12).contains(&partition_of(key.as_bytes(), 12)));
        }
    }

    #[test]
    fn a_delivery_without_an_offset_has_no_place() {
        let places = Places::default();
        let at = |partition, offset| Some(Position { partition, offset });
        // Not told at all; counted on from -1, on a young partition as well.
        for offset in [-1001, -1001, -1, 0, 1, 2] {
            assert_eq!(places.of(1, offset), None, "{offset}");
        }
        assert_eq!(places.of(1, 6), at(1, 6));
        assert_eq!(places.of(1, 7), at(1, 7));
        for offset in [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
            assert_eq!(places.of(1, offset), None, "{offset}");
        }
        assert_eq!(places.of(1, 18), at(1, 18));
        assert_eq!(places.of(0, 0), at(0, 0));
        assert_eq!(places.of(0, 1), at(0, 1));
        assert_eq!(places.of(-1, 9), None);
    }

    #[tokio::test]
    async fn a_batch_is_done_with_its_last_outcome_and_keeps_the_order() {
        let (batch, done) = Batch::new(2);
        batch.decide(1, no_report());
        batch.release();
        batch.decide(0, Outcome::NotAppended(TopicError::TooLarge));
        let outcomes = done.await.unwrap();
        assert!(matches!(
            outcomes[..],
            [Some(Outcome::NotAppended(_)), Some(Outcome::Unknown(_))]
        ));
    }
}
