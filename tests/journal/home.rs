//! Words for the sentences: a folder with a journal, and numbers as records.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use chat_svc::topic::journal::{Journal, JournalConfig, OpenError};
use chat_svc::topic::{Outcome, Record, Start, Subscription, Topic};

pub const GROUP: &str = "archive";

/// A folder and how to open it.
pub struct Home {
    pub config: JournalConfig,
    _folder: TempDir,
}

impl Home {
    pub fn new() -> Home {
        let folder = tempfile::tempdir().expect("folder");
        Home {
            config: JournalConfig::new(folder.path().join("journal")),
            _folder: folder,
        }
    }

    pub fn segments_of(mut self, bytes: u64) -> Home {
        self.config.segment_bytes_max = bytes;
        self
    }

    pub fn ring_of(mut self, bytes: usize) -> Home {
        self.config.ring_bytes_max = bytes;
        self
    }

    pub fn queue_of(mut self, bytes: usize) -> Home {
        self.config.queue_bytes_max = bytes;
        self
    }

    pub fn keeping_nothing(mut self) -> Home {
        self.config.retained_bytes_max = 0;
        self
    }

    pub fn path(&self) -> &Path {
        &self.config.path
    }

    pub fn open(&self) -> Journal {
        Journal::open(self.config.clone()).expect("opens")
    }

    pub fn refused(&self) -> OpenError {
        let opened = Journal::open(self.config.clone());
        opened.err().expect("refused")
    }

    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("folder");
        let paths = entries.map(|entry| entry.expect("entry").path());
        let mut logs: Vec<_> = paths.filter(|p| p.extension().is_some()).collect();
        logs.sort();
        logs
    }

    pub fn only_segment(&self) -> PathBuf {
        let mut segments = self.segments();
        assert_eq!(segments.len(), 1);
        segments.remove(0)
    }

    /// As a backup would, file by file, while the journal is in use.
    pub fn copy(&self) -> Home {
        let copy = Home::new();
        fs::create_dir(copy.path()).expect("creates");
        for file in self.segments() {
            let name = file.file_name().expect("name");
            fs::copy(&file, copy.path().join(name)).expect("copies");
        }
        copy
    }
}

pub fn up_to(end: u64) -> Vec<u64> {
    (0..end).collect()
}

pub fn records(numbers: Range<u64>) -> Vec<Record> {
    let record = |n: u64| Record {
        key: Bytes::from_static(b"k"),
        headers: Default::default(),
        value: Bytes::from(n.to_string()),
    };
    numbers.map(record).collect()
}

pub fn number(record: &Record) -> u64 {
    let text = str::from_utf8(&record.value).expect("text");
    text.parse().expect("a number")
}

/// One block, when nobody else appends.
pub async fn append(journal: &Journal, numbers: Range<u64>) {
    for outcome in journal.append(records(numbers)).await {
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
    }
}

/// One block a record.
pub async fn append_singly(journal: &Journal, numbers: Range<u64>) {
    for n in numbers {
        append(journal, n..n + 1).await;
    }
}

pub async fn group(journal: &Journal) -> Box<dyn Subscription> {
    let reader = journal.subscribe(Start::Group(GROUP)).await;
    reader.expect("subscribes")
}

pub async fn read(reader: &mut Box<dyn Subscription>, count: usize) -> Vec<u64> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let max = count - entries.len();
        reader.poll(&mut entries, max).await.expect("reads");
    }
    entries.iter().map(|entry| number(&entry.record)).collect()
}

/// All records, read by a group that never commits.
pub async fn all(journal: &Journal) -> Vec<u64> {
    let count = journal.stats().end as usize;
    let reader = journal.subscribe(Start::Group("all")).await;
    read(&mut reader.expect("subscribes"), count).await
}
