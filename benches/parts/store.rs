//! Inserting messages into the store until they are durable: the embedded one with its sync to disk, and a real server
//! of MongoDB's protocol. One insert at a time; a batch is what the archive hands over at once. All messages are new.
//!
//! The server is the one that `TEST_MONGO_URI` names, without a user; the database `bench_…` is dropped afterwards.

use chat_svc::store::Store;
use chat_svc::store::embedded::EmbeddedStore;
use chat_svc::store::mongo::{MongoConfig, MongoStore};
use criterion::{Criterion, criterion_group};
use tokio::runtime::Runtime;

use crate::support::messages::Writer;
use crate::{batches, folder, runtime, service};

criterion_group! {
    name = benches;
    config = batches::criterion();
    targets = embedded, mongo
}

fn embedded(criterion: &mut Criterion) {
    let folder = folder();
    let store = EmbeddedStore::open(folder.path()).expect("a store");
    let runtime = runtime();
    insert((criterion, &runtime), "store/insert/embedded", &store);
    runtime.block_on(store.close()).expect("closes");
}

fn mongo(criterion: &mut Criterion) {
    let Some(server) = service("TEST_MONGO_URI", "store/insert/mongo") else {
        return;
    };
    let name = format!("bench_{:016x}", getrandom::u64().expect("random"));
    let uri = format!("{}/{name}", server.trim_end_matches('/'));
    let runtime = runtime();
    let store = runtime.block_on(MongoStore::open(MongoConfig::new(&uri)));
    let store = store.expect("a store");
    insert((criterion, &runtime), "store/insert/mongo", &store);
    runtime.block_on(async {
        store.close().await.expect("closes");
        let client = mongodb::Client::with_uri_str(&uri).await.expect("a client");
        client.database(&name).drop().await.expect("dropped");
    });
}

fn insert(on: (&mut Criterion, &Runtime), name: &str, store: &dyn Store) {
    let mut writer = Writer::new();
    let messages = |count| writer.messages(count);
    batches::bench(on, name, [1, 100, 1_000], messages, async |batch| {
        let done = store.insert_many(&batch).await.expect("stored");
        assert_eq!(done.inserted, batch.len());
    });
}
