//! Log, store and files: opened as the configuration asks, each failure one sentence. The only file that knows every
//! implementation of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::blobs::{Blobs, BlobsConfig};
use crate::config::{Config, KafkaOptions};
use crate::drain::{Drain, Tasks};
use crate::metrics::Metrics;
use crate::store::embedded::EmbeddedStore;
use crate::store::mongo::{MongoConfig, MongoStore};
use crate::store::{Store, StoreError};
use crate::topic::Topic;
use crate::topic::dead_letters::{LetterFile, LetterPlace};
use crate::topic::journal::{Journal, JournalConfig};
use crate::topic::kafka::{Identity, KafkaConfig, KafkaTopic, Security, TokenServer, TokenSource};

/// How often a store that cannot be reached is tried again at start.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Typing that did not get through in this time is dropped.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How far apart messages are appended to Kafka, and how long the library lets them gather then. What comes together
/// still takes a request for each partition, an answer to it, and a fetch of each reader.
const PACE: Duration = Duration::from_millis(7);
const LINGER: Duration = Duration::from_micros(500);

/// How long the archive lets messages gather. Nobody waits for it but who reports a message just sent.
const GATHER: Duration = Duration::from_millis(100);

/// What the service keeps its messages and files in.
pub struct Backends {
    pub log: Log,
    /// Where the log's dead letters go.
    pub letters: LetterPlace,
    /// The topic of quote events, and where its dead letters go.
    pub quotes: Option<(Arc<dyn Topic>, LetterPlace)>,
    /// For typing between nodes, where there may be others.
    pub signals: Option<Arc<dyn Topic>>,
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    /// What runs on what, and where: a line for people each.
    pub told: Told,
}

/// Where log and store are, for people.
#[derive(Clone, Debug)]
pub struct Told {
    pub log: String,
    pub letters: String,
    pub store: String,
}

/// The log, and what only its implementation can tell of it.
#[derive(Clone)]
pub struct Log {
    pub topic: Arc<dyn Topic>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Journal(Arc<Journal>),
    Kafka(Arc<KafkaTopic>),
}

/// The log and what comes with it.
struct OpenLog {
    log: Log,
    told: String,
    letters: LetterPlace,
    quotes: Option<(Arc<dyn Topic>, LetterPlace)>,
}

impl Backends {
    /// Opens all three. `tasks` run what files need done when a client has gone, unless `drain` has begun.
    pub async fn open(config: &Config, tasks: &Tasks, drain: &Drain) -> Result<Self, SetupError> {
        make_folder(&config.data_dir)?;
        let OpenLog {
            log,
            told: log_told,
            letters,
            quotes,
        } = match given(&config.kafka.kafka_brokers) {
            Some(brokers) => open_kafka(config, brokers).await?,
            None => open_journal(config).await?,
        };
        let signals = open_signals(config, &log).await?;
        let (store, store_told) = match given(&config.mongo.mongo_uri) {
            Some(uri) => open_mongo(config, uri).await?,
            None => open_store(&config.data_dir).await?,
        };
        let blobs = open_blobs(config, tasks, drain).await?;
        let told = Told {
            log: log_told,
            letters: letters.to_string(),
            store: store_told,
        };
        Ok(Self {
            log,
            letters,
            quotes,
            signals,
            store,
            blobs,
            told,
        })
    }
}

impl Log {
    /// Why it takes no messages now, if so.
    pub fn failure(&self) -> Option<String> {
        match &self.kind {
            Kind::Journal(journal) => journal
                .stats()
                .failed
                .then(|| "a write failed; restart".to_owned()),
            Kind::Kafka(kafka) => {
                let stats = kafka.stats();
                // Before the first look at the connections, only an error says that there is none.
                let is_away = stats.brokers_up == 0 && stats.errors > 0;
                is_away.then(|| "no broker is connected".to_owned())
            }
        }
    }

    /// Brings its numbers up to date.
    pub fn measure(&self, metrics: &Metrics) {
        match &self.kind {
            Kind::Journal(journal) => {
                let stats = journal.stats();
                metrics.journal_bytes.set(stats.bytes_on_disk);
                metrics.journal_records.set(stats.appended_records);
                metrics.journal_syncs.set(stats.blocks);
                metrics.journal_queued_bytes.set(stats.queued_bytes as u64);
            }
            Kind::Kafka(kafka) => {
                let stats = kafka.stats();
                metrics.kafka_records.set(stats.appended_records);
                metrics.kafka_unknown.set(stats.unknown_records);
                metrics.kafka_queued_records.set(stats.queued_records);
                metrics.kafka_queued_bytes.set(stats.queued_bytes);
                metrics.kafka_brokers_up.set(stats.brokers_up);
                metrics.kafka_errors.set(stats.errors);
                metrics.kafka_round_trip_us.set(stats.round_trip_us_p99);
            }
        }
    }

    /// Whether other nodes may append to it: not to a journal, nor where the store is this process's own.
    pub fn is_shared(&self, config: &Config) -> bool {
        matches!(&self.kind, Kind::Kafka(_)) && given(&config.mongo.mongo_uri).is_some()
    }

