//! What a crash leaves is cut; what is damaged is refused; a copy taken in mid-traffic opens.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::task::{JoinSet, yield_now};

use chat_svc::topic::journal::{Journal, OpenError};
use chat_svc::topic::{Topic, TopicError};

use crate::home::{GROUP, Home, all, append, append_singly, group, number, read, up_to};

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
async fn zeros_at_the_end_of_an_earlier_segment_are_no_damage_unless_a_block_is_missing() {
    let home = Home::new().segments_of(300);
    append_singly(&home.open(), 0..12).await;
    let file = &home.segments()[1];
    let mut bytes = fs::read(file).expect("reads");
    bytes.resize(bytes.len() + 5_000, 0);
    fs::write(file, &bytes).expect("writes");
    assert_eq!(all(&home.open()).await, up_to(12));
    bytes[SEGMENT_HEAD_BYTES..].fill(0);
    fs::write(file, &bytes).expect("writes");
    assert!(matches!(home.refused(), OpenError::Damaged { .. }));
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

/// As the format has it.
const SEGMENT_HEAD_BYTES: usize = 24;
