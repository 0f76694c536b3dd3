//! Kafka behind TLS, passwords and tokens: the right ones open it, wrong ones end the start with one sentence.

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
#[path = "support/tokens.rs"]
mod tokens;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use smallvec::smallvec;

use broker::Broker;
use chat_svc::topic::kafka::{KafkaConfig, KafkaTopic, Security, TokenServer, TokenSource};
use chat_svc::topic::{Outcome, Record, Start, Subscription, Topic};
use support::server::Server;
use tokens::TokenEndpoint;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_kafka_only_when_they_are_right() {
    let Some(broker) = Broker::start_secured() else {
        return;
    };
    let topic = KafkaConfig {
        security: by_file(&broker.file("token")),
        ..own(&broker.tokens)
    };
    let write = |token: &str| std::fs::write(broker.file("token"), token).unwrap();
    let missing = refused(topic.clone()).await;
    assert!(missing.contains("cannot be read"), "{missing}");
    write(&tokens::unsecured(-5));
    let expired = refused(topic.clone()).await;
    assert!(expired.contains("expired"), "{expired}");
    made(&broker, &topic).await;
    write(&tokens::forged(600));
    let forged = refused(topic.clone()).await;
    assert!(forged.contains("does not accept us"), "{forged}");
    write(&tokens::unsecured(600));
    let unmade = refused(KafkaConfig {
        security: topic.security.clone(),
        ..own(&broker.tokens)
    });
    assert!(unmade.await.contains("make it before"));
    let opened = KafkaTopic::open(topic.clone()).await.expect("opens");
    appends_and_reads(&opened).await;
    let endpoint = TokenEndpoint::start(600).await;
    let stranger = refused(KafkaConfig {
        security: by_endpoint(&endpoint, "hunter2"),
        ..topic.clone()
    });
    let stranger = stranger.await;
    assert!(
        stranger.contains("401 Unauthorized, invalid_client"),
        "{stranger}"
    );
    assert!(!stranger.contains("hunter2"), "{stranger}");
    let security = by_endpoint(&endpoint, "right & good");
    let opened = KafkaTopic::open(KafkaConfig { security, ..topic }).await;
    appends_and_reads(&opened.expect("opens")).await;
    the_server_takes_tokens_too(&broker).await;
}

/// Connections end with the token they were opened by, so whoever goes on has shown another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_live_for_seconds_are_renewed_while_everything_goes_on() {
    let Some(broker) = Broker::start_secured() else {
        return;
    };
    let endpoint = TokenEndpoint::start(10).await;
    let topic = KafkaConfig {
        security: by_endpoint(&endpoint, "right & good"),
        ..own(&broker.tokens)
    };
    made(&broker, &topic).await;
    let topic = KafkaTopic::open(topic).await.expect("opens");
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    let member = topic.subscribe(Start::Group("archive")).await;
    let mut member = member.expect("subscribes");
    for round in 1..=3 {
        append(&topic).await;
        reads(&mut *tail).await;
        reads(&mut *member).await;
        member.commit().await.expect("commits");
        let bounds = topic.bounds("archive").await.expect("bounds");
        assert_eq!((bounds[0].committed, bounds[0].end), (round, round));
        // Clients that only ask renew their tokens when they are asked: the service asks them every second.
        let asking = async {
            loop {
                topic.bounds("archive").await.expect("bounds");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = endpoint.more(2) => {}
            () = asking => {}
        }
    }
    topic.close().await.expect("closes");
}

async fn the_server_takes_tokens_too(broker: &Broker) {
    // By the open door, so that its topics are made.
    drop(Server::start(&[("KAFKA_BROKERS", broker.address.as_str())]).await);
    let file = broker.file("token").display().to_string();
    let mut settings = vec![
        ("KAFKA_BROKERS", broker.tokens.as_str()),
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_MECHANISM", "OAUTHBEARER"),
    ];
    let (status, printed) = Server::start_refused(&settings).await;
    assert!(!status.success(), "{printed}");
    assert!(printed.contains("KAFKA_OAUTH_TOKEN_FILE"), "{printed}");
    settings.push(("KAFKA_OAUTH_TOKEN_FILE", file.as_str()));
    drop(Server::start(&settings).await);
    let forged = tokens::forged(600);
    std::fs::write(&file, &forged).unwrap();
    let (status, printed) = Server::start_refused(&settings).await;
    assert!(!status.success(), "{printed}");
    assert!(printed.contains("does not accept us"), "{printed}");
    assert!(!printed.contains(&forged), "{printed}");
}

fn by_file(file: &Path) -> Security {
    by_token(TokenSource::File(file.to_owned()))
}

fn by_endpoint(endpoint: &TokenEndpoint, secret: &str) -> Security {
    by_token(TokenSource::Server(TokenServer {
        url: endpoint.url.clone(),
        client_id: "chat".to_owned(),
        client_secret: secret.to_owned(),
        scope: Some("kafka".to_owned()),
    }))
}

fn by_token(source: TokenSource) -> Security {
    Security {
        protocol: "sasl_plaintext".to_owned(),
        mechanism: Some("OAUTHBEARER".to_owned()),
        tokens: Some(source),
        ..Security::default()
    }
}

/// By the open door.
async fn made(broker: &Broker, topic: &KafkaConfig) {
    let topic = KafkaTopic::open(KafkaConfig {
        brokers: broker.address.clone(),
        security: Security::default(),
        ..topic.clone()
    });
    let topic = topic.await.expect("opens");
    topic.close().await.expect("closes");
}

async fn appends_and_reads(topic: &KafkaTopic) {
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    append(topic).await;
    reads(&mut *tail).await;
    topic.close().await.expect("closes");
}

/// One record.
async fn reads(subscription: &mut dyn Subscription) {
    let mut batch = Vec::new();
    let read = support::within_for(
        Duration::from_secs(30),
        "a record",
        subscription.poll(&mut batch, 2),
    );
    read.await.expect("reads");
    assert_eq!(batch.len(), 1);
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
    append(&topic).await;
    topic.close().await.expect("closes");
}

async fn append(topic: &KafkaTopic) {
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
}

/// The sentence that says why.
async fn refused(config: KafkaConfig) -> String {
    let told = KafkaTopic::open(config).await.err().expect("refused");
    let told = told.to_string();
    assert!(!told.contains('\n'), "{told}");
    println!("{told}");
    told
}
