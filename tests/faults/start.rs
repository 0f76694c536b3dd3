//! Services that are not there, or not what they were: one sentence that says which, an exit code, in bounded time.

use std::process::ExitStatus;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use tokio::net::TcpListener;

use crate::away::Broker;
use crate::support::server::Server;
use crate::support::services::{self, borrowed, kafka_at, unique};

#[tokio::test]
async fn a_broker_that_is_not_there_is_told() {
    let refused = refused(&[("KAFKA_BROKERS", NOBODY)]).await;
    assert_told(&refused, &["KAFKA_BROKERS", NOBODY, "refused"]);
}

#[tokio::test]
async fn a_broker_that_never_answers_is_told() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let refused = refused(&[("KAFKA_BROKERS", &address)]).await;
    assert_told(&refused, &["KAFKA_BROKERS", &address]);
}

#[tokio::test]
async fn a_mongodb_that_is_not_there_is_told() {
    let uri = format!("mongodb://ann:secret@{NOBODY}/");
    let refused = refused(&[("MONGO_URI", &uri)]).await;
    assert_told(&refused, &["MONGO_URI", NOBODY, "refused"]);
}

#[tokio::test]
async fn a_mongodb_that_never_answers_is_told() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let refused = refused(&[("MONGO_URI", &format!("mongodb://{address}/"))]).await;
    assert_told(&refused, &["MONGO_URI", &address]);
}

#[tokio::test]
async fn an_address_that_is_none_is_told_at_once() {
    let brokers = refused(&[("KAFKA_BROKERS", "no:address:this")]).await;
    assert_told(&brokers, &["KAFKA_BROKERS"]);
    let uri = refused(&[("MONGO_URI", "http://127.0.0.1/")]).await;
    assert_told(&uri, &["MONGO_URI", "not valid"]);
}

#[tokio::test]
async fn credentials_that_mongodb_does_not_know_are_told() {
    let Some(store) = services::mongo() else {
        return;
    };
    let (_, host) = store[0].1.split_once("://").unwrap();
    let host = host.split('/').next().unwrap();
    let uri = format!("mongodb://ann:secret@{host}/?authMechanism=SCRAM-SHA-256");
    let refused = refused(&[("MONGO_URI", &uri)]).await;
    assert_told(&refused, &["MONGO_URI", host, "credentials"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_kafka_does_not_know_are_told_and_the_right_ones_work() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let mut settings = kafka_at(&broker.guarded, &unique());
    for (name, value) in [
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ("KAFKA_SASL_USERNAME", "chat"),
        ("KAFKA_SASL_PASSWORD", "right"),
    ] {
        settings.push((name.into(), value.into()));
    }
    Server::start(&borrowed(&settings)).await;
    settings.push(("KAFKA_SASL_PASSWORD".into(), "secret".into()));
    let refused = Server::start_refused(&borrowed(&settings)).await;
    assert_told(
        &refused,
        &["KAFKA_BROKERS", &broker.guarded, "uthentication"],
    );
}

#[tokio::test]
async fn a_topic_that_got_more_partitions_is_refused_until_the_epoch_is_raised() {
    let Some(log) = services::kafka() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    drop(Server::start_in(root.path(), &borrowed(&log)).await);
    let topic = &log
        .iter()
        .find(|(name, _)| name.contains("CHAT"))
        .unwrap()
        .1;
    widen(&log[0].1, topic, 5).await;
    let refused = Server::start_refused_in(root.path(), &borrowed(&log)).await;
    assert_told(&refused, &[topic, "3 partitions", "5", "LOG_EPOCH"]);
    let raised = [log, vec![("LOG_EPOCH".into(), "2".into())]].concat();
    Server::start_in(root.path(), &borrowed(&raised)).await;
}

async fn widen(brokers: &str, topic: &str, partitions: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let more = NewPartitions::new(topic, partitions);
    let options = AdminOptions::new();
    let done = admin.create_partitions([&more], &options).await.unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

async fn refused(settings: &[(&str, &str)]) -> (ExitStatus, String) {
    let settings = [settings, &[("START_TIMEOUT_MS", "2000")]].concat();
    Server::start_refused(&settings).await
}

/// Exit code 1, and one sentence with these words and no password.
fn assert_told((status, output): &(ExitStatus, String), words: &[&str]) {
    assert_eq!(status.code(), Some(1), "{output}");
    let sentences: Vec<_> = output
        .lines()
        .filter_map(|line| line.strip_prefix("err: chat-svc: "))
        .collect();
    assert_eq!(sentences.len(), 1, "{output}");
    for word in words {
        assert!(sentences[0].contains(word), "{word}: {}", sentences[0]);
    }
    assert!(
        !output.contains("secret") && !output.contains("panicked"),
        "{output}"
    );
    println!("{}", sentences[0]);
}

const NOBODY: &str = "127.0.0.1:1";
