//! Finding the cluster and the topic at start: connects, creates what is missing, checks what is there.
//!
//! Every failure is one sentence that says what to change. Blocks; to be called where that is allowed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaRespErr;
use tokio::runtime::Handle;

use super::health::{Context, Health, listen};
use super::settings::{Identity, KafkaConfig, RECORD_OVERHEAD};

/// Why a topic could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the Kafka settings cannot work: {0}")]
    Settings(String),
    #[error("Kafka at {brokers} cannot be reached after {waited:?} of trying: {cause}")]
    Unreachable {
        brokers: String,
        waited: Duration,
        cause: String,
    },
    #[error("Kafka at {brokers} does not accept us: {cause}")]
    Refused { brokers: String, cause: String },
    #[error("there is no token for Kafka at {brokers}: {cause}")]
    Token { brokers: String, cause: String },
    #[error("the Kafka topic {topic} cannot be used: {cause}")]
    Topic { topic: String, cause: String },
    #[error(
        "the Kafka topic {topic} has {replicas} replicas, but min.insync.replicas=1, so that a message can be \
         acknowledged and lost with one broker: set it to 2 or allow weak replication"
    )]
    WeakReplication { topic: String, replicas: usize },
    #[error(
        "the Kafka topic {} is not the one this log's epoch was recorded for (then cluster {} and {} partitions, \
         now cluster {} and {}): restore it, or raise LOG_EPOCH", .found.topic,
        .recorded.cluster_id, .recorded.partitions, .found.cluster_id, .found.partitions
    )]
    Changed { recorded: Identity, found: Identity },
}

/// A topic that is there and fit for use.
pub(super) struct Found {
    /// A client for questions about offsets. It is in no group.
    pub control: BaseConsumer<Context>,
    pub identity: Identity,
    pub record_bytes_max: usize,
}

/// Within the start timeout. Needs a tokio runtime around it.
pub(super) fn open(config: &KafkaConfig, context: Context) -> Result<Found, OpenError> {
    if let Some(fault) = config.security.fault() {
        return Err(OpenError::Settings(fault));
    }
    let settings = |error: KafkaError| OpenError::Settings(error.to_string());
    let health = Arc::clone(&context.health);
    let control: BaseConsumer<Context> = config
        .consumer()
        .create_with_context(context)
        .map_err(settings)?;
    // Nothing is asked of brokers before the first token is there.
    listen(&control);
    let search = Search {
        config,
        health: &health,
        control: &control,
        started: Instant::now(),
    };
    let shape = search.shape()?;
    let cluster_id = control.client().fetch_cluster_id(config.request_timeout);
    let identity = Identity {
        cluster_id: cluster_id.unwrap_or_default(),
        topic: config.topic.clone(),
        partitions: shape.partitions,
    };
    if let Some(recorded) = &config.recorded
        && *recorded != identity
    {
        return Err(OpenError::Changed {
            recorded: recorded.clone(),
            found: identity,
        });
    }
    let limits = search.limits();
    let weak = shape.replicas >= 3 && limits.min_insync_replicas == Some(1);
    if weak && !config.weak_replication_allowed && !config.is_volatile {
        return Err(OpenError::WeakReplication {
            topic: config.topic.clone(),
            replicas: shape.replicas,
        });
    }
    let record_bytes_max = limits.message_bytes_max.saturating_sub(RECORD_OVERHEAD);
    Ok(Found {
        control,
        identity,
        record_bytes_max: record_bytes_max.min(RECORD_BYTES_MAX),
    })
}

struct Search<'a> {
    config: &'a KafkaConfig,
    health: &'a Health,
    control: &'a BaseConsumer<Context>,
    started: Instant,
}

struct Shape {
    partitions: u32,
    replicas: usize,
}

struct Limits {
    min_insync_replicas: Option<u32>,
    message_bytes_max: usize,
}

