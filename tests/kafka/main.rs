//! The log on Kafka when Kafka misbehaves: paused, killed, away, changed, closed to us.

#[path = "../support/broker.rs"]
mod broker;
mod groups;
#[path = "../support/kafka.rs"]
mod support;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use smallvec::smallvec;
use tokio::task::JoinSet;

use broker::Broker;
use chat_svc::topic::kafka::{Identity, KafkaConfig, KafkaTopic, OpenError, Security};
use chat_svc::topic::{Outcome, Record, Start, Subscription, Topic, TopicError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_paused_broker_did_not_answer_is_unknown_and_appears_at_most_once_in_order() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let topic = open(KafkaConfig {
        delivery_timeout: Duration::from_secs(5),
        queue_records_max: 30,
        ..own(&broker.address)
    })
    .await;
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    let mut told = Told::default();
    told.append(&topic, 0..10).await;
    assert_eq!(told.appended.len(), 10);
    broker.pause();
    let outcomes = told.append(&topic, 10..60).await;
    let refused =
        |outcome: &&Outcome| matches!(outcome, Outcome::NotAppended(TopicError::Unavailable(_)));
    let refusals = outcomes.iter().filter(refused).count();
    assert!(
        (10..50).contains(&refusals),
        "the queue is bounded: {outcomes:?}"
    );
    assert_eq!(told.unknown.len() + refusals, 50, "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .rev()
            .take(10)
            .all(|outcome| refused(&outcome))
    );
    broker.resume();
    told.append_until_it_works(&topic, 60).await;
    told.assert_true(&mut tail, 61).await;
    assert_eq!(topic.stats().queued_records, 0);
    assert_eq!(topic.stats().queued_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_shorter_than_the_delivery_timeout_is_only_a_delay() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let topic = open(own(&broker.address)).await;
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    let mut told = Told::default();
    told.append(&topic, 0..10).await;
    broker.pause();
    let (waiting, queued) = (Arc::clone(&topic), topic.stats().appended_records);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut told = Told::default();
        told.append(&waiting, 10..500).await;
        told
    });
    while topic.stats().queued_records == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(topic.stats().appended_records, queued);
    broker.resume();
    let later = tasks.join_next().await.expect("one").expect("no panic");
    told.appended.extend(&later.appended);
    assert_eq!(told.appended.len(), 500);
    told.assert_true(&mut tail, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_that_comes_back_has_all_and_everybody_goes_on() {
    let Some(mut broker) = Broker::start() else {
        return;
    };
    let topic = open(KafkaConfig {
        delivery_timeout: Duration::from_secs(60),
        request_timeout: Duration::from_secs(30),
        ..own(&broker.address)
    })
    .await;
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    let mut archive = archive(&topic).await;
    let mut told = Told::default();
    told.append(&topic, 0..100).await;
    assert_eq!(read(&mut archive, 100).await, (0..100).collect::<Vec<_>>());
    archive.commit().await.expect("commits");
    broker.kill();
    let waiting = Arc::clone(&topic);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut told = Told::default();
        told.append(&waiting, 100..200).await;
        told
    });
    while topic.stats().queued_records == 0 {
        tokio::task::yield_now().await;
    }
    broker.restart();
    let later = tasks.join_next().await.expect("one").expect("no panic");
    assert_eq!(later.appended.len(), 100, "{:?}", later.unknown);
    told.appended.extend(&later.appended);
    told.append(&topic, 200..201).await;
    told.assert_true(&mut tail, 201).await;
    assert_eq!(
        read(&mut archive, 101).await,
        (100..201).collect::<Vec<_>>()
    );
    archive.commit().await.expect("commits again");
    let bounds = topic.bounds("archive").await.expect("bounds");
    assert_eq!((bounds[0].committed, bounds[0].end), (201, 201));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_password_opens_a_guarded_broker() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let with = |password: &str| KafkaConfig {
        security: Security {
            protocol: "sasl_plaintext".to_owned(),
            mechanism: Some("PLAIN".to_owned()),
            username: Some("chat".to_owned()),
            password: Some(password.to_owned()),
            ..Security::default()
        },
        ..own(&broker.guarded)
    };
    let topic = open(with("right")).await;
    let mut told = Told::default();
    told.append(&topic, 0..1).await;
    assert_eq!(told.appended.len(), 1);
    let refused = KafkaTopic::open(with("wrong"))
        .await
        .err()
        .expect("refused");
    assert!(matches!(refused, OpenError::Refused { .. }), "{refused}");
    assert_one_sentence(&refused, &broker.guarded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_one_sentence() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    let config = KafkaConfig {
        start_timeout: Duration::from_secs(2),
        ..own(&address)
    };
    let unreachable = KafkaTopic::open(config).await.err().expect("nobody there");
    assert!(
        matches!(unreachable, OpenError::Unreachable { .. }),
        "{unreachable}"
    );
    assert_one_sentence(&unreachable, &address);
    assert!(unreachable.to_string().contains("refused"), "{unreachable}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_other_than_the_recorded_one_is_refused() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = KafkaTopic::open(config.clone()).await.expect("opens");
    let identity = topic.identity().clone();
    assert_eq!(identity.partitions, 1);
    assert!(!identity.cluster_id.is_empty());
    let recorded = |recorded: Identity| KafkaConfig {
        recorded: Some(recorded),
        ..config.clone()
    };
    KafkaTopic::open(recorded(identity.clone()))
        .await
        .expect("the same");
    let more = Identity {
        partitions: 2,
        ..identity
    };
    let changed = KafkaTopic::open(recorded(more))
        .await
        .err()
        .expect("changed");
    assert!(matches!(changed, OpenError::Changed { .. }), "{changed}");
    assert_one_sentence(&changed, &config.topic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_record_without_key_or_headers_is_read() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = open(config.clone()).await;
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    let mut foreign = ClientConfig::new();
    foreign.set("bootstrap.servers", &config.brokers);
    let foreign: BaseProducer = foreign.create().expect("a producer");
    let plain = BaseRecord::<(), str>::to(&config.topic).payload("7");
    assert!(foreign.send(plain).is_ok());
    let nothing = BaseRecord::<(), str>::to(&config.topic);
    assert!(foreign.send(nothing).is_ok());
    foreign.flush(config.delivery_timeout).expect("sent");
    let mut entries = Vec::new();
    while entries.len() < 2 {
        tail.poll(&mut entries, 2).await.expect("reads");
    }
    let of = |value: &'static str| Record {
        key: Bytes::new(),
        headers: smallvec![],
        value: Bytes::from_static(value.as_bytes()),
    };
    assert_eq!(*entries[0].record, of("7"));
    assert_eq!(*entries[1].record, of(""));
}

/// On the client library's own broker of pretence: a real one does not answer like this on demand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_failed_for_good_is_replaced() {
    let mock: MockCluster<'_, _> = MockCluster::new(1).expect("a cluster");
    let config = KafkaConfig {
        delivery_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(2),
        ..own(&mock.bootstrap_servers())
    };
    mock.create_topic(&config.topic, 1, 1).expect("a topic");
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    mock.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
    let topic = open(config).await;
    let mut told = Told::default();
    told.append_until_it_works(&topic, 0).await;
    assert_eq!(topic.stats().producers_replaced, 1);
    told.append(&topic, 1..10).await;
    assert_eq!(told.appended.len(), 10);
}

