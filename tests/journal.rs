//! What the embedded log promises beyond the contract: crashes, damage, bounds.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};

use chat_svc::topic::journal::{Journal, JournalConfig, OpenError};
use chat_svc::topic::{Outcome, Record, Start, Subscription, Topic, TopicError};

#[tokio::test]
async fn what_was_appended_is_there_after_a_drop_without_close() {
    let home = Home::new();
    let journal = home.open();
    append(&journal, 0..5).await;
    let mut archive = group(&journal).await;
    assert_eq!(read(&mut archive, 3).await, [0, 1, 2]);
    archive.commit().await.expect("commits");
    drop(journal);
    let journal = home.open();
    assert_eq!(journal.stats().end, 5);
    append(&journal, 5..7).await;
    assert_eq!(read(&mut group(&journal).await, 4).await, [3, 4, 5, 6]);
    let bounds = journal.bounds(GROUP).await.expect("bounds");
    assert_eq!((bounds[0].committed, bounds[0].end), (3, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_folder_in_mid_traffic_opens_with_all_that_was_acknowledged() {
    let home = Home::new().segments_of(2_000);
    let journal = Arc::new(home.open());
    append(&journal, 0..50).await;
    let mut traffic = JoinSet::new();
    let appending = Arc::clone(&journal);
    traffic.spawn(async move { append_singly(&appending, 50..400).await });
    for _ in 0..10 {
        let acknowledged = journal.stats().end;
        let copy = home.copy();
        let opened = copy.open();
        let end = opened.stats().end;
        assert!(end >= acknowledged, "{end} of {acknowledged}");
        assert_eq!(all(&opened).await, up_to(end));
        yield_now().await;
    }
    traffic.join_next().await.expect("one").expect("no panic");
}

#[tokio::test]
async fn an_end_torn_at_any_byte_is_cut() {
    let (home, last) = three_blocks().await;
    let file = home.only_segment();
    let whole = fs::read(&file).expect("reads");
    for length in last..whole.len() {
        fs::write(&file, &whole[..length]).expect("writes");
        opens_with_two_blocks(&home, last).await;
    }
}

#[tokio::test]
async fn an_end_that_is_zero_from_any_byte_on_is_cut() {
    let (home, last) = three_blocks().await;
    let file = home.only_segment();
    let whole = fs::read(&file).expect("reads");
    for from in last..whole.len() {
        let mut torn = whole[..from].to_vec();
        torn.resize(whole.len() + 5_000, 0);
        fs::write(&file, torn).expect("writes");
        opens_with_two_blocks(&home, last).await;
    }
}

#[tokio::test]
async fn a_changed_byte_in_the_last_block_costs_that_block_only() {
    let (home, last) = three_blocks().await;
    let file = home.only_segment();
    let whole = fs::read(&file).expect("reads");
    for at in last..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&file, changed).expect("writes");
        opens_with_two_blocks(&home, last).await;
    }
}

#[tokio::test]
async fn a_changed_byte_before_good_blocks_is_refused_and_nothing_is_touched() {
    let (home, last) = three_blocks().await;
    let file = home.only_segment();
    let whole = fs::read(&file).expect("reads");
    for at in SEGMENT_HEAD_BYTES..last {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        fs::write(&file, &changed).expect("writes");
        let error = home.refused();
        let OpenError::Damaged { path, position, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(path, &file);
        assert!(*position as usize <= at);
        assert!(error.to_string().contains("00000000000000000000.log"));
        assert!(fs::read(&file).expect("reads") == changed, "byte {at}");
    }
}

#[tokio::test]
async fn a_damaged_head_of_a_segment_with_records_is_refused() {
    let (home, _) = three_blocks().await;
    let file = home.only_segment();
    for at in 0..SEGMENT_HEAD_BYTES as u64 {
        flip(&file, at);
        let error = home.refused();
        assert!(matches!(error, OpenError::Damaged { position: 0, .. }));
        flip(&file, at);
    }
    assert_eq!(all(&home.open()).await, up_to(9));
}

#[tokio::test]
async fn damage_in_an_earlier_segment_is_told_at_open_or_when_it_is_read() {
    let home = Home::new().segments_of(300).ring_of(1);
    append_singly(&home.open(), 0..12).await;
    let file = &home.segments()[1];
    flip(file, SEGMENT_HEAD_BYTES as u64);
    assert!(matches!(home.refused(), OpenError::Damaged { .. }));
    flip(file, SEGMENT_HEAD_BYTES as u64);
    flip(file, fs::metadata(file).expect("is there").len() - 1);
    let journal = home.open();
    let mut reader = group(&journal).await;
    let mut entries = Vec::new();
    let error = loop {
        if let Err(error) = reader.poll(&mut entries, 100).await {
            break error;
        }
    };
    let name = file.file_name().and_then(|n| n.to_str()).expect("name");
    assert!(
        matches!(&error, TopicError::Failed(what) if what.contains(name)),
        "{error}"
    );
    assert!(!entries.is_empty() && entries.len() < 12);
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let home = Home::new().segments_of(300);
    append_singly(&home.open(), 0..12).await;
    fs::remove_file(&home.segments()[1]).expect("removes");
    assert!(matches!(home.refused(), OpenError::Damaged { .. }));
}

#[tokio::test]
async fn a_segment_that_a_crash_left_half_created_is_made_anew() {
    let (home, _) = three_blocks().await;
    let head = fs::read(home.only_segment()).expect("reads")[..SEGMENT_HEAD_BYTES].to_vec();
    for length in 0..SEGMENT_HEAD_BYTES {
        for zeros in [0, 4_096] {
            let mut half = head[..length].to_vec();
            half.resize(length + zeros, 0);
            fs::write(home.path().join("00000000000000000009.log"), half).expect("writes");
            let journal = home.open();
            assert_eq!(journal.stats().segments, 2);
            assert_eq!(all(&journal).await, up_to(9));
        }
    }
    append(&home.open(), 9..10).await;
    assert_eq!(all(&home.open()).await, up_to(10));
}

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Refused, or a prefix of what was appended, and an error instead of a wrong record.
    #[test]
    fn no_damage_makes_records_up(
        damage in prop::collection::vec((any::<Index>(), any::<Index>(), 0..3u8), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("runtime").block_on(async {
            let home = Home::new().segments_of(300).ring_of(1);
            append_singly(&home.open(), 0..10).await;
            for (file, at, kind) in damage {
                let files = home.segments();
                harm(&files[file.index(files.len())], at, kind);
            }
            if let Ok(journal) = Journal::open(home.config.clone()) {
                tells_a_prefix_or_an_error(&journal).await;
            }
        });
    }
}

fn harm(file: &Path, at: Index, kind: u8) {
    let mut bytes = fs::read(file).expect("reads");
    let at = at.index(bytes.len() + 1);
    match kind {
        0 => bytes.truncate(at),
        1 => bytes[at..].fill(0),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 4),
    }
    fs::write(file, bytes).expect("writes");
}

async fn tells_a_prefix_or_an_error(journal: &Journal) {
    let mut reader = group(journal).await;
    journal.close().await.expect("closes");
    let mut entries = Vec::new();
    let ended = loop {
        if let Err(error) = reader.poll(&mut entries, 3).await {
            break error;
        }
    };
    let seen: Vec<u64> = entries.iter().map(|e| number(&e.record)).collect();
    let count = seen.len() as u64;
    assert_eq!(seen, up_to(count));
    let complete = count == journal.stats().end && matches!(ended, TopicError::Closed);
    assert!(complete || matches!(ended, TopicError::Failed(_)));
}

// === Words for the sentences ===

const GROUP: &str = "archive";
const SEGMENT_HEAD_BYTES: usize = 24;

/// A folder and how to open it.
struct Home {
    config: JournalConfig,
    _folder: TempDir,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().expect("folder");
        Home {
            config: JournalConfig::new(folder.path().join("journal")),
            _folder: folder,
        }
    }

    fn segments_of(mut self, bytes: u64) -> Home {
        self.config.segment_bytes_max = bytes;
        self
    }

    fn ring_of(mut self, bytes: usize) -> Home {
        self.config.ring_bytes_max = bytes;
        self
    }

    fn queue_of(mut self, bytes: usize) -> Home {
        self.config.queue_bytes_max = bytes;
        self
    }

    fn keeping_nothing(mut self) -> Home {
        self.config.retained_bytes_max = 0;
        self
    }

    fn path(&self) -> &Path {
        &self.config.path
    }

    fn open(&self) -> Journal {
        Journal::open(self.config.clone()).expect("opens")
    }

    fn refused(&self) -> OpenError {
        let opened = Journal::open(self.config.clone());
        opened.err().expect("refused")
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("folder");
        let paths = entries.map(|entry| entry.expect("entry").path());
        let mut logs: Vec<_> = paths.filter(|p| p.extension().is_some()).collect();
        logs.sort();
        logs
    }

    fn only_segment(&self) -> PathBuf {
        let mut segments = self.segments();
        assert_eq!(segments.len(), 1);
        segments.remove(0)
    }

    /// As a backup would, file by file, while the journal is in use.
    fn copy(&self) -> Home {
        let copy = Home::new();
        fs::create_dir(copy.path()).expect("creates");
        for file in self.segments() {
            let name = file.file_name().expect("name");
            fs::copy(&file, copy.path().join(name)).expect("copies");
        }
        copy
    }
}