impl Search<'_> {
    /// Asks until the topic is there with a leader for each partition, creating it once.
    fn shape(&self) -> Result<Shape, OpenError> {
        let mut created = false;
        loop {
            let asked = self.control.fetch_metadata(Some(&self.config.topic), TRY);
            let metadata = match asked {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.listen();
                    self.patience(&error)?;
                    continue;
                }
            };
            let topic = metadata
                .topics()
                .iter()
                .find(|t| t.name() == self.config.topic);
            match topic.map(|topic| (topic, topic.error())) {
                Some((topic, None)) if has_leaders(topic) => return Ok(shape(topic)),
                Some((_, Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)))
                    if !created =>
                {
                    self.create()?;
                    created = true;
                }
                Some((_, Some(error))) if is_final(error) => {
                    let code = RDKafkaErrorCode::from(error);
                    return Err(self.topic(code.to_string()));
                }
                Some(_) | None => {
                    self.patience(&KafkaError::MetadataFetch(
                        RDKafkaErrorCode::LeaderNotAvailable,
                    ))?;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Rests, while the client library tells why it could not connect. What it logs looks like silence here.
    fn listen(&self) {
        let _ = self.control.poll(PAUSE);
        for _ in 0..EVENTS_MAX {
            let _ = self.control.poll(Duration::ZERO);
        }
    }

    /// An error once there is no point in trying on.
    fn patience(&self, error: &KafkaError) -> Result<(), OpenError> {
        let brokers = self.config.brokers.clone();
        let last = self.health.last_error();
        if let Some((code, cause)) = &last
            && [
                RDKafkaErrorCode::Authentication,
                RDKafkaErrorCode::SaslAuthenticationFailed,
            ]
            .contains(code)
        {
            return Err(match cause.strip_prefix(NO_TOKEN) {
                Some(cause) => OpenError::Token {
                    brokers,
                    cause: cause.to_owned(),
                },
                None => OpenError::Refused {
                    brokers,
                    cause: without_state(cause),
                },
            });
        }
        if self.started.elapsed() < self.config.start_timeout {
            return Ok(());
        }
        Err(OpenError::Unreachable {
            brokers,
            waited: self.config.start_timeout,
            cause: last.map_or_else(|| error.to_string(), |(_, cause)| without_state(&cause)),
        })
    }

    fn create(&self) -> Result<(), OpenError> {
        let config = self.config;
        let replication = config.replication.map_or(BROKER_DEFAULT, i32::from);
        let partitions = i32::try_from(config.partitions.max(1)).unwrap_or(i32::MAX);
        let message_bytes_max = (RECORD_BYTES_MAX + RECORD_OVERHEAD).to_string();
        let min_insync = config.min_insync_replicas.map(|count| count.to_string());
        let fixed = TopicReplication::Fixed(replication);
        let mut topic = NewTopic::new(&config.topic, partitions, fixed)
            .set("max.message.bytes", &message_bytes_max);
        if config.is_volatile {
            topic = topic
                .set("retention.ms", VOLATILE_MS)
                .set("segment.ms", VOLATILE_MS);
        }
        if let Some(count) = &min_insync {
            topic = topic.set("min.insync.replicas", count);
        }
        let admin = self
            .admin()
            .map_err(|cause| self.topic(format!("it is missing, and {cause}: make it before")))?;
        let options = AdminOptions::new().request_timeout(Some(config.request_timeout));
        let done = Handle::current().block_on(admin.create_topics([&topic], &options));
        let results = done.map_err(|error| self.topic(format!("it is missing, and {error}")))?;
        match results.into_iter().next() {
            // Another node was quicker.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
            Some(Err((_, code))) => {
                Err(self.topic(format!("it is missing and could not be created: {code}")))
            }
        }
    }

    /// The topic's settings; what we may not see is taken to be the brokers' default.
    fn limits(&self) -> Limits {
        let described = self.describe();
        if let Err(error) = &described {
            tracing::warn!(target: "kafka", %error, "the topic's settings cannot be seen");
        }
        let value = |name: &str| {
            let resource = described.as_ref().ok()?;
            resource.get(name)?.value.clone()
        };
        let number = |name: &str| value(name)?.parse::<usize>().ok();
        Limits {
            min_insync_replicas: number("min.insync.replicas").map(|n| n as u32),
            message_bytes_max: number("max.message.bytes").unwrap_or(MESSAGE_BYTES_DEFAULT),
        }
    }

    fn describe(&self) -> Result<ConfigResource, String> {
        let admin = self.admin()?;
        let options = AdminOptions::new().request_timeout(Some(self.config.request_timeout));
        let topic = ResourceSpecifier::Topic(&self.config.topic);
        let asked = Handle::current().block_on(admin.describe_configs([&topic], &options));
        let results = asked.map_err(|error| error.to_string())?;
        match results.into_iter().next() {
            Some(described) => described.map_err(|code| code.to_string()),
            None => Err("no answer".to_owned()),
        }
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, String> {
        // Nobody polls this kind of client for tokens: it would wait in vain.
        if self.config.security.tokens.is_some() {
            return Err(
                "with OAUTHBEARER this service can neither make nor describe topics".into(),
            );
        }
        let client = self.config.client().create();
        client.map_err(|error: KafkaError| error.to_string())
    }

    fn topic(&self, cause: String) -> OpenError {
        OpenError::Topic {
            topic: self.config.topic.clone(),
            cause,
        }
    }
}

/// The client library ends its sentences with how long it was in which state.
fn without_state(cause: &str) -> String {
    let sentence = cause
        .split_once(" (after ")
        .map_or(cause, |(sentence, _)| sentence);
    sentence.to_owned()
}

fn has_leaders(topic: &MetadataTopic) -> bool {
    let partitions = topic.partitions();
    !partitions.is_empty() && partitions.iter().all(|partition| partition.leader() >= 0)
}

fn shape(topic: &MetadataTopic) -> Shape {
    let partitions = topic.partitions();
    Shape {
        partitions: partitions.len() as u32,
        replicas: partitions
            .iter()
            .map(|p| p.replicas().len())
            .min()
            .unwrap_or(0),
    }
}

fn is_final(error: RDKafkaRespErr) -> bool {
    matches!(
        error,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION
    )
}

/// Key, headers and value of one record, together, at most; less on a topic that takes less.
pub(super) const RECORD_BYTES_MAX: usize = 2 << 20;

/// How the client library begins to tell what the source of tokens said.
const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token: ";

/// `max.message.bytes` of a broker that was told nothing.
const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

/// Stands for the broker's own number of replicas.
const BROKER_DEFAULT: i32 = -1;

/// How long a volatile topic keeps records, and how long it writes one segment, the least it can drop.
const VOLATILE_MS: &str = "60000";

const TRY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
const EVENTS_MAX: usize = 100;
