//! One process, bounded memory, bounded disk, and readers that never skip.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use chat_svc::topic::journal::OpenError;
use chat_svc::topic::{Outcome, Start, Topic, TopicError};

use crate::home::{GROUP, Home, all, append, append_singly, group, read, records, up_to};

#[tokio::test]
async fn a_folder_has_one_journal_at_a_time() {
    let home = Home::new();
    let journal = home.open();
    let error = home.refused();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    let path = home.path().to_str().expect("path");
    assert!(error.to_string().contains(path));
    let mut left_over = group(&journal).await;
    journal.close().await.expect("closes");
    let _second = home.open();
    let late = left_over.commit().await;
    assert!(matches!(late, Err(TopicError::Closed)), "{late:?}");
}

#[tokio::test]
async fn only_segments_that_every_group_has_archived_are_removed() {
    let home = Home::new().segments_of(300).keeping_nothing();
    let journal = home.open();
    let mut quick = group(&journal).await;
    let mut slow = journal.subscribe(Start::Group("slow")).await.expect("slow");
    append_singly(&journal, 0..20).await;
    let segments = journal.stats().segments;
    assert_eq!(read(&mut quick, 20).await, up_to(20));
    quick.commit().await.expect("commits");
    assert_eq!(read(&mut slow, 10).await, up_to(10));
    append_singly(&journal, 20..21).await;
    assert!(journal.stats().segments >= segments, "slow never committed");
    slow.commit().await.expect("commits");
    journal.close().await.expect("closes");
    drop(journal);
    let journal = home.open();
    assert!(journal.stats().segments < segments);
    let mut slow = journal.subscribe(Start::Group("slow")).await.expect("slow");
    assert_eq!(read(&mut slow, 11).await, (10..21).collect::<Vec<_>>());
}

#[tokio::test]
async fn archived_segments_are_kept_while_they_are_young_and_few() {
    let home = Home::new().segments_of(300);
    let journal = home.open();
    let mut archive = group(&journal).await;
    append_singly(&journal, 0..20).await;
    read(&mut archive, 20).await;
    archive.commit().await.expect("commits");
    append_singly(&journal, 20..40).await;
    let mut all = journal.subscribe(Start::Group("all")).await.expect("all");
    assert_eq!(read(&mut all, 40).await, up_to(40));
}

#[tokio::test]
async fn a_reader_that_retention_overtook_is_told() {
    let home = Home::new().segments_of(300).ring_of(1).keeping_nothing();
    let journal = home.open();
    let mut slow = journal.subscribe(Start::Latest).await.expect("subscribes");
    let mut archive = group(&journal).await;
    append_singly(&journal, 0..20).await;
    read(&mut archive, 20).await;
    archive.commit().await.expect("commits");
    append_singly(&journal, 20..40).await;
    let lost = slow.poll(&mut Vec::new(), 1).await;
    assert!(matches!(lost, Err(TopicError::Failed(_))), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_goes_from_memory_to_disk_and_back_without_a_seam() {
    let home = Home::new().segments_of(3_000).ring_of(2_000);
    let journal = Arc::new(home.open());
    let mut reader = journal.subscribe(Start::Latest).await.expect("subscribes");
    let mut appending = JoinSet::new();
    let topic = Arc::clone(&journal);
    appending.spawn(async move {
        for i in 0..200 {
            append(&topic, i * 5..i * 5 + 5).await;
        }
    });
    let mut seen = Vec::new();
    let mut sizes = [1, 7, 100].into_iter().cycle();
    while seen.len() < 1_000 {
        let count = sizes.next().unwrap_or(1).min(1_000 - seen.len());
        seen.extend(read(&mut reader, count).await);
    }
    appending.join_next().await.expect("one").expect("no panic");
    assert_eq!(seen, up_to(1_000));
    assert!(journal.stats().segments > 5);
}

#[tokio::test]
async fn a_full_queue_refuses_what_does_not_fit_and_keeps_the_order() {
    let home = Home::new().queue_of(2_000);
    let journal = home.open();
    let outcomes = journal.append(records(0..100)).await;
    let durable = outcomes
        .iter()
        .take_while(|o| matches!(o, Outcome::Appended(_)))
        .count();
    assert!((1..50).contains(&durable), "{durable}");
    let refused = |o: &Outcome| matches!(o, Outcome::NotAppended(TopicError::Unavailable(_)));
    assert!(outcomes[durable..].iter().all(refused));
    journal.close().await.expect("closes");
    assert_eq!(journal.stats().queued_bytes, 0);
    drop(journal);
    let journal = home.open();
    append(&journal, durable as u64..durable as u64 + 1).await;
    assert_eq!(all(&journal).await, up_to(durable as u64 + 1));
}

#[tokio::test]
async fn behind_finds_its_place_across_segments() {
    let home = Home::new().segments_of(300);
    let journal = home.open();
    append_singly(&journal, 0..20).await;
    let mut archive = group(&journal).await;
    read(&mut archive, 20).await;
    archive.commit().await.expect("commits");
    let behind = Start::Behind {
        group: GROUP,
        window: Duration::from_secs(3_600),
        records_max: 7,
    };
    let mut behind = journal.subscribe(behind).await.expect("subscribes");
    assert_eq!(read(&mut behind, 7).await, (13..20).collect::<Vec<_>>());
}
