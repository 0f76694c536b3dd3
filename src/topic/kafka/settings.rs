//! What the caller decides about Kafka, with defaults, and its translation into the client library's words.
//!
//! Nothing here connects. Settings that cannot work are refused with one sentence.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;

use super::oauth::TokenSource;

/// Settings of one topic on one cluster.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma separated.
    pub brokers: String,
    pub client_id: String,
    pub topic: String,
    /// For a topic that is missing; one that is there keeps its own count.
    pub partitions: u32,
    /// For a topic that is missing; the broker's default when `None`.
    pub replication: Option<u16>,
    /// For a topic that is missing; the broker's default when `None`.
    pub min_insync_replicas: Option<u16>,
    /// Go on with a topic of three or more replicas of which one alone may acknowledge.
    pub weak_replication_allowed: bool,
    /// Put before every group's name, so that two installations can share a cluster.
    pub group_prefix: String,
    /// Names this node for good: after a crash it has its partitions back at once, not after a session timeout.
    pub instance_id: Option<String>,
    /// How long `open` tries.
    pub start_timeout: Duration,
    /// For one question about offsets, and for one commit.
    pub request_timeout: Duration,
    /// From append to an outcome; what is undecided then is unknown.
    pub delivery_timeout: Duration,
    /// How long a record may wait for others to be sent with.
    pub linger: Duration,
    /// How far apart [`Topic::turn`](crate::topic::Topic::turn) keeps appends.
    pub pace: Duration,
    /// How long a group's reader may let records gather on the brokers: for groups that are in no hurry.
    pub gather: Duration,
    /// For what may be lost: one replica confirms, nothing is tried again, and a topic that is made keeps a minute.
    /// Readers go on with what is new when what they were to read is gone.
    pub is_volatile: bool,
    pub queue_records_max: u32,
    pub queue_bytes_max: usize,
    pub security: Security,
    /// What was found when the log's epoch was recorded; `open` refuses a topic that is another now.
    pub recorded: Option<Identity>,
}

impl KafkaConfig {
    /// The defaults, for this topic.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> KafkaConfig {
        KafkaConfig {
            brokers: brokers.into(),
            client_id: "chat-svc".to_owned(),
            topic: topic.into(),
            partitions: 12,
            replication: None,
            min_insync_replicas: None,
            weak_replication_allowed: false,
            group_prefix: "chat-svc.".to_owned(),
            instance_id: None,
            start_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            delivery_timeout: Duration::from_secs(30),
            linger: Duration::from_millis(3),
            pace: Duration::ZERO,
            gather: Duration::ZERO,
            is_volatile: false,
            queue_records_max: 200_000,
            queue_bytes_max: 128 << 20,
            security: Security::default(),
            recorded: None,
        }
    }

    /// The group's name on the cluster.
    pub(super) fn group_id(&self, group: &str) -> String {
        format!("{}{group}", self.group_prefix)
    }

    /// What every client of the cluster needs.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            // A broker whose machine went away is noticed in seconds.
            .set("socket.timeout.ms", "15000")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false");
        self.security.apply(&mut client);
        client
    }

    pub(super) fn producer(&self, record_bytes_max: usize) -> ClientConfig {
        let mut client = self.client();
        let message_bytes_max = record_bytes_max + RECORD_OVERHEAD;
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", (self.linger.as_secs_f64() * 1e3).to_string())
            .set("batch.num.messages", "10000")
            .set("batch.size", BATCH_BYTES)
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("delivery.timeout.ms", millis(self.delivery_timeout))
            .set(
                "queue.buffering.max.messages",
                self.queue_records_max.max(1).to_string(),
            )
            .set(
                "queue.buffering.max.kbytes",
                (self.queue_bytes_max >> 10).max(1).to_string(),
            )
            .set("statistics.interval.ms", "5000");
        if self.is_volatile {
            client
                .set("enable.idempotence", "false")
                .set("acks", "1")
                .set("message.send.max.retries", "0");
        }
        client
    }

    /// A consumer that commits only what it is told to.
    pub(super) fn consumer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("queued.max.messages.kbytes", "65536")
            .set("fetch.error.backoff.ms", "100")
            // A tail begins at offsets that are there: when they are gone, that is to be said, not skipped.
            .set("auto.offset.reset", "error");
        client
    }

    /// The client library assigns nothing to a consumer without a group's name, though it joins none here.
    pub(super) fn tail(&self) -> ClientConfig {
        let mut client = self.consumer();
        client.set("group.id", self.group_id("tail"));
        if self.is_volatile {
            client.set("auto.offset.reset", "latest");
        }
        client
    }

    pub(super) fn group(&self, group: &str) -> ClientConfig {
        let mut client = self.consumer();
        client
            .set("group.id", self.group_id(group))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            // Its thread polls every second, so this bounds something else: how long a rebalance waits for a member
            // that has gone, and how long a request to join waits for a broker that will not answer it.
            .set("max.poll.interval.ms", "30000")
            .set("auto.offset.reset", "earliest")
            // Records ahead of a reader that is behind: by default 100,000, in 1 KiB of memory each. A fetch is bounded
            // by partition, not as a whole: where it ends, the partitions behind would wait for those before.
            .set("queued.min.messages", AHEAD_RECORDS)
            .set("queued.max.messages.kbytes", AHEAD_KIB)
            .set("max.partition.fetch.bytes", AHEAD_FETCH_BYTES)
            .set("fetch.queue.backoff.ms", "20");
        if !self.gather.is_zero() {
            client
                .set("fetch.wait.max.ms", millis(self.gather))
                .set("fetch.min.bytes", GATHERED_BYTES);
        }
        if let Some(instance) = &self.instance_id {
            client.set("group.instance.id", format!("{instance}.{group}"));
        }
        client
    }
}

