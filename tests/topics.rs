//! The contract of `Topic`, which every implementation must keep: the same sentences for each.

#[path = "support/kafka.rs"]
mod on_kafka;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use smallvec::smallvec;
use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};

use chat_svc::topic::journal::{Journal, JournalConfig, RECORD_BYTES_MAX};
use chat_svc::topic::kafka::KafkaTopic;
use chat_svc::topic::memory::Memory;
use chat_svc::topic::{
    Bounds, Entry, Outcome, Position, Record, Start, Subscription, Topic, TopicError, header,
};

/// An empty topic of its own for one test.
struct Home {
    topic: Arc<dyn Topic>,
    /// Key, headers and value of one record at most.
    record_bytes_max: usize,
    _folder: Option<TempDir>,
}

async fn memory() -> Option<Home> {
    Some(Home {
        topic: Arc::new(Memory::new(100_000)),
        record_bytes_max: chat_svc::topic::memory::RECORD_BYTES_MAX,
        _folder: None,
    })
}

async fn journal() -> Option<Home> {
    journal_in(|config| config)
}

/// Nearly every block begins a segment, and readers find next to nothing in memory.
async fn journal_from_disk() -> Option<Home> {
    journal_in(|config| JournalConfig {
        segment_bytes_max: 200,
        ring_bytes_max: 1,
        ..config
    })
}

fn journal_in(change: impl FnOnce(JournalConfig) -> JournalConfig) -> Option<Home> {
    let folder = tempfile::tempdir().expect("folder");
    let config = change(JournalConfig::new(folder.path()));
    Some(Home {
        topic: Arc::new(Journal::open(config).expect("opens")),
        record_bytes_max: RECORD_BYTES_MAX,
        _folder: Some(folder),
    })
}

/// On a real Kafka, where there is one.
async fn kafka() -> Option<Home> {
    let topic = KafkaTopic::open(on_kafka::config()?).await.expect("opens");
    Some(Home {
        record_bytes_max: topic.record_bytes_max(),
        topic: Arc::new(topic),
        _folder: None,
    })
}

macro_rules! contract {
    ($($sentence:ident)*) => {
        contract!(memory: $($sentence)*);
        contract!(journal: $($sentence)*);
        contract!(journal_from_disk: $($sentence)*);
        contract!(kafka: $($sentence)*);
    };
    ($home:ident: $($sentence:ident)*) => {
        mod $home {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                if let Some(home) = super::$home().await {
                    super::$sentence(home).await;
                }
            })*
        }
    };
}

contract! {
    a_batch_keeps_its_order
    each_record_has_its_outcome
    concurrent_appends_keep_the_order_of_each_key
    every_subscription_sees_all_from_its_start
    latest_sees_only_what_is_new
    a_group_goes_on_after_its_commit_and_rereads_what_it_did_not_commit
    groups_do_not_disturb_each_other
    behind_goes_back_by_count_and_age_and_takes_part_in_no_group
    bounds_tell_commit_and_end
    poll_waits_for_the_next_record
    a_dropped_poll_loses_nothing
    a_dropped_append_is_not_undone
    max_is_honoured
    all_of_a_record_comes_back
    records_up_to_the_limit_fit_and_larger_ones_are_refused_alone
    close_refuses_appends_and_ends_readers_at_the_end
}

async fn a_batch_keeps_its_order(home: Home) {
    let mut reader = subscribe(&home, Start::Latest).await;
    let values = numbers(0..500);
    append(&home, &values).await;
    assert_eq!(read(&mut reader, 500).await, values);
}

async fn each_record_has_its_outcome(home: Home) {
    assert!(home.topic.append(vec![]).await.is_empty());
    let first = append(&home, &numbers(0..3)).await;
    let second = append(&home, &numbers(0..2)).await;
    let all: Vec<Position> = first.into_iter().chain(second).collect();
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
}

async fn concurrent_appends_keep_the_order_of_each_key(home: Home) {
    const APPENDERS: usize = 8;
    const BATCHES: usize = 20;
    let mut reader = subscribe(&home, Start::Latest).await;
    let mut appenders = JoinSet::new();
    for appender in 0..APPENDERS {
        let topic = Arc::clone(&home.topic);
        appenders.spawn(async move {
            let mut places = Vec::new();
            for batch in 0..BATCHES {
                let values = numbers(batch * 5..batch * 5 + 5);
                let records = values.iter().map(|v| record(&appender.to_string(), v));
                let outcomes = topic.append(records.collect()).await;
                places.extend(outcomes.into_iter().map(appended));
            }
            (appender, places)
        });
    }
    let mut entries = Vec::new();
    while entries.len() < APPENDERS * BATCHES * 5 {
        reader.poll(&mut entries, 64).await.expect("reads");
    }
    while let Some(done) = appenders.join_next().await {
        let (appender, places) = done.expect("no panic");
        let key = appender.to_string();
        let of_key = entries.iter().filter(|e| e.record.key == key);
        let (seen, values): (Vec<_>, Vec<_>) =
            of_key.map(|e| (e.position, text(&e.record))).unzip();
        assert_eq!(seen, places, "read where it was appended");
        assert_eq!(values, numbers(0..BATCHES * 5));
    }
}