    /// Whether its failure is for good, in this process.
    pub fn has_failed(&self) -> bool {
        matches!(&self.kind, Kind::Journal(journal) if journal.stats().failed)
    }
}

fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

/// Why the service did not start: one sentence that says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub String);

pub fn setup(what: &str, error: &dyn std::fmt::Display) -> SetupError {
    SetupError(format!("{what}: {error}"))
}

fn make_folder(folder: &Path) -> Result<(), SetupError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        SetupError(format!(
            "DATA_DIR: the folder {} cannot be used: {error}",
            folder.display()
        ))
    })
}

async fn open_journal(config: &Config) -> Result<OpenLog, SetupError> {
    let limits = &config.journal;
    let path = config.data_dir.join("journal");
    let told = format!("embedded journal in {}", path.display());
    let journal = JournalConfig {
        segment_bytes_max: limits.journal_segment_bytes,
        retention: limits.journal_retention,
        retained_bytes_max: limits.journal_retained_bytes_max,
        ..JournalConfig::new(path)
    };
    let opened = blocking(move || Journal::open(journal)).await?;
    let journal = Arc::new(opened.map_err(|error| setup("DATA_DIR", &error))?);
    let letters = config.data_dir.join("dead-letters.jsonl");
    let letters = LetterFile::new(letters, limits.dead_letters_bytes_max);
    Ok(OpenLog {
        log: Log {
            topic: journal.clone(),
            kind: Kind::Journal(journal),
        },
        told,
        letters: LetterPlace::File(Arc::new(letters)),
        quotes: None,
    })
}

async fn open_kafka(config: &Config, brokers: &str) -> Result<OpenLog, SetupError> {
    let topic = config.kafka.kafka_topic_chat_messages.as_str();
    let epochs = Epochs {
        file: config.data_dir.join("kafka-epoch.json"),
        epoch: config.journal.log_epoch,
    };
    let settings = KafkaConfig {
        recorded: epochs.read()?,
        linger: LINGER,
        pace: PACE,
        gather: GATHER,
        ..kafka_settings(config, brokers, topic)
    };
    let (kafka, letters, quotes) = tokio::try_join!(
        open_topic(settings),
        open_letters(config, brokers, topic),
        open_quotes(config, brokers),
    )?;
    epochs.write(kafka.identity())?;
    let told = format!(
        "Kafka at {brokers}, topic {topic} with {} partitions",
        kafka.identity().partitions
    );
    Ok(OpenLog {
        log: Log {
            topic: kafka.clone(),
            kind: Kind::Kafka(kafka),
        },
        told,
        letters,
        quotes,
    })
}

async fn open_topic(settings: KafkaConfig) -> Result<Arc<KafkaTopic>, SetupError> {
    let opened = KafkaTopic::open(settings).await;
    opened
        .map(Arc::new)
        .map_err(|error| setup("KAFKA_BROKERS", &error))
}

/// One partition will do for what hardly ever happens, and keeps it in the order it happened.
async fn open_letters(
    config: &Config,
    brokers: &str,
    origin: &str,
) -> Result<LetterPlace, SetupError> {
    let topic = format!("{origin}.dlq");
    let settings = KafkaConfig {
        partitions: 1,
        ..kafka_settings(config, brokers, &topic)
    };
    Ok(LetterPlace::Topic(topic, open_topic(settings).await?))
}

async fn open_quotes(
    config: &Config,
    brokers: &str,
) -> Result<Option<(Arc<dyn Topic>, LetterPlace)>, SetupError> {
    let topic = config.kafka.kafka_topic_quote_events.as_str();
    if topic.is_empty() {
        return Ok(None);
    }
    let (quotes, letters) = tokio::try_join!(
        open_topic(kafka_settings(config, brokers, topic)),
        open_letters(config, brokers, topic),
    )?;
    Ok(Some((quotes, letters)))
}

/// The topic of typing between nodes, where there may be others.
async fn open_signals(config: &Config, log: &Log) -> Result<Option<Arc<dyn Topic>>, SetupError> {
    let topic = config.kafka.kafka_topic_signals.as_str();
    let Some(brokers) = given(&config.kafka.kafka_brokers) else {
        return Ok(None);
    };
    if topic.is_empty() || !log.is_shared(config) {
        return Ok(None);
    }
    let settings = KafkaConfig {
        is_volatile: true,
        min_insync_replicas: None,
        delivery_timeout: SIGNAL_TIMEOUT,
        queue_records_max: 10_000,
        queue_bytes_max: 4 << 20,
        ..kafka_settings(config, brokers, topic)
    };
    let opened = KafkaTopic::open(settings)
        .await
        .map_err(|error| setup("KAFKA_TOPIC_SIGNALS", &error))?;
    Ok(Some(Arc::new(opened)))
}

