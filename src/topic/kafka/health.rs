//! What the client library tells beside results: its errors, its log and its statistics, counted for whoever asks.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Statistics};

use super::oauth::Tokens;
use super::settings::KafkaConfig;

/// The topic's numbers. Counts are since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KafkaStats {
    pub appended_records: u64,
    /// Keys, headers and values.
    pub appended_bytes: u64,
    /// Certainly not appended.
    pub refused_records: u64,
    /// Perhaps appended.
    pub unknown_records: u64,
    /// Accepted, with no outcome yet.
    pub queued_records: u64,
    pub queued_bytes: u64,
    pub read_records: u64,
    pub read_bytes: u64,
    /// Errors that the client library reported: lost connections, timeouts.
    pub errors: u64,
    /// Producers that had to be replaced after a fatal error.
    pub producers_replaced: u64,
    /// Brokers that the producer was connected to, when last looked at (every 5 s).
    pub brokers_up: u64,
    /// Requests that the producer gave up waiting for.
    pub request_timeouts: u64,
    /// 99th percentile of the slowest broker's round trips, in microseconds, over the last 5 s.
    pub round_trip_us_p99: u64,
}

/// [`KafkaStats`] as it is counted, and the last error for sentences.
#[derive(Default)]
pub(super) struct Health {
    pub appended_records: AtomicU64,
    pub appended_bytes: AtomicU64,
    pub refused_records: AtomicU64,
    pub unknown_records: AtomicU64,
    pub queued_records: AtomicU64,
    pub queued_bytes: AtomicU64,
    pub read_records: AtomicU64,
    pub read_bytes: AtomicU64,
    pub producers_replaced: AtomicU64,
    errors: AtomicU64,
    brokers_up: AtomicU64,
    request_timeouts: AtomicU64,
    round_trip_us_p99: AtomicU64,
    /// It was said that the topic has more partitions than it was opened with.
    has_grown: AtomicBool,
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Health {
    pub fn stats(&self) -> KafkaStats {
        KafkaStats {
            appended_records: self.appended_records.load(Relaxed),
            appended_bytes: self.appended_bytes.load(Relaxed),
            refused_records: self.refused_records.load(Relaxed),
            unknown_records: self.unknown_records.load(Relaxed),
            queued_records: self.queued_records.load(Relaxed),
            queued_bytes: self.queued_bytes.load(Relaxed),
            read_records: self.read_records.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            producers_replaced: self.producers_replaced.load(Relaxed),
            brokers_up: self.brokers_up.load(Relaxed),
            request_timeouts: self.request_timeouts.load(Relaxed),
            round_trip_us_p99: self.round_trip_us_p99.load(Relaxed),
        }
    }

    /// The library's words for what went wrong last.
    pub fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last.lock().clone()
    }

    /// A record left the producer's queue.
    pub fn dequeue(&self, bytes: u64) {
        self.queued_records.fetch_sub(1, Relaxed);
        self.queued_bytes.fetch_sub(bytes, Relaxed);
    }

    fn note(&self, error: &KafkaError, reason: &str) {
        self.errors.fetch_add(1, Relaxed);
        let code = error.rdkafka_error_code();
        // That all are down follows from why each is, and says less.
        if let Some(code) = code
            && code != RDKafkaErrorCode::AllBrokersDown
        {
            *self.last.lock() = Some((code, reason.to_owned()));
        }
        tracing::debug!(target: "kafka", %error, reason, "the client library reports");
    }

    fn observe(&self, statistics: &Statistics) {
        let brokers = || statistics.brokers.values();
        let up = brokers()
            .filter(|b| b.nodeid >= 0 && b.state == "UP")
            .count();
        self.brokers_up.store(up as u64, Relaxed);
        let timeouts = brokers().map(|broker| broker.req_timeouts).sum();
        self.request_timeouts.store(timeouts, Relaxed);
        let slowest = brokers()
            .filter_map(|broker| Some(broker.rtt.as_ref()?.p99))
            .max();
        let slowest = slowest.unwrap_or_default().max(0) as u64;
        self.round_trip_us_p99.store(slowest, Relaxed);
    }
}

/// What all clients of a topic share, and the context of those that write nothing.
#[derive(Clone)]
pub(super) struct Context {
    pub health: Arc<Health>,
    /// For SASL OAUTHBEARER.
    pub tokens: Option<Arc<Tokens>>,
}

impl Context {
    pub fn new(config: &KafkaConfig) -> Context {
        let source = config.security.tokens.clone();
        Context {
            health: Arc::default(),
            tokens: source.map(|source| Arc::new(Tokens::new(source))),
        }
    }

    /// Asked for by the client library while a client is polled.
    pub fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("no source of tokens is set")?;
        let token = tokens.token().inspect_err(|cause| {
            tracing::warn!(target: "kafka", cause, "there is no new token for Kafka");
        });
        Ok(token?)
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token()
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.note(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// A client that only asks hears of errors as well, and takes its tokens: what nobody took would pile up.
pub(super) fn listen(client: &BaseConsumer<Context>) {
    const EVENTS_MAX: usize = 8;
    for _ in 0..EVENTS_MAX {
        let _ = client.poll(Duration::ZERO);
    }
}

pub(super) struct Member(pub Context);

impl ClientContext for Member {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.token()
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.0.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ConsumerContext for Member {}

/// The part of a producer's context that is not about deliveries.
pub(super) struct ProducerHealth {
    pub context: Context,
    /// The producer takes nothing any more and has to be replaced.
    pub fatal: AtomicBool,
    pub topic: String,
    /// As many as the topic had when it was opened.
    pub partitions: u32,
}

impl ProducerHealth {
    pub fn error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(target: "kafka", reason, "the producer has failed and is replaced");
            self.fatal.store(true, Relaxed);
        }
        self.context.health.note(error, reason);
    }

    pub fn observe(&self, statistics: &Statistics) {
        self.context.health.observe(statistics);
        let topic = statistics.topics.get(&self.topic);
        let found = topic.map_or(0, |topic| {
            topic.partitions.keys().filter(|p| **p >= 0).count()
        });
        let has_grown = found > self.partitions as usize;
        if has_grown && !self.context.health.has_grown.swap(true, Relaxed) {
            tracing::error!(
                topic = self.topic,
                opened_with = self.partitions,
                found,
                "partitions were added to a topic in use: nothing is appended to them, and what others append there is \
                 not shown live; the next start will ask for another LOG_EPOCH"
            );
        }
    }
}

/// A broker that is away is told by every client for every try: those lines are for debugging.
pub(super) fn log(level: RDKafkaLogLevel, fac: &str, message: &str) {
    let grave = matches!(
        level,
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical
    );
    if grave {
        tracing::error!(target: "kafka", fac, message);
    } else {
        tracing::debug!(target: "kafka", fac, message);
    }
}