async fn every_subscription_sees_all_from_its_start(home: Home) {
    let mut early = subscribe(&home, Start::Latest).await;
    append(&home, &numbers(0..10)).await;
    let mut late = subscribe(&home, Start::Latest).await;
    let mut group = subscribe(&home, Start::Group("archive")).await;
    append(&home, &numbers(10..20)).await;
    assert_eq!(read(&mut early, 20).await, numbers(0..20));
    assert_eq!(read(&mut group, 20).await, numbers(0..20));
    assert_eq!(read(&mut late, 10).await, numbers(10..20));
}

async fn latest_sees_only_what_is_new(home: Home) {
    append(&home, &numbers(0..10)).await;
    let mut reader = subscribe(&home, Start::Latest).await;
    assert!(poll_once(&mut reader).is_empty());
    append(&home, &numbers(10..11)).await;
    assert_eq!(read(&mut reader, 1).await, numbers(10..11));
}

async fn a_group_goes_on_after_its_commit_and_rereads_what_it_did_not_commit(home: Home) {
    append(&home, &numbers(0..10)).await;
    let mut first = subscribe(&home, Start::Group("archive")).await;
    assert_eq!(read(&mut first, 4).await, numbers(0..4));
    first.commit().await.expect("commits");
    assert_eq!(read(&mut first, 3).await, numbers(4..7));
    drop(first);
    let mut second = subscribe(&home, Start::Group("archive")).await;
    assert_eq!(read(&mut second, 6).await, numbers(4..10));
}

async fn groups_do_not_disturb_each_other(home: Home) {
    append(&home, &numbers(0..10)).await;
    let mut archive = subscribe(&home, Start::Group("archive")).await;
    read(&mut archive, 10).await;
    archive.commit().await.expect("commits");
    let mut quotes = subscribe(&home, Start::Group("quotes")).await;
    assert_eq!(read(&mut quotes, 10).await, numbers(0..10));
}

async fn behind_goes_back_by_count_and_age_and_takes_part_in_no_group(home: Home) {
    append(&home, &numbers(0..10)).await;
    let mut archive = subscribe(&home, Start::Group("archive")).await;
    read(&mut archive, 8).await;
    archive.commit().await.expect("commits");
    let behind = |hours: u64, records_max| Start::Behind {
        group: "archive",
        window: Duration::from_secs(3_600 * hours),
        records_max,
    };
    let mut three = subscribe(&home, behind(1, 3)).await;
    assert_eq!(read(&mut three, 5).await, numbers(5..10));
    three.commit().await.expect("does nothing");
    let mut all = subscribe(&home, behind(1, 100)).await;
    assert_eq!(read(&mut all, 10).await, numbers(0..10));
    for nothing in [behind(1, 0), behind(0, 100)] {
        let mut reader = subscribe(&home, nothing).await;
        assert_eq!(read(&mut reader, 2).await, numbers(8..10));
    }
}

async fn bounds_tell_commit_and_end(home: Home) {
    assert_eq!(bounds(&home).await, (0, 0));
    append(&home, &numbers(0..10)).await;
    let mut archive = subscribe(&home, Start::Group("archive")).await;
    read(&mut archive, 4).await;
    assert_eq!(bounds(&home).await, (0, 10));
    archive.commit().await.expect("commits");
    assert_eq!(bounds(&home).await, (4, 10));
}

async fn poll_waits_for_the_next_record(home: Home) {
    let mut reader = subscribe(&home, Start::Latest).await;
    assert!(poll_once(&mut reader).is_empty());
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { read(&mut reader, 1).await });
    yield_now().await;
    append(&home, &numbers(0..1)).await;
    let read = waiting.join_next().await.expect("one").expect("no panic");
    assert_eq!(read, numbers(0..1));
}

async fn a_dropped_poll_loses_nothing(home: Home) {
    let mut reader = subscribe(&home, Start::Latest).await;
    let mut seen = Vec::new();
    for i in 0..100 {
        seen.extend(poll_once(&mut reader));
        append(&home, &numbers(i..i + 1)).await;
        seen.extend(poll_once(&mut reader));
    }
    let missing = 100 - seen.len();
    seen.extend(read(&mut reader, missing).await);
    assert_eq!(seen, numbers(0..100));
}

async fn a_dropped_append_is_not_undone(home: Home) {
    let mut reader = subscribe(&home, Start::Latest).await;
    let append = home.topic.append(vec![record("k", "kept")]);
    drop(append.now_or_never());
    assert_eq!(read(&mut reader, 1).await, ["kept"]);
}

async fn max_is_honoured(home: Home) {
    let mut reader = subscribe(&home, Start::Latest).await;
    append(&home, &numbers(0..10)).await;
    let mut entries = Vec::new();
    while entries.len() < 10 {
        let before = entries.len();
        reader.poll(&mut entries, 3).await.expect("reads");
        assert!((1..=3).contains(&(entries.len() - before)));
    }
    assert!(entries.iter().map(|e| text(&e.record)).eq(numbers(0..10)));
}