/// What all topics have in common.
fn kafka_settings(config: &Config, brokers: &str, topic: &str) -> KafkaConfig {
    let options = &config.kafka;
    KafkaConfig {
        client_id: options.kafka_client_id.clone(),
        group_prefix: options.kafka_group_prefix.clone(),
        instance_id: given(&options.kafka_instance_id).map(str::to_owned),
        partitions: options.kafka_partitions,
        replication: options.kafka_replication,
        min_insync_replicas: options.kafka_min_insync_replicas,
        start_timeout: config.start_timeout,
        delivery_timeout: options.kafka_delivery_timeout,
        security: Security {
            protocol: options.kafka_security_protocol.clone(),
            mechanism: options.kafka_sasl_mechanism.clone(),
            username: options.kafka_sasl_username.clone(),
            password: options.kafka_sasl_password.clone(),
            tokens: token_source(options),
            ca_file: options.kafka_ssl_ca.clone(),
            cert_file: options.kafka_ssl_cert.clone(),
            key_file: options.kafka_ssl_key.clone(),
        },
        ..KafkaConfig::new(brokers, topic)
    }
}

/// A configuration that was checked has one at most.
fn token_source(options: &KafkaOptions) -> Option<TokenSource> {
    if let Some(url) = given(&options.kafka_oauth_token_url) {
        return Some(TokenSource::Server(TokenServer {
            url: url.to_owned(),
            client_id: options.kafka_oauth_client_id.clone().unwrap_or_default(),
            client_secret: options
                .kafka_oauth_client_secret
                .clone()
                .unwrap_or_default(),
            scope: given(&options.kafka_oauth_scope).map(str::to_owned),
        }));
    }
    let file = options.kafka_oauth_token_file.clone();
    file.filter(|file| !file.as_os_str().is_empty())
        .map(TokenSource::File)
}

/// Which topic the log's epoch was begun on, kept beside the data: places made from one are nonsense for another.
struct Epochs {
    file: PathBuf,
    epoch: u32,
}

impl Epochs {
    /// What this epoch was begun on; `None` when it begins now.
    fn read(&self) -> Result<Option<Identity>, SetupError> {
        let json = match std::fs::read(&self.file) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.fault(&error)),
        };
        let recorded: Recorded =
            serde_json::from_slice(&json).map_err(|error| self.fault(&error))?;
        Ok((recorded.epoch == self.epoch).then_some(Identity {
            cluster_id: recorded.cluster_id,
            topic: recorded.topic,
            partitions: recorded.partitions,
        }))
    }

    fn write(&self, found: &Identity) -> Result<(), SetupError> {
        let recorded = Recorded {
            epoch: self.epoch,
            cluster_id: found.cluster_id.clone(),
            topic: found.topic.clone(),
            partitions: found.partitions,
        };
        let json = serde_json::to_vec(&recorded).map_err(|error| self.fault(&error))?;
        std::fs::write(&self.file, json).map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> SetupError {
        SetupError(format!(
            "DATA_DIR: {} cannot be used: {error}",
            self.file.display()
        ))
    }
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    epoch: u32,
    cluster_id: String,
    topic: String,
    partitions: u32,
}

async fn open_store(data_dir: &Path) -> Result<(Arc<dyn Store>, String), SetupError> {
    let path = data_dir.join("store");
    let told = format!("embedded in {}", path.display());
    let opened = blocking(move || EmbeddedStore::open(&path)).await?;
    Ok((
        Arc::new(opened.map_err(|error| setup("DATA_DIR", &error))?),
        told,
    ))
}

/// Tries until the server answers, or the time to start in is over.
async fn open_mongo(config: &Config, uri: &str) -> Result<(Arc<dyn Store>, String), SetupError> {
    let settings = MongoConfig {
        collection: config.mongo.mongo_collection.clone(),
        ..MongoConfig::new(uri)
    };
    let told = format!("MongoDB, collection {}", settings.collection);
    let started = Instant::now();
    loop {
        match MongoStore::open(settings.clone()).await {
            Ok(store) => return Ok((Arc::new(store), told)),
            Err(StoreError::Unavailable(error)) if started.elapsed() < config.start_timeout => {
                tracing::info!(error = &*error, "waiting for MongoDB");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            Err(error) => return Err(setup("MONGO_URI", &error)),
        }
    }
}

async fn open_blobs(config: &Config, tasks: &Tasks, drain: &Drain) -> Result<Blobs, SetupError> {
    let url = config.upload_url.as_deref().filter(|url| !url.is_empty());
    // What the operator set, and so has to change.
    let knob = if url.is_some() {
        "UPLOAD_URL"
    } else {
        "UPLOAD_PATH"
    };
    let place = BlobsConfig::choose(&config.upload_path, url);
    let place = place.map_err(|error| setup(knob, &error))?;
    if config.limits.upload_link_seconds > 0 && matches!(place, BlobsConfig::Folder(_)) {
        let sentence = "UPLOAD_LINK_SECONDS: only a bucket has links, see UPLOAD_URL";
        return Err(SetupError(sentence.into()));
    }
    let (tasks, drain) = (tasks.clone(), drain.clone());
    blocking(move || Blobs::open(&place, tasks, drain))
        .await?
        .map_err(|error| setup(knob, &error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SetupError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| setup("start", &error))
}
