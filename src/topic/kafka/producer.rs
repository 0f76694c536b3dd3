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
use crate::topic::{Outcome, Position, Record, TopicError};

/// Appends to one topic.
pub(super) struct Writer {
    topic: String,
    settings: ClientConfig,
    record_bytes_max: usize,
    delivery_timeout: Duration,
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
    /// Starts a producer; it connects by itself.
    pub fn new(
        topic: String,
        settings: ClientConfig,
        record_bytes_max: usize,
        delivery_timeout: Duration,
        context: Context,
    ) -> Result<Writer, KafkaError> {
        let producer = producer(&settings, &context)?;
        Ok(Writer {
            topic,
            settings,
            record_bytes_max,
            delivery_timeout,
            context,
            live: RwLock::new(Live::Open(Arc::new(producer))),
        })
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
            partition: None,
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
        match producer(&self.settings, &self.context) {
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

fn producer(settings: &ClientConfig, context: &Context) -> Result<Producer, KafkaError> {
    let state = ProducerHealth {
        context: context.clone(),
        fatal: AtomicBool::new(false),
    };
    Polled::start(settings, Reports { state })
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
            Ok(message) => Outcome::Appended(Position {
                partition: message.partition().max(0) as u32,
                offset: message.offset().max(0) as u64,
            }),
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