/// Nine records in three blocks, closed; and where the last block begins.
async fn three_blocks() -> (Home, usize) {
    let home = Home::new();
    let journal = home.open();
    append(&journal, 0..3).await;
    append(&journal, 3..6).await;
    let last = journal.stats().bytes_on_disk as usize;
    append(&journal, 6..9).await;
    drop(journal);
    (home, last)
}

async fn opens_with_two_blocks(home: &Home, bytes: usize) {
    let journal = home.open();
    assert_eq!(journal.stats().bytes_on_disk, bytes as u64);
    assert_eq!(all(&journal).await, up_to(6));
    let file = fs::metadata(home.only_segment()).expect("is there");
    assert_eq!(file.len(), bytes as u64);
}

fn flip(file: &Path, at: u64) {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(file).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
}

fn up_to(end: u64) -> Vec<u64> {
    (0..end).collect()
}

fn records(numbers: Range<u64>) -> Vec<Record> {
    let record = |n: u64| Record {
        key: Bytes::from_static(b"k"),
        headers: Default::default(),
        value: Bytes::from(n.to_string()),
    };
    numbers.map(record).collect()
}

fn number(record: &Record) -> u64 {
    let text = str::from_utf8(&record.value).expect("text");
    text.parse().expect("a number")
}

/// One block, when nobody else appends.
async fn append(journal: &Journal, numbers: Range<u64>) {
    for outcome in journal.append(records(numbers)).await {
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
    }
}

/// One block a record.
async fn append_singly(journal: &Journal, numbers: Range<u64>) {
    for n in numbers {
        append(journal, n..n + 1).await;
    }
}

async fn group(journal: &Journal) -> Box<dyn Subscription> {
    let reader = journal.subscribe(Start::Group(GROUP)).await;
    reader.expect("subscribes")
}

async fn read(reader: &mut Box<dyn Subscription>, count: usize) -> Vec<u64> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let max = count - entries.len();
        reader.poll(&mut entries, max).await.expect("reads");
    }
    entries.iter().map(|entry| number(&entry.record)).collect()
}

/// All records, read by a group that never commits.
async fn all(journal: &Journal) -> Vec<u64> {
    let count = journal.stats().end as usize;
    let reader = journal.subscribe(Start::Group("all")).await;
    read(&mut reader.expect("subscribes"), count).await
}