async fn all_of_a_record_comes_back(home: Home) {
    let full = Record {
        key: Bytes::from_static(b"conversation"),
        headers: smallvec![
            (Cow::Borrowed(header::MESSAGE_ID), Bytes::from_static(b"1")),
            (Cow::Borrowed(header::RECIPIENTS), Bytes::from_static(b"[]")),
            (Cow::Borrowed(header::TYPE), Bytes::new()),
            (Cow::Borrowed("fremd-\u{fc}"), Bytes::from_static(&[0, 255])),
        ],
        value: Bytes::from_static(&[0, 1, 254, 255]),
    };
    let records = vec![full, record("", ""), record("", "")];
    let mut reader = subscribe(&home, Start::Latest).await;
    home.topic.append(records.clone()).await;
    let mut entries = Vec::new();
    while entries.len() < 3 {
        reader.poll(&mut entries, 3).await.expect("reads");
    }
    assert!(
        entries
            .into_iter()
            .map(|entry| Record::clone(&entry.record))
            .eq(records)
    );
}

async fn records_up_to_the_limit_fit_and_larger_ones_are_refused_alone(home: Home) {
    let sized = |bytes: usize| record("k", &"x".repeat(bytes - 1));
    let mut reader = subscribe(&home, Start::Latest).await;
    let limit = home.record_bytes_max;
    let (small, larger) = (record("k", "small"), sized(limit + 1));
    let batch = vec![larger.clone(), small, sized(limit), larger];
    let outcomes = home.topic.append(batch).await;
    let refused = |outcome| matches!(outcome, &Outcome::NotAppended(TopicError::TooLarge));
    let refusals: Vec<bool> = outcomes.iter().map(refused).collect();
    assert_eq!(refusals, [true, false, false, true], "{outcomes:?}");
    let lengths = read(&mut reader, 2).await.into_iter().map(|v| v.len());
    assert!(lengths.eq([5, limit - 1]));
}

async fn close_refuses_appends_and_ends_readers_at_the_end(home: Home) {
    let mut reader = subscribe(&home, Start::Latest).await;
    let mut waiting = subscribe(&home, Start::Latest).await;
    append(&home, &numbers(0..10)).await;
    read(&mut waiting, 10).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { waiting.poll(&mut Vec::new(), 1).await });
    home.topic.close().await.expect("closes");
    home.topic.close().await.expect("closes again");
    let ended = tasks.join_next().await.expect("one").expect("no panic");
    assert!(matches!(ended, Err(TopicError::Closed)), "{ended:?}");
    let late = home.topic.append(vec![record("k", "late")]).await;
    assert!(matches!(
        late[..],
        [Outcome::NotAppended(TopicError::Closed)]
    ));
    assert_eq!(read(&mut reader, 10).await, numbers(0..10));
    let ended = reader.poll(&mut Vec::new(), 1).await;
    assert!(matches!(ended, Err(TopicError::Closed)), "{ended:?}");
}

// === Words for the sentences ===

fn numbers(range: Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn record(key: &str, value: &str) -> Record {
    Record {
        key: Bytes::copy_from_slice(key.as_bytes()),
        headers: smallvec![],
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.to_vec()).expect("text")
}

async fn append(home: &Home, values: &[String]) -> Vec<Position> {
    let records = values.iter().map(|value| record("k", value));
    let outcomes = home.topic.append(records.collect()).await;
    assert_eq!(outcomes.len(), values.len());
    outcomes.into_iter().map(appended).collect()
}

fn appended(outcome: Outcome) -> Position {
    let Outcome::Appended(position) = outcome else {
        unreachable!("not appended: {outcome:?}");
    };
    position
}

async fn subscribe(home: &Home, start: Start) -> Box<dyn Subscription> {
    home.topic.subscribe(start).await.expect("subscribes")
}

/// Committed and end, of the only partition.
async fn bounds(home: &Home) -> (u64, u64) {
    let bounds = home.topic.bounds("archive").await.expect("bounds");
    assert_eq!(bounds.len(), 1);
    let ends = home.topic.ends(Duration::from_secs(10)).await;
    assert_eq!(ends.expect("ends"), [bounds[0].end]);
    let Bounds {
        partition,
        committed,
        end,
    } = bounds[0];
    assert_eq!(partition, 0);
    (committed, end)
}

/// The next `count` values.
async fn read(reader: &mut Box<dyn Subscription>, count: usize) -> Vec<String> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let max = count - entries.len();
        reader.poll(&mut entries, max).await.expect("reads");
    }
    assert!(entries.is_sorted_by(|a: &Entry, b| a.position < b.position));
    entries.iter().map(|entry| text(&entry.record)).collect()
}

/// What a poll that is dropped at once finds.
fn poll_once(reader: &mut Box<dyn Subscription>) -> Vec<String> {
    let mut entries = Vec::new();
    if let Some(polled) = reader.poll(&mut entries, 100).now_or_never() {
        polled.expect("reads");
    }
    entries.iter().map(|entry| text(&entry.record)).collect()
}
