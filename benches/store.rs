//! Inserting messages into the store until they are durable: the embedded one with its sync to disk, and a real server
//! of MongoDB's protocol. One insert at a time; a batch is what the archive hands over at once. All messages are new.
//!
//! The server is the one that `TEST_MONGO_URI` names, without a user; the database `bench_…` is dropped afterwards.

mod support;

use std::time::{Duration, Instant};

use chat_svc::store::Store;
use chat_svc::store::embedded::EmbeddedStore;
use chat_svc::store::mongo::{MongoConfig, MongoStore};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = embedded, mongo
}
criterion_main!(benches);

fn embedded(criterion: &mut Criterion) {
    let folder = support::folder();
    let store = EmbeddedStore::open(folder.path()).expect("a store");
    let runtime = support::runtime();
    insert(criterion, &runtime, "embedded", &store);
    runtime.block_on(store.close()).expect("closes");
}

fn mongo(criterion: &mut Criterion) {
    let Some(server) = support::service("TEST_MONGO_URI", "insert/mongo") else {
        return;
    };
    let name = format!("bench_{:016x}", getrandom::u64().expect("random"));
    let uri = format!("{}/{name}", server.trim_end_matches('/'));
    let runtime = support::runtime();
    let store = runtime.block_on(MongoStore::open(MongoConfig::new(&uri)));
    let store = store.expect("a store");
    insert(criterion, &runtime, "mongo", &store);
    runtime.block_on(async {
        store.close().await.expect("closes");
        let client = mongodb::Client::with_uri_str(&uri).await.expect("a client");
        client.database(&name).drop().await.expect("dropped");
    });
}

fn insert(criterion: &mut Criterion, runtime: &Runtime, name: &str, store: &dyn Store) {
    let mut group = criterion.benchmark_group(format!("insert/{name}"));
    group.sampling_mode(SamplingMode::Flat);
    let mut writer = support::Writer::new();
    for messages in [1, 100, 1_000] {
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(messages.to_string(), |bencher| {
            bencher.iter_custom(|inserts| {
                let mut spent = Duration::ZERO;
                for _ in 0..inserts {
                    let batch = writer.messages(messages);
                    let started = Instant::now();
                    let done = runtime.block_on(store.insert_many(&batch));
                    spent += started.elapsed();
                    assert_eq!(done.expect("stored").inserted, messages);
                }
                spent
            });
        });
    }
    group.finish();
}