// === What was told, and what is true ===

/// The numbers that were appended, by what the sender was told of them.
#[derive(Default)]
struct Told {
    appended: BTreeSet<usize>,
    unknown: BTreeSet<usize>,
}

impl Told {
    async fn append(&mut self, topic: &KafkaTopic, numbers: Range<usize>) -> Vec<Outcome> {
        let records = numbers.clone().map(|number| record("k", number));
        let outcomes = topic.append(records.collect()).await;
        assert_eq!(outcomes.len(), numbers.len());
        for (number, outcome) in numbers.zip(&outcomes) {
            match outcome {
                Outcome::Appended(_) => self.appended.insert(number),
                Outcome::Unknown(_) => self.unknown.insert(number),
                Outcome::NotAppended(_) => true,
            };
        }
        outcomes
    }

    /// What the client library still holds fills its queue for a while, so refusals may come at once.
    async fn append_until_it_works(&mut self, topic: &KafkaTopic, number: usize) {
        let appended = async {
            while !self.appended.contains(&number) {
                self.append(topic, number..number + 1).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), appended).await;
        waited.expect("the broker is back, and takes nothing");
    }

    /// The log up to `last` holds all that was called appended, nothing that was refused, in the order sent; what was
    /// sent once is there once.
    async fn assert_true(&self, reader: &mut Box<dyn Subscription>, end: usize) {
        let mut seen = Vec::new();
        while seen.last() != Some(&(end - 1)) {
            seen.extend(read(reader, 1).await);
        }
        assert!(
            seen.is_sorted_by(|a, b| a < b),
            "doubled or out of order: {seen:?}"
        );
        let seen: BTreeSet<usize> = seen.into_iter().collect();
        let lost: Vec<_> = self.appended.difference(&seen).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        let may: BTreeSet<usize> = self.appended.union(&self.unknown).copied().collect();
        let ghosts: Vec<_> = seen.difference(&may).collect();
        assert!(
            ghosts.is_empty(),
            "called not appended, and there: {ghosts:?}"
        );
    }
}

fn own(address: &str) -> KafkaConfig {
    KafkaConfig {
        start_timeout: Duration::from_secs(60),
        ..support::own(address)
    }
}

async fn open(config: KafkaConfig) -> Arc<KafkaTopic> {
    Arc::new(KafkaTopic::open(config).await.expect("opens"))
}

/// A member of the group that archives.
async fn archive(topic: &KafkaTopic) -> Box<dyn Subscription> {
    let member = topic.subscribe(Start::Group("archive")).await;
    member.expect("subscribes")
}

fn record(key: &str, number: usize) -> Record {
    Record {
        key: Bytes::copy_from_slice(key.as_bytes()),
        headers: smallvec![],
        value: Bytes::from(number.to_string()),
    }
}

fn number(record: &Record) -> usize {
    let text = std::str::from_utf8(&record.value).expect("text");
    text.parse().expect("a number")
}

async fn append_to_all_partitions(topic: &KafkaTopic, numbers: Range<usize>) {
    let records = numbers.map(|number| record(&number.to_string(), number));
    let outcomes = topic.append(records.collect()).await;
    let appended = |outcome: &Outcome| matches!(outcome, Outcome::Appended(_));
    assert!(outcomes.iter().all(appended), "{outcomes:?}");
}

async fn read(reader: &mut Box<dyn Subscription>, count: usize) -> Vec<usize> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let max = count - entries.len();
        reader.poll(&mut entries, max).await.expect("reads");
    }
    entries.iter().map(|entry| number(&entry.record)).collect()
}

fn sorted(mut numbers: Vec<usize>) -> Vec<usize> {
    numbers.sort_unstable();
    numbers
}

fn assert_one_sentence(error: &OpenError, place: &str) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains(place), "{text}");
    eprintln!("{text}");
}
