//! Kafka behind TLS and passwords: the right ones open it, wrong ones end the start with one sentence.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod on_kafka;
mod support;

use std::time::Duration;

use bytes::Bytes;
use smallvec::smallvec;

use broker::Broker;
use chat_svc::topic::kafka::{KafkaConfig, KafkaTopic, Security};
use chat_svc::topic::{Outcome, Record, Topic};
use support::server::Server;

const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_passwords_open_kafka_only_when_they_are_right() {
    let Some(broker) = Broker::start_secured() else {
        return;
    };
    for mechanism in MECHANISMS {
        appends(KafkaConfig {
            security: by_password(&broker, mechanism, "right"),
            ..own(&broker.secured)
        })
        .await;
        let told = refused(KafkaConfig {
            security: by_password(&broker, mechanism, "wrong"),
            ..own(&broker.secured)
        });
        assert!(told.await.contains("does not accept us"), "{mechanism}");
    }
    let stranger = Security {
        ca_file: Some(broker.file("other.pem")),
        ..by_password(&broker, "PLAIN", "right")
    };
    let told = refused(KafkaConfig {
        security: stranger,
        start_timeout: Duration::from_secs(3),
        ..own(&broker.secured)
    });
    assert!(
        told.await.contains("certificate"),
        "a broker nobody vouches for"
    );
    let plain = refused(KafkaConfig {
        start_timeout: Duration::from_secs(3),
        ..own(&broker.secured)
    });
    assert!(plain.await.contains("cannot be reached"));
    let mutual = Security {
        protocol: "ssl".to_owned(),
        ca_file: Some(broker.file("ca.pem")),
        cert_file: Some(broker.file("client.pem")),
        key_file: Some(broker.file("client.key")),
        ..Security::default()
    };
    appends(KafkaConfig {
        security: mutual.clone(),
        ..own(&broker.mutual)
    })
    .await;
    let anonymous = Security {
        cert_file: None,
        key_file: None,
        ..mutual
    };
    refused(KafkaConfig {
        security: anonymous,
        start_timeout: Duration::from_secs(3),
        ..own(&broker.mutual)
    })
    .await;
    the_server_says_so_too(&broker).await;
}

/// By its own knobs, as an operator sets them.
async fn the_server_says_so_too(broker: &Broker) {
    let ca = broker.file("ca.pem").display().to_string();
    let settings = |password| {
        [
            ("KAFKA_BROKERS", broker.secured.as_str()),
            ("KAFKA_SECURITY_PROTOCOL", "sasl_ssl"),
            ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
            ("KAFKA_SASL_USERNAME", "chat"),
            ("KAFKA_SASL_PASSWORD", password),
            ("KAFKA_SSL_CA", ca.as_str()),
        ]
    };
    let started = Server::start(&settings("right")).await;
    drop(started);
    let (status, printed) = Server::start_refused(&settings("hunter2")).await;
    assert!(!status.success(), "{printed}");
    assert!(printed.contains("does not accept us"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
}

fn by_password(broker: &Broker, mechanism: &str, password: &str) -> Security {
    Security {
        protocol: "sasl_ssl".to_owned(),
        mechanism: Some(mechanism.to_owned()),
        username: Some("chat".to_owned()),
        password: Some(password.to_owned()),
        ca_file: Some(broker.file("ca.pem")),
        ..Security::default()
    }
}

fn own(address: &str) -> KafkaConfig {
    KafkaConfig {
        start_timeout: Duration::from_secs(60),
        ..on_kafka::own(address)
    }
}

async fn appends(config: KafkaConfig) {
    let topic = KafkaTopic::open(config).await.expect("opens");
    let record = Record {
        key: Bytes::from_static(b"k"),
        headers: smallvec![],
        value: Bytes::from_static(b"v"),
    };
    let outcomes = topic.append(vec![record]).await;
    assert!(
        matches!(outcomes[..], [Outcome::Appended(_)]),
        "{outcomes:?}"
    );
    topic.close().await.expect("closes");
}

/// The sentence that says why.
async fn refused(config: KafkaConfig) -> String {
    let told = KafkaTopic::open(config).await.err().expect("refused");
    let told = told.to_string();
    assert!(!told.contains('\n'), "{told}");
    println!("{told}");
    told
}
