//! Raw records on the Kafka of `TEST_KAFKA_BROKERS`: what other services send, and what operators read. Topics and
//! groups have random names.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::{DEADLINE, within_for};

/// Topics of a test's own.
pub struct Kafka {
    brokers: String,
    suffix: String,
    producer: BaseProducer,
}

/// A record as it stands in its topic.
#[derive(Debug)]
pub struct Raw {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Kafka {
    /// `None`, said on stderr, when there is no Kafka to test on; a failure when `CHAT_SVC_REQUIRE_SERVICES` is 1.
    pub fn here() -> Option<Kafka> {
        let Ok(brokers) = std::env::var("TEST_KAFKA_BROKERS") else {
            skipped("TEST_KAFKA_BROKERS");
            return None;
        };
        let producer = client(&brokers).create().expect("a producer");
        let suffix = format!("{:016x}", getrandom::u64().expect("random"));
        Some(Kafka {
            brokers,
            suffix,
            producer,
        })
    }

    /// Of messages.
    pub fn chat(&self) -> String {
        format!("test.chat.{}", self.suffix)
    }

    /// Of quote events.
    pub fn quotes(&self) -> String {
        format!("test.quotes.{}", self.suffix)
    }

    /// A server's settings for these topics.
    pub fn settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC_CHAT_MESSAGES", self.chat()),
            ("KAFKA_TOPIC_QUOTE_EVENTS", self.quotes()),
            ("KAFKA_GROUP_PREFIX", self.prefix()),
            ("KAFKA_PARTITIONS", "1".to_owned()),
        ];
        settings
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec()
    }

    /// As [`Kafka::settings`], for a server that soon gives up an append to a topic that is not there.
    pub fn hasty_settings(&self) -> Vec<(String, String)> {
        let hasty = ("KAFKA_DELIVERY_TIMEOUT_MS".to_owned(), "5000".to_owned());
        [self.settings(), vec![hasty]].concat()
    }

    fn prefix(&self) -> String {
        format!("test-{}.", self.suffix)
    }

    /// Sends values in one batch, without keys and headers, and waits until they are there.
    pub fn send(&self, topic: &str, values: &[&str]) {
        for value in values {
            let record = BaseRecord::<(), str>::to(topic).payload(value);
            assert!(self.producer.send(record).is_ok(), "{topic} takes {value}");
        }
        self.producer.flush(DEADLINE).expect("sent");
    }

    /// Sends one record with a key and a header.
    pub fn send_marked(&self, topic: &str, key: &str, header: (&str, &str), value: &[u8]) {
        let headers = OwnedHeaders::new().insert(Header {
            key: header.0,
            value: Some(header.1),
        });
        let record = BaseRecord::to(topic).key(key).payload(value);
        assert!(self.producer.send(record.headers(headers)).is_ok());
        self.producer.flush(DEADLINE).expect("sent");
    }

    /// The first `count` records of a topic of one partition, once they are there.
    pub async fn read(&self, topic: &str, count: usize) -> Vec<Raw> {
        let mut settings = client(&self.brokers);
        let group = format!("{}operator", self.prefix());
        settings
            .set("group.id", group)
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = settings.create().expect("a consumer");
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(topic, 0, Offset::Beginning)
            .expect("a place");
        consumer.assign(&place).expect("assigned");
        let what = format!("{count} records in {topic}");
        let reading = async {
            let mut records = Vec::new();
            while records.len() < count {
                match consumer.poll(Duration::ZERO) {
                    Some(Ok(message)) => records.push(raw(&message)),
                    Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
            records
        };
        within_for(3 * DEADLINE, &what, reading).await
    }

    /// How many records were ever written to a topic of one partition.
    pub fn end(&self, topic: &str) -> u64 {
        self.marks(topic).1
    }

    fn marks(&self, topic: &str) -> (u64, u64) {
        let consumer: BaseConsumer = client(&self.brokers).create().expect("a consumer");
        let marks = consumer.fetch_watermarks(topic, 0, DEADLINE);
        let (first, end) = marks.expect("its bounds");
        (first as u64, end as u64)
    }

    /// What the server's group has committed in a topic of one partition.
    pub fn committed(&self, group: &str, topic: &str) -> u64 {
        let mut settings = client(&self.brokers);
        settings.set("group.id", format!("{}{group}", self.prefix()));
        let asker: BaseConsumer = settings.create().expect("a consumer");
        let mut place = TopicPartitionList::new();
        place.add_partition(topic, 0);
        let places = asker.committed_offsets(place, DEADLINE).expect("an answer");
        match places.find_partition(topic, 0).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => offset as u64,
            _ => 0,
        }
    }

    /// Waits until the server's group has committed everything in a topic.
    pub async fn all_committed(&self, group: &str, topic: &str) {
        let what = format!("{group} to commit all of {topic}");
        let committed = async {
            while self.committed(group, topic) < self.end(topic) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within_for(3 * DEADLINE, &what, committed).await;
    }

    pub async fn delete(&self, topic: &str) {
        let deleted = self
            .admin()
            .delete_topics(&[topic], &AdminOptions::new())
            .await;
        assert!(deleted.is_ok_and(|results| results.iter().all(Result::is_ok)));
    }

    pub async fn create(&self, topic: &str) {
        let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let made = self
            .admin()
            .create_topics([&topic], &AdminOptions::new())
            .await;
        assert!(made.is_ok_and(|results| results.iter().all(Result::is_ok)));
    }

    /// Removes all records that are in a topic of one partition, as retention does.
    pub async fn expire(&self, topic: &str) {
        let mut place = TopicPartitionList::new();
        let end = Offset::Offset(self.end(topic) as i64);
        place.add_partition_offset(topic, 0, end).expect("a place");
        let removed = self
            .admin()
            .delete_records(&place, &AdminOptions::new())
            .await;
        removed.expect("removed");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        client(&self.brokers).create().expect("an admin client")
    }
}

/// Says on stderr that a test did not run, or fails when services are required.
pub fn skipped(variable: &str) {
    let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
    assert!(
        !required,
        "{variable} is not set, and services are required"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not by the macros: what they print is shown of failed tests only.
    let line = format!("skipped: {test} ({variable} is not set)\n");
    let written = std::io::stderr().write_all(line.as_bytes());
    written.expect("stderr");
}

fn client(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "50");
    client
}

fn raw(message: &impl Message) -> Raw {
    let headers = message.headers();
    let headers = headers.into_iter().flat_map(Headers::iter);
    Raw {
        key: message.key().unwrap_or_default().to_vec(),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: headers
            .map(|header| {
                let value = header.value.unwrap_or_default();
                let text = String::from_utf8_lossy(value).into_owned();
                (header.key.to_owned(), text)
            })
            .collect(),
    }
}
