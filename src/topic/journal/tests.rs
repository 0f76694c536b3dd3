//! Faults of the disk, which no test from outside can cause.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;

#[tokio::test]
async fn a_failed_write_leaves_nothing_and_the_journal_recovers_when_space_returns() {
    let bench = Bench::new(1 << 20);
    bench.append(1, appended).await;
    bench.faults.writes.store(true, SeqCst);
    bench.append(3, not_appended_for_now).await;
    bench.append(2, not_appended_for_now).await;
    assert!(!bench.journal.stats().failed);
    bench.faults.writes.store(false, SeqCst);
    bench.append(2, appended).await;
    assert_eq!(bench.end_after_reopen(), 3);
}

#[tokio::test]
async fn a_failed_sync_is_unknown_and_fails_the_journal_for_good() {
    let bench = Bench::new(1 << 20);
    bench.append(1, appended).await;
    bench.faults.syncs_left.store(0, SeqCst);
    bench.append(3, unknown).await;
    bench.faults.syncs_left.store(usize::MAX, SeqCst);
    bench.append(2, not_appended_for_good).await;
    assert!(bench.journal.stats().failed);
    assert_eq!(bench.journal.stats().end, 1, "nobody saw what is unsure");
    let closed = bench.journal.close().await;
    assert!(matches!(closed, Err(TopicError::Failed(_))), "{closed:?}");
}

#[tokio::test]
async fn a_failed_write_that_cannot_be_undone_is_unknown() {
    let bench = Bench::new(1 << 20);
    bench.faults.writes.store(true, SeqCst);
    bench.faults.syncs_left.store(0, SeqCst);
    bench.append(1, unknown).await;
    bench.append(1, not_appended_for_good).await;
    assert_eq!(bench.end_after_reopen(), 0);
}

#[tokio::test]
async fn a_new_segment_that_cannot_be_synced_fails_the_journal_but_nothing_is_unknown() {
    let bench = Bench::new(64);
    bench.append(1, appended).await;
    bench.faults.syncs_left.store(0, SeqCst);
    bench.append(1, not_appended_for_good).await;
    assert_eq!(bench.end_after_reopen(), 1);
}

#[tokio::test]
async fn a_segment_that_cannot_be_created_is_passing() {
    let bench = Bench::new(64);
    bench.append(1, appended).await;
    let blocked = bench.folder.path().join("00000000000000000001.log");
    fs::create_dir(&blocked).expect("creates");
    bench.append(1, not_appended_for_now).await;
    fs::remove_dir(&blocked).expect("removes");
    bench.append(1, appended).await;
    assert_eq!(bench.journal.stats().segments, 2);
    assert_eq!(bench.end_after_reopen(), 2);
}

/// A journal on a disk that fails when told to.
struct Bench {
    folder: TempDir,
    journal: Journal,
    faults: Arc<Faults>,
}

struct Faults {
    /// Writes leave half of their bytes and fail.
    writes: AtomicBool,
    /// Syncs that succeed before all fail.
    syncs_left: AtomicUsize,
}

struct FaultyDisk(Arc<Faults>);

impl Disk for FaultyDisk {
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        if self.0.writes.load(SeqCst) {
            OsDisk.write(file, &bytes[..bytes.len() / 2], position)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        OsDisk.write(file, bytes, position)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let take_one = |left: usize| left.checked_sub(1);
        match self.0.syncs_left.fetch_update(SeqCst, SeqCst, take_one) {
            Ok(_) => OsDisk.sync(file),
            Err(_) => Err(io::Error::other("input/output error")),
        }
    }
}

impl Bench {
    fn new(segment_bytes_max: u64) -> Bench {
        let folder = tempfile::tempdir().expect("folder");
        let faults = Arc::new(Faults {
            writes: AtomicBool::new(false),
            syncs_left: AtomicUsize::new(usize::MAX),
        });
        let config = JournalConfig {
            segment_bytes_max,
            ..JournalConfig::new(folder.path())
        };
        let disk = Box::new(FaultyDisk(Arc::clone(&faults)));
        Bench {
            folder,
            journal: Journal::open_on(config, disk).expect("opens"),
            faults,
        }
    }

    async fn append(&self, count: usize, is_expected: fn(&Outcome) -> bool) {
        let record = Record {
            key: Bytes::new(),
            headers: Default::default(),
            value: Bytes::from_static(b"value"),
        };
        let outcomes = self.journal.append(vec![record; count]).await;
        assert_eq!(outcomes.len(), count);
        assert!(outcomes.iter().all(is_expected), "{outcomes:?}");
    }

    fn end_after_reopen(self) -> u64 {
        drop(self.journal);
        let again = Journal::open(JournalConfig::new(self.folder.path()));
        again.expect("opens").stats().end
    }
}

fn appended(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Appended(_))
}

fn unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown(TopicError::Failed(_)))
}

fn not_appended_for_now(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NotAppended(TopicError::Unavailable(_)))
}

fn not_appended_for_good(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NotAppended(TopicError::Failed(_)))
}