/// Which log it was: sequence numbers made from one are nonsense for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub topic: String,
    pub partitions: u32,
}

/// How to talk to the brokers. Values are the client library's.
#[derive(Clone, Default)]
pub struct Security {
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`; empty is `plaintext`.
    pub protocol: String,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.
    pub mechanism: Option<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// For `OAUTHBEARER`. Topics are then not made, and their limits are taken to be the brokers' defaults.
    pub tokens: Option<TokenSource>,
    /// Authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, and its key.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl Security {
    /// Why these settings cannot work, if they cannot.
    pub(super) fn fault(&self) -> Option<String> {
        let protocol = self.protocol.to_ascii_lowercase();
        if !["", "plaintext", "ssl", "sasl_plaintext", "sasl_ssl"].contains(&protocol.as_str()) {
            let what = format!("the security protocol {:?} is not known", self.protocol);
            return Some(what);
        }
        if !protocol.starts_with("sasl") {
            let stray =
                self.mechanism.is_some() || self.username.is_some() || self.tokens.is_some();
            return stray.then(|| {
                "a SASL mechanism, user or source of tokens is set, but the security protocol is not sasl_plaintext or sasl_ssl"
                    .to_owned()
            });
        }
        if self.tokens.is_some() && self.mechanism.as_deref() != Some("OAUTHBEARER") {
            return Some(
                "a source of tokens is set, but the SASL mechanism is not OAUTHBEARER".to_owned(),
            );
        }
        match self.mechanism.as_deref() {
            Some("PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512") => (self.username.is_none()
                || self.password.is_none())
            .then(|| "SASL needs a user and a password".to_owned()),
            Some("OAUTHBEARER") => self.tokens.is_none().then(|| {
                "OAUTHBEARER needs a source of tokens, KAFKA_OAUTH_TOKEN_FILE or KAFKA_OAUTH_TOKEN_URL".to_owned()
            }),
            Some(other) => Some(format!("the SASL mechanism {other:?} is not supported")),
            None => Some("SASL needs a mechanism".to_owned()),
        }
    }

    fn apply(&self, client: &mut ClientConfig) {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let protocol = (!self.protocol.is_empty()).then(|| self.protocol.to_ascii_lowercase());
        let settings = [
            ("security.protocol", protocol),
            ("sasl.mechanism", self.mechanism.clone()),
            ("sasl.username", self.username.clone()),
            ("sasl.password", self.password.clone()),
            ("ssl.ca.location", path(&self.ca_file)),
            ("ssl.certificate.location", path(&self.cert_file)),
            ("ssl.key.location", path(&self.key_file)),
        ];
        for (name, value) in settings {
            if let Some(value) = value {
                client.set(name, value);
            }
        }
    }
}

/// Without the password.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("protocol", &self.protocol)
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

/// Records and KiB of them that a group's reader holds ahead, as far as one fetch does not bring more.
const AHEAD_RECORDS: &str = "2000";
const AHEAD_KIB: &str = "8192";

/// Of each partition in one fetch. A batch that is larger comes alone, from one partition a fetch; ours are not, unless
/// one record is.
const AHEAD_FETCH_BYTES: &str = BATCH_BYTES;

/// Of a batch that is appended, before it is compressed.
const BATCH_BYTES: &str = "262144";

/// As many gather at most, of all partitions that one broker leads: at high rates nothing waits.
const GATHERED_BYTES: &str = "262144";

/// What frames a record in a batch, with room: the limit on a record is the topic's limit less this.
pub(super) const RECORD_OVERHEAD: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_that_cannot_work_is_refused_in_one_sentence() {
        let security = |protocol: &str, mechanism: Option<&str>, user: Option<&str>| Security {
            protocol: protocol.to_owned(),
            mechanism: mechanism.map(str::to_owned),
            username: user.map(str::to_owned),
            password: user.map(str::to_owned),
            ..Security::default()
        };
        let by_token = |protocol: &str, mechanism: &str| Security {
            tokens: Some(TokenSource::File("token".into())),
            ..security(protocol, Some(mechanism), Some("u"))
        };
        let fine = [
            by_token("sasl_ssl", "OAUTHBEARER"),
            security("", None, None),
            security("SSL", None, None),
            security("sasl_ssl", Some("SCRAM-SHA-512"), Some("u")),
            security("SASL_PLAINTEXT", Some("PLAIN"), Some("u")),
        ];
        assert!(fine.iter().all(|settings| settings.fault().is_none()));
        let faulty = [
            (security("tls", None, None), "not known"),
            (security("", Some("PLAIN"), Some("u")), "is set, but"),
            (security("sasl_ssl", None, Some("u")), "needs a mechanism"),
            (security("sasl_ssl", Some("PLAIN"), None), "needs a user"),
            (
                security("sasl_ssl", Some("OAUTHBEARER"), None),
                "needs a source of tokens",
            ),
            (by_token("sasl_ssl", "PLAIN"), "is not OAUTHBEARER"),
            (by_token("ssl", "OAUTHBEARER"), "is set, but"),
            (security("sasl_ssl", Some("GSSAPI"), None), "GSSAPI"),
        ];
        for (settings, word) in faulty {
            let fault = settings.fault().unwrap();
            assert!(fault.contains(word), "{fault}");
        }
        let secret = security("sasl_ssl", Some("PLAIN"), Some("hunter2"));
        let shown = format!(
            "{:?}",
            Security {
                username: None,
                ..secret
            }
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
