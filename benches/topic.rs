//! Appending to the log, until it is durable: to the journal with its sync to disk, to a real Kafka, and to memory for
//! what an append costs without either. One append at a time; a batch is what a lane hands over at once.
//!
//! Kafka is the one that `TEST_KAFKA_BROKERS` names; the topic `bench.…` is deleted afterwards.

mod support;

use std::time::{Duration, Instant};

use chat_svc::topic::journal::{Journal, JournalConfig};
use chat_svc::topic::kafka::{KafkaConfig, KafkaTopic};
use chat_svc::topic::memory::Memory;
use chat_svc::topic::{Outcome, Topic};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tokio::runtime::Runtime;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = memory, journal, kafka
}
criterion_main!(benches);

fn memory(criterion: &mut Criterion) {
    append(
        criterion,
        &support::runtime(),
        "memory",
        &Memory::new(10_000),
    );
}

fn journal(criterion: &mut Criterion) {
    let folder = support::folder();
    let journal = Journal::open(JournalConfig::new(folder.path())).expect("a journal");
    let runtime = support::runtime();
    append(criterion, &runtime, "journal", &journal);
    runtime.block_on(journal.close()).expect("closes");
}

fn kafka(criterion: &mut Criterion) {
    let Some(brokers) = support::service("TEST_KAFKA_BROKERS", "append/kafka") else {
        return;
    };
    let name = format!("bench.{:016x}", getrandom::u64().expect("random"));
    let runtime = support::runtime();
    let topic = runtime.block_on(KafkaTopic::open(KafkaConfig::new(&brokers, &name)));
    let topic = topic.expect("a topic");
    append(criterion, &runtime, "kafka", &topic);
    runtime.block_on(async {
        topic.close().await.expect("closes");
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &brokers);
        let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
        let deleted = admin.delete_topics(&[&name], &AdminOptions::new()).await;
        assert!(deleted.is_ok_and(|results| results.iter().all(Result::is_ok)));
    });
}

fn append(criterion: &mut Criterion, runtime: &Runtime, name: &str, topic: &dyn Topic) {
    let mut group = criterion.benchmark_group(format!("append/{name}"));
    group.sampling_mode(SamplingMode::Flat);
    let mut writer = support::Writer::new();
    for records in [1, 32, 512] {
        // Copied for each append, which shares their bytes.
        let batch = writer.records(records);
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(records.to_string(), |bencher| {
            bencher.iter_custom(|appends| {
                runtime.block_on(async {
                    let mut spent = Duration::ZERO;
                    for _ in 0..appends {
                        let batch = batch.clone();
                        let started = Instant::now();
                        let outcomes = topic.append(batch).await;
                        spent += started.elapsed();
                        let is_in = |outcome| matches!(outcome, Outcome::Appended(_));
                        assert_eq!(outcomes.len(), records);
                        assert!(outcomes.into_iter().all(is_in), "not all are in the log");
                    }
                    spent
                })
            });
        });
    }
    group.finish();
}
