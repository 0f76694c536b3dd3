//! Faults of the disk, which no test from outside can cause.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use segment::SEGMENT_HEAD_BYTES;

const DEADLINE: Duration = Duration::from_secs(10);
/// As the format has them.
const BLOCK_HEAD_BYTES: usize = 32;
/// Of the bench's.
const RECORD_BYTES: usize = 17;

#[tokio::test]
async fn readers_see_what_was_appended_by_a_call_that_was_answered_and_never_looked() {
    let bench = Bench::new(1 << 20);
    let mut reader = bench.journal.subscribe(Start::Latest).await.expect("reads");
    let answered = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&answered));
    let mut context = Context::from_waker(&waker);
    // A call that the disk overtakes has looked: then another.
    let mut has_looked = true;
    while has_looked {
        let mut entries = Vec::new();
        let mut reading = reader.poll(&mut entries, 100);
        let waits = reading
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(waits.is_pending());
        let mut append = bench.journal.append(vec![record()]);
        has_looked = append.as_mut().poll(&mut context).is_ready();
        if !has_looked {
            answered.0.notified().await;
        }
        drop(append);
        let told = tokio::time::timeout(DEADLINE, reading).await;
        told.expect("readers are told").expect("reads");
    }
}

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

#[tokio::test]
async fn small_blocks_are_written_over_zeros_and_large_ones_lengthen_the_file() {
    let bench = Bench::new(64 << 20);
    let zeros = committer::ZEROS.len() as u64;
    bench.append(1, appended).await;
    let prepared = bench.file_bytes();
    assert_eq!(prepared, SEGMENT_HEAD_BYTES + zeros);
    bench.append(1, appended).await;
    assert_eq!(bench.file_bytes(), prepared, "no length to make durable");
    let largest = (committer::SMALL_BLOCK_BYTES as usize - BLOCK_HEAD_BYTES) / RECORD_BYTES;
    loop {
        let left = (prepared - bench.journal.stats().bytes_on_disk) as usize;
        match left.saturating_sub(BLOCK_HEAD_BYTES) / RECORD_BYTES {
            0 => break,
            count => bench.append(count.min(largest), appended).await,
        }
        assert_eq!(bench.file_bytes(), prepared);
    }
    bench.append(largest + 1, appended).await;
    let lengthened = bench.journal.stats().bytes_on_disk;
    assert_eq!(bench.file_bytes(), lengthened, "a large block");
    bench.append(largest, appended).await;
    assert_eq!(bench.file_bytes(), lengthened + zeros, "a small one");
    let end = bench.journal.stats().end;
    assert_eq!(bench.end_after_crash().await, end);
}

#[tokio::test]
async fn a_segment_that_is_full_or_closed_has_no_zeros() {
    let bench = Bench::new(200);
    for _ in 0..8 {
        bench.append(2, appended).await;
    }
    assert!(bench.journal.stats().segments > 1);
    let bytes = bench.journal.stats().bytes_on_disk;
    bench.journal.close().await.expect("closes");
    assert_eq!(bench.file_bytes(), bytes);
    assert_eq!(bench.end_after_reopen(), 16);
}

#[tokio::test]
async fn zeros_for_which_there_was_no_space_are_cut_too() {
    let bench = Bench::new(200 << 10);
    bench.faults.zeros.store(true, SeqCst);
    bench.append(1, appended).await;
    assert!(bench.file_bytes() > bench.journal.stats().bytes_on_disk);
    // More than there is room for behind the first.
    bench.append((200 << 10) / RECORD_BYTES, appended).await;
    assert_eq!(bench.journal.stats().segments, 2);
    let end = bench.journal.stats().end;
    assert_eq!(bench.end_after_crash().await, end);
    assert_eq!(bench.file_bytes(), bench.journal.stats().bytes_on_disk);
}

#[tokio::test]
async fn a_segment_that_a_crash_left_half_removed_is_gone_after_the_next_start() {
    let bench = Bench::new(64);
    bench.append(1, appended).await;
    bench.append(1, appended).await;
    bench.journal.close().await.expect("closes");
    let folder = bench.folder.path();
    let rest = folder.join("00000000000000000000.removed");
    fs::write(&rest, b"half of it").expect("writes");
    assert_eq!(bench.end_after_reopen(), 2);
    assert!(!rest.exists());
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
    /// The same, but for zeros only.
    zeros: AtomicBool,
    /// Syncs that succeed before all fail.
    syncs_left: AtomicUsize,
}

struct FaultyDisk(Arc<Faults>);

impl Disk for FaultyDisk {
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        let is_zeros = bytes.iter().all(|byte| *byte == 0);
        if self.0.writes.load(SeqCst) || is_zeros && self.0.zeros.load(SeqCst) {
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
            zeros: AtomicBool::new(false),
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
        let outcomes = self.journal.append(vec![record(); count]).await;
        assert_eq!(outcomes.len(), count);
        assert!(outcomes.iter().all(is_expected), "{outcomes:?}");
    }

    /// Of all segments.
    fn file_bytes(&self) -> u64 {
        let files = fs::read_dir(self.folder.path()).expect("reads");
        let files = files.map(|file| file.expect("reads"));
        let segments = files.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
        let bytes = segments.map(|file| file.metadata().expect("is there").len());
        bytes.sum()
    }

    /// Opens a copy of what is on the disk now.
    async fn end_after_crash(&self) -> u64 {
        let copy = tempfile::tempdir().expect("folder");
        for file in fs::read_dir(self.folder.path()).expect("reads") {
            let file = file.expect("reads");
            if file.path().is_file() {
                fs::copy(file.path(), copy.path().join(file.file_name())).expect("copies");
            }
        }
        let again = Journal::open(JournalConfig::new(copy.path())).expect("opens");
        let end = again.stats().end;
        let mut reader = again.subscribe(Start::Group("all")).await.expect("reads");
        let mut entries = Vec::new();
        while (entries.len() as u64) < end {
            reader.poll(&mut entries, 1_000).await.expect("sound");
        }
        end
    }

    fn end_after_reopen(self) -> u64 {
        drop(self.journal);
        let again = Journal::open(JournalConfig::new(self.folder.path()));
        again.expect("opens").stats().end
    }
}

fn record() -> Record {
    Record {
        key: Bytes::new(),
        headers: Default::default(),
        value: Bytes::from_static(b"value"),
    }
}

/// Hears when a future is to be polled again.
#[derive(Default)]
struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
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
