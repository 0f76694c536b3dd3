//! Partitions: which records go to which, and which member of a group reads them.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::time::timeout;

use crate::support;
use crate::{Told, append_to_all_partitions, archive, number, open, read, record, sorted};
use chat_svc::topic::kafka::KafkaConfig;
use chat_svc::topic::{Outcome, Start, Topic, TopicError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_between_members_of_a_group_and_nothing_is_missed() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = open(KafkaConfig {
        partitions: 4,
        ..config
    })
    .await;
    let mut first = archive(&topic).await;
    append_to_all_partitions(&topic, 0..200).await;
    assert_eq!(
        sorted(read(&mut first, 200).await),
        (0..200).collect::<Vec<_>>()
    );
    first.commit().await.expect("commits");
    let mut second = archive(&topic).await;
    // The second is a member once it has got something; what the first reads until then it commits.
    let mut seen = BTreeSet::new();
    let mut of_second = Vec::new();
    let mut sent = 200;
    while of_second.is_empty() {
        append_to_all_partitions(&topic, sent..sent + 20).await;
        sent += 20;
        let mut of_first = Vec::new();
        tokio::select! {
            polled = second.poll(&mut of_second, 100) => polled.expect("reads"),
            polled = first.poll(&mut of_first, 100) => {
                polled.expect("reads");
                seen.extend(of_first.iter().map(|entry| number(&entry.record)));
                // A member that has just lost partitions may be told so; those records are read again.
                let _ = first.commit().await;
            }
        }
    }
    seen.extend(of_second.iter().map(|entry| number(&entry.record)));
    drop(first);
    while seen.len() < sent - 200 {
        let mut more = Vec::new();
        second.poll(&mut more, 100).await.expect("reads");
        seen.extend(more.iter().map(|entry| number(&entry.record)));
    }
    assert!(seen.into_iter().eq(200..sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_topic_ends_an_archive_that_has_read_all() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = open(KafkaConfig {
        partitions: 3,
        ..config
    })
    .await;
    let mut archive = archive(&topic).await;
    let mut told = Told::default();
    told.append(&topic, 0..10).await;
    assert_eq!(read(&mut archive, 10).await, (0..10).collect::<Vec<_>>());
    archive.commit().await.expect("commits");
    topic.close().await.expect("closes");
    let ended = archive.poll(&mut Vec::new(), 1).await;
    assert!(matches!(ended, Err(TopicError::Closed)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_lets_records_gather_gets_few_in_time_and_many_at_once() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = open(KafkaConfig {
        partitions: 3,
        gather: Duration::from_millis(100),
        ..config
    })
    .await;
    let mut archive = archive(&topic).await;
    let mut told = Told::default();
    // One alone, and the last before a close, wait for no others.
    told.append(&topic, 0..1).await;
    assert_eq!(read(&mut archive, 1).await, [0]);
    append_to_all_partitions(&topic, 1..20_000).await;
    let read = sorted(read(&mut archive, 19_999).await);
    assert!(read.into_iter().eq(1..20_000));
    archive.commit().await.expect("commits");
    told.append(&topic, 20_000..20_001).await;
    topic.close().await.expect("closes");
    let mut last = Vec::new();
    archive.poll(&mut last, 9).await.expect("reads the last");
    assert_eq!(number(&last[0].record), 20_000);
    let ended = archive.poll(&mut last, 9).await;
    assert!(matches!(ended, Err(TopicError::Closed)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_many_partitions_are_read_where_they_were_appended() {
    let Some(config) = support::config() else {
        return;
    };
    let partitions = 4;
    let topic = open(KafkaConfig {
        partitions,
        ..config
    })
    .await;
    let mut tail = topic.subscribe(Start::Latest).await.expect("subscribes");
    let records = (0..200).map(|n| record(&n.to_string(), n)).collect();
    let outcomes = topic.append(records).await;
    let appended = outcomes.iter().map(|outcome| match outcome {
        Outcome::Appended(position) => *position,
        other => panic!("{other:?}"),
    });
    let appended: Vec<_> = appended.collect();
    let used: BTreeSet<_> = appended.iter().map(|at| at.partition).collect();
    assert_eq!(used.len(), partitions as usize);
    let mut entries = Vec::new();
    while entries.len() < appended.len() {
        tail.poll(&mut entries, 200).await.expect("reads");
    }
    for entry in entries {
        assert_eq!(entry.position, appended[number(&entry.record)]);
    }
}

/// What a pause holds is forgotten by nobody but the member, whoever has the partitions meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_were_lost_while_paused_are_read_when_they_come_back() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = open(KafkaConfig {
        partitions: 4,
        ..config
    })
    .await;
    let mut first = archive(&topic).await;
    append_to_all_partitions(&topic, 0..100).await;
    read(&mut first, 100).await;
    first.commit().await.expect("commits");
    // More batches than wait for a reader: the first member pauses, and then only answers the group.
    let mut sent = 100;
    for _ in 0..100 {
        append_to_all_partitions(&topic, sent..sent + 20).await;
        sent += 20;
    }
    let mut second = archive(&topic).await;
    let mut taken = Vec::new();
    let joined = timeout(Duration::from_secs(30), second.poll(&mut taken, 10));
    joined.await.expect("the second joins").expect("reads");
    drop(second);
    let last = sent..sent + 100;
    append_to_all_partitions(&topic, last.clone()).await;
    let mut seen = BTreeSet::new();
    let all = async {
        while !last.clone().all(|number| seen.contains(&number)) {
            seen.extend(read(&mut first, 1).await);
        }
    };
    let read = timeout(Duration::from_secs(60), all).await;
    assert!(
        read.is_ok(),
        "of the last 100 it read {}",
        seen.range(sent..).count()
    );
}

/// Hears where a plain producer's records went.
struct Places(std::sync::mpsc::SyncSender<(usize, i32)>);

impl rdkafka::ClientContext for Places {}

impl ProducerContext for Places {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let message = result.as_ref().expect("delivered");
        let key = std::str::from_utf8(message.key().unwrap_or_default()).expect("text");
        let _ = self
            .0
            .send((key.parse().expect("a number"), message.partition()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_go_where_other_producers_send_them() {
    let Some(config) = support::config() else {
        return;
    };
    let topic = open(KafkaConfig {
        partitions: 7,
        ..config.clone()
    })
    .await;
    let (sender, places) = std::sync::mpsc::sync_channel(200);
    let mut other = ClientConfig::new();
    other.set("bootstrap.servers", &config.brokers);
    other.set("partitioner", "murmur2_random");
    let other: BaseProducer<Places> = other
        .create_with_context(Places(sender))
        .expect("a producer");
    for key in (0..200).map(|number| number.to_string()) {
        let plain = BaseRecord::to(&config.topic).key(&key).payload("");
        assert!(other.send(plain).is_ok());
    }
    other.flush(config.delivery_timeout).expect("sent");
    drop(other);
    let records = (0..200).map(|number| record(&number.to_string(), number));
    let ours = topic.append(records.collect()).await;
    let theirs: std::collections::BTreeMap<usize, i32> = places.iter().collect();
    assert_eq!(theirs.len(), 200);
    for (number, outcome) in ours.iter().enumerate() {
        let Outcome::Appended(place) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(theirs[&number], place.partition as i32, "{number}");
    }
}
