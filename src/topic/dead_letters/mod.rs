//! Dead letters: records that can never be taken, kept beside the log with why and whence, for people to look at.
//!
//! Whoever reads a topic writes them before it commits its place, and waits as long as they cannot be written: nothing
//! disappears in silence. At least once: what was perhaps written is written again.

mod file;
mod letter;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

pub use self::file::LetterFile;
pub use self::letter::{Cause, Letter};

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::topic::{Outcome, Topic, TopicError};

/// The dead letters of one topic.
pub struct DeadLetters {
    origin: Box<str>,
    place: LetterPlace,
    metrics: Arc<Metrics>,
}

/// Where they are kept.
#[derive(Clone)]
pub enum LetterPlace {
    /// In a topic of this name.
    Topic(String, Arc<dyn Topic>),
    File(Arc<LetterFile>),
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name, _) => write!(f, "topic {name}"),
            Self::File(file) => write!(f, "{}", file.path().display()),
        }
    }
}

impl DeadLetters {
    /// `origin`: the topic that the records were read from.
    pub fn new(origin: &str, place: LetterPlace, metrics: Arc<Metrics>) -> Self {
        Self {
            origin: origin.into(),
            place,
            metrics,
        }
    }

    /// Where they are kept, for people.
    pub fn place(&self) -> &LetterPlace {
        &self.place
    }

    /// Writes all of them, as often as it takes, with growing pauses; all are durable when this returns. Dropping the
    /// future leaves open which of them are written.
    pub async fn keep(&self, letters: Vec<Letter>) {
        let Some(first) = letters.first() else {
            return;
        };
        tracing::warn!(
            topic = &*self.origin, records = letters.len(), first = ?first.entry().position, cause = %first.cause(),
            "records that can never be taken go to the dead letters"
        );
        let mut left = letters;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut waits = false;
        while let Err(cause) = self.write(&mut left).await {
            self.metrics.dead_letter_retries.inc();
            if !waits {
                waits = true;
                tracing::error!(
                    place = %self.place, cause, topic = &*self.origin,
                    "dead letters cannot be written, and their topic is not read on until they can: \
                     make the place writable"
                );
            }
            backoff.rest().await;
        }
        if waits {
            tracing::info!(place = %self.place, "dead letters can be written again");
        }
    }

    /// Writes them once. Those that are durable leave `left`; why the others are not, when there are any.
    async fn write(&self, left: &mut Vec<Letter>) -> Result<(), String> {
        let written = match &self.place {
            LetterPlace::Topic(_, topic) => self.append(&**topic, left).await,
            LetterPlace::File(file) => self.add_lines(file, left).await,
        };
        if left.is_empty() { Ok(()) } else { written }
    }

    async fn append(&self, topic: &dyn Topic, left: &mut Vec<Letter>) -> Result<(), String> {
        let records = left.iter().map(|letter| letter.record(&self.origin));
        let mut outcomes = topic.append(records.collect()).await.into_iter();
        let mut written = Ok(());
        left.retain_mut(|letter| {
            let fault = match outcomes.next() {
                Some(Outcome::Appended(_)) => {
                    self.count(letter);
                    return false;
                }
                Some(Outcome::NotAppended(TopicError::TooLarge)) => {
                    letter.cut();
                    TopicError::TooLarge
                }
                Some(Outcome::NotAppended(error) | Outcome::Unknown(error)) => error,
                None => TopicError::Closed,
            };
            written = Err(fault.to_string());
            true
        });
        written
    }

    async fn add_lines(
        &self,
        file: &Arc<LetterFile>,
        left: &mut Vec<Letter>,
    ) -> Result<(), String> {
        while !left.is_empty() {
            let mut bytes = 0;
            let some = left.iter().take_while(|letter| {
                let is_first = bytes == 0;
                bytes += letter.entry().record.size().max(1);
                is_first || bytes <= WRITE_BYTES
            });
            let lines: Vec<_> = some.map(|letter| letter.line(&self.origin)).collect();
            let file = Arc::clone(file);
            let appended = spawn_blocking(move || file.append(&lines)).await;
            let appended = appended.map_err(|error| error.to_string())?;
            let count = appended.map_err(|error| error.to_string())?;
            for letter in left.drain(..count) {
                self.count(&letter);
            }
        }
        Ok(())
    }

    fn count(&self, letter: &Letter) {
        self.metrics
            .dead_lettered(&self.origin, letter.cause().label());
    }
}

/// Bytes of records written to a file at once. One larger is written alone.
const WRITE_BYTES: usize = 4 << 20;

/// First and longest pause before letters are written again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;

    use super::*;
    use crate::topic::memory::Memory;
    use crate::topic::reluctant::Reluctant;
    use crate::topic::{Entry, Position, Record, SharedRecord, Start};

    fn letter(value: &'static [u8]) -> Letter {
        let entry = Entry {
            position: Position {
                partition: 0,
                offset: 1,
            },
            time_ms: 0,
            record: SharedRecord::from(Record {
                key: Bytes::new(),
                headers: Default::default(),
                value: Bytes::from_static(value),
            }),
        };
        Letter::new(entry, Cause::Unreadable("no message".to_owned()))
    }

    #[tokio::test]
    async fn letters_are_written_as_often_as_it_takes_and_each_once() {
        let reluctant = Arc::new(Reluctant {
            topic: Memory::new(10),
            refusals: AtomicUsize::new(1),
            bytes_max: 40_000,
        });
        let metrics = Arc::new(Metrics::new(&[]));
        let place = LetterPlace::Topic("t.dlq".to_owned(), reluctant.clone());
        let dead = DeadLetters::new("t", place, metrics.clone());
        dead.keep(vec![letter(b"small"), letter(&[b'x'; 100_000])])
            .await;
        let mut kept = Vec::new();
        let mut reader = reluctant.subscribe(Start::Group("operator")).await.unwrap();
        reader.poll(&mut kept, 10).await.unwrap();
        let values: Vec<_> = kept.iter().map(|entry| entry.record.value.len()).collect();
        assert_eq!(
            values,
            [5, 32_768],
            "the large one was cut until it was taken"
        );
        let text = metrics.encode();
        for line in [
            "chat_dead_letters_total{topic=\"t\",cause=\"unreadable\"} 2",
            "chat_dead_letter_retries_total 3",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[tokio::test]
    async fn a_full_file_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let line = letter(b"1").line("t");
        let file = Arc::new(LetterFile::new(
            folder.path().join("letters"),
            2 * line.len() as u64,
        ));
        let metrics = Arc::new(Metrics::new(&[]));
        let dead = DeadLetters::new("t", LetterPlace::File(file.clone()), metrics.clone());
        let mut keeping = std::pin::pin!(dead.keep(vec![letter(b"1"), letter(b"2"), letter(b"3")]));
        let tries = metrics.dead_letter_retries.clone();
        tokio::select! {
            () = &mut keeping => panic!("there is room for two"),
            () = async { while tries.get() < 3 { tokio::time::sleep(RETRY.0).await } } => {}
        }
        let read = || {
            std::fs::read_to_string(file.path())
                .unwrap()
                .lines()
                .count()
        };
        assert_eq!(read(), 2);
        std::fs::remove_file(file.path()).unwrap();
        keeping.await;
        assert_eq!(read(), 1);
    }
}
