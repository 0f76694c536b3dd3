//! Appending to the log, until it is durable: to the journal with its sync to disk, to a real Kafka, and to memory for
//! what an append costs without either. One append at a time; a batch is what a lane hands over at once.
//!
//! Kafka is the one that `TEST_KAFKA_BROKERS` names; the topic `bench.…` is deleted afterwards.

use chat_svc::topic::journal::{Journal, JournalConfig};
use chat_svc::topic::kafka::{KafkaConfig, KafkaTopic};
use chat_svc::topic::memory::Memory;
use chat_svc::topic::{Outcome, Topic};
use criterion::{Criterion, criterion_group};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tokio::runtime::Runtime;

use crate::support::messages::Writer;
use crate::{batches, folder, runtime, service};

criterion_group! {
    name = benches;
    config = batches::criterion();
    targets = memory, journal, kafka
}

fn memory(criterion: &mut Criterion) {
    let log = Memory::new(10_000);
    append((criterion, &runtime()), "topic/append/memory", &log);
}

fn journal(criterion: &mut Criterion) {
    let folder = folder();
    let journal = Journal::open(JournalConfig::new(folder.path())).expect("a journal");
    let runtime = runtime();
    append((criterion, &runtime), "topic/append/journal", &journal);
    runtime.block_on(journal.close()).expect("closes");
}

fn kafka(criterion: &mut Criterion) {
    let Some(brokers) = service("TEST_KAFKA_BROKERS", "topic/append/kafka") else {
        return;
    };
    let name = format!("bench.{:016x}", getrandom::u64().expect("random"));
    let runtime = runtime();
    let topic = runtime.block_on(KafkaTopic::open(KafkaConfig::new(&brokers, &name)));
    let topic = topic.expect("a topic");
    append((criterion, &runtime), "topic/append/kafka", &topic);
    runtime.block_on(async {
        topic.close().await.expect("closes");
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &brokers);
        let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
        let deleted = admin.delete_topics(&[&name], &AdminOptions::new()).await;
        assert!(deleted.is_ok_and(|results| results.iter().all(Result::is_ok)));
    });
}

fn append(on: (&mut Criterion, &Runtime), name: &str, topic: &dyn Topic) {
    let mut writer = Writer::new();
    let mut records = Vec::new();
    // Copied for each append, which shares their bytes.
    let batch = |count| {
        if records.len() != count {
            records = writer.records(count);
        }
        records.clone()
    };
    batches::bench(on, name, [1, 32, 512], batch, async |batch| {
        let count = batch.len();
        let outcomes = topic.append(batch).await;
        let is_in = |outcome| matches!(outcome, Outcome::Appended(_));
        assert_eq!(outcomes.len(), count);
        assert!(outcomes.into_iter().all(is_in), "not all are in the log");
    });
}
