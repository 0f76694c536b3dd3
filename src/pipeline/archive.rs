//! From the log into the store, in batches: insert, tell history that the store has it, and commit a little later.
//!
//! What can never be stored becomes a dead letter before the commit; while letters cannot be written, the archive
//! waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::backoff::Backoff;
use crate::chat::message::Message;
use crate::drain::{Drain, Stage};
use crate::history::History;
use crate::metrics::Metrics;
use crate::store::{Inserted, Store};
use crate::topic::dead_letters::{Cause, DeadLetters, Letter};
use crate::topic::{Entry, Position, Subscription, TopicError};

/// The group whose commits say what the store has.
pub const GROUP: &str = "archive";

/// Longest time from one insert to the next when little comes; at higher rates it is that in which most of a batch
/// comes. Only a report of spam waits for the archive, and ends the rest (history reads what is not in the store from
/// the tail), so it is worth more to insert, and sync, many at once.
const PERIOD_MAX: Duration = Duration::from_millis(500);

/// How much of a batch: what comes a little faster than before still fits.
const FILL: f64 = 0.9;

/// Bytes of records that are a batch, however few: a reader of the log returns 4 MiB at once, or little more.
const BATCH_BYTES: usize = 3 << 20;

/// How long what is stored waits to be committed, with what comes after it. A commit to Kafka is a round trip; a crash
/// costs as much reading again, and inserts that find everything there.
const COMMIT_EVERY: Duration = Duration::from_millis(200);

/// How long after one that failed.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// First and longest pause before an insert, or a read of the log, is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Reads the log in a group of its own and inserts every message into the store.
pub struct Archive {
    pub subscription: Box<dyn Subscription>,
    pub store: Arc<dyn Store>,
    /// Where records go that are no message, or that the store refuses for good.
    pub dead_letters: DeadLetters,
    pub history: Arc<History>,
    pub metrics: Arc<Metrics>,
    pub batch_max: usize,
    pub drain: Drain,
}

impl Archive {
    /// Runs until the log is closed and everything in it is stored and committed, or it cannot be read any more.
    pub async fn run(mut self) -> Result<(), TopicError> {
        let mut entries = Vec::new();
        let mut backoff = None;
        let mut began = Instant::now();
        let mut partitions = Vec::new();
        // When what was stored since the last commit is to be committed.
        let mut due: Option<Instant> = None;
        loop {
            entries.clear();
            let is_due = |due| due <= Instant::now() || !self.drain.is_running();
            if due.is_some_and(is_due) {
                due = self.commit().await;
            }
            let drain = self.drain.clone();
            let polled = tokio::select! {
                biased;
                polled = self.subscription.poll(&mut entries, self.batch_max) => polled,
                () = until(due, &drain), if due.is_some() => continue,
            };
            match polled {
                Ok(()) => {
                    backoff = None;
                    let came = Came::of(&entries, began.elapsed());
                    began = Instant::now();
                    self.archive(&entries).await;
                    due.get_or_insert_with(|| Instant::now() + COMMIT_EVERY);
                    note_partitions(&mut partitions, &entries);
                    entries.clear();
                    if !self.is_behind(came, &partitions) {
                        self.rest(began + came.period(self.batch_max), &mut due)
                            .await;
                    }
                }
                Err(TopicError::Closed) => {
                    if due.is_some() {
                        self.commit().await;
                    }
                    return Ok(());
                }
                Err(error @ TopicError::Failed(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read");
                    let backoff = backoff.get_or_insert(Backoff::new(RETRY.0, RETRY.1));
                    backoff.rest().await;
                }
            }
        }
    }

    /// Whether there is a batch to be inserted already.
    fn is_behind(&self, came: Came, partitions: &[u32]) -> bool {
        let waiting = partitions.iter().map(|of| self.history.lag_of(*of));
        came.bytes >= BATCH_BYTES || waiting.sum::<u64>() >= self.batch_max as u64
    }

    /// Until `end`, unless somebody waits or the stop begins; with a commit when it is due.
    async fn rest(&mut self, end: Instant, due: &mut Option<Instant>) {
        if let Some(at) = due.filter(|at| *at < end) {
            if !rested(at, &self.history, &self.drain).await {
                return;
            }
            *due = self.commit().await;
        }
        rested(end, &self.history, &self.drain).await;
    }

    /// When to try again: a commit that fails or is lost only means that these are read again, and found to be there,
    /// but other nodes take from it what the store has. In Kafka it fails while the group changes.
    async fn commit(&mut self) -> Option<Instant> {
        let error = self.subscription.commit().await.err()?;
        tracing::warn!(%error, "the archive's place was not committed");
        let is_running = self.drain.is_running();
        is_running.then(|| Instant::now() + COMMIT_AGAIN)
    }

    /// Every record ends in the store or among the dead letters; then it leaves history's tail, and may be committed.
    async fn archive(&mut self, entries: &[Entry]) {
        let mut letters = Vec::new();
        let mut messages: Vec<Message> = Vec::with_capacity(entries.len());
        let mut read: Vec<&Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.history.read(entry) {
                Ok(message) => {
                    messages.push(message);
                    read.push(entry);
                }
                Err(why) => {
                    let cause = Cause::Unreadable(why.to_string());
                    letters.push(Letter::new(entry.clone(), cause));
                }
            }
        }
        let started = Instant::now();
        let inserted = insert(&*self.store, &messages, &self.metrics).await;
        self.metrics.archive_batch.observe(messages.len() as f64);
        self.metrics
            .archive_seconds
            .observe(started.elapsed().as_secs_f64());
        for (index, cause) in inserted.poison {
            if let (Some(entry), Some(message)) = (read.get(index), messages.get(index)) {
                tracing::error!(id = %message.id, %cause, "the store refuses a message for good");
                let cause = Cause::Refused(cause.into_owned());
                letters.push(Letter::new((*entry).clone(), cause));
            }
        }
        self.dead_letters.keep(letters).await;
        for Position { partition, offset } in last_of_each_partition(entries) {
            self.history.archived(Position {
                partition,
                offset: offset + 1,
            });
        }
        self.metrics.archive_lag.set(self.history.lag());
    }
}

/// Waits until `end`; false when there is a reason to go on before.
async fn rested(end: Instant, history: &History, drain: &Drain) -> bool {
    if history.is_awaited() || !drain.is_running() {
        return false;
    }
    tokio::select! {
        () = sleep_until(end.into()) => true,
        () = history.awaited() => false,
        // There is a commit to be made before the log is closed.
        () = drain.reached(Stage::Refusing) => false,
    }
}

/// What came at once, and in which time.
#[derive(Clone, Copy)]
struct Came {
    records: usize,
    bytes: usize,
    within: Duration,
}

impl Came {
    fn of(entries: &[Entry], within: Duration) -> Self {
        Self {
            records: entries.len(),
            bytes: entries.iter().map(|entry| entry.record.size()).sum(),
            within,
        }
    }

    /// From one insert to the next, if it goes on so.
    fn period(self, batch_max: usize) -> Duration {
        let by_count = self.records.max(1) as f64 / batch_max as f64;
        let by_bytes = self.bytes as f64 / BATCH_BYTES as f64;
        let batches = by_count.max(by_bytes) / FILL;
        self.within.div_f64(batches).min(PERIOD_MAX)
    }
}

/// Adds the partitions of these that were not seen before.
fn note_partitions(seen: &mut Vec<u32>, entries: &[Entry]) {
    for Position { partition, .. } in last_of_each_partition(entries) {
        if !seen.contains(&partition) {
            seen.push(partition);
        }
    }
}

/// Waits until it is time to commit, or the stop begins: a log that is closed may take no commit.
async fn until(due: Option<Instant>, drain: &Drain) {
    tokio::select! {
        () = sleep_until(due.unwrap_or_else(Instant::now).into()) => {}
        () = drain.reached(Stage::Refusing) => {}
    }
}

/// Inserts, as often as it takes.
async fn insert(store: &dyn Store, messages: &[Message], metrics: &Metrics) -> Inserted {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match store.insert_many(messages).await {
            Ok(inserted) => return inserted,
            Err(error) => {
                metrics.archive_retries.inc();
                tracing::warn!(%error, messages = messages.len(), "the store did not take a batch");
                backoff.rest().await;
            }
        }
    }
}

fn last_of_each_partition(entries: &[Entry]) -> Vec<Position> {
    let mut last: Vec<Position> = Vec::new();
    for Entry { position, .. } in entries {
        match last
            .iter_mut()
            .find(|known| known.partition == position.partition)
        {
            Some(known) => known.offset = known.offset.max(position.offset),
            None => last.push(*position),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;
    use crate::chat::id::MessageId;
    use crate::store::{PageQuery, StoreError};
    use crate::topic::dead_letters::LetterPlace;
    use crate::topic::memory::Memory;
    use crate::topic::reluctant::Reluctant;
    use crate::topic::{Record, Start, Topic};

    /// Takes what does not say `poison`, and remembers the offsets.
    #[derive(Default)]
    struct Choosy(Mutex<Vec<u64>>);

    impl Store for Choosy {
        fn insert_many<'a>(
            &'a self,
            batch: &'a [Message],
        ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
            let mut done = Inserted::default();
            for (index, message) in batch.iter().enumerate() {
                if message.body.windows(6).any(|part| part == b"poison") {
                    done.poison.push((index, "it says poison".into()));
                } else {
                    self.0.lock().push(message.seq.offset());
                }
            }
            Box::pin(async { Ok(done) })
        }

        fn page<'a>(&'a self, _: PageQuery<'a>) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn find<'a>(
            &'a self,
            _: &'a [MessageId],
        ) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn report_spam(&self, _: MessageId) -> BoxFuture<'_, Result<Option<Message>, StoreError>> {
            Box::pin(async { Ok(None) })
        }

        fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            Box::pin(async { Ok(()) })
        }

        fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn record(text: &str) -> Record {
        let value = match text {
            "" => "no message".to_owned(),
            text => format!(r#"{{"sender_id":"a","receiver_id":"b","text_content":"{text}"}}"#),
        };
        Record {
            key: Bytes::from_static(b"k"),
            headers: Default::default(),
            value: value.into(),
        }
    }

    /// Between this log and this store.
    async fn archive(log: &Memory, store: Arc<Choosy>, letters: Arc<dyn Topic>) -> Archive {
        let metrics = Arc::new(Metrics::new(&[]));
        let history = History::alone(log, store.clone(), metrics.clone());
        let place = LetterPlace::Topic("t.dlq".to_owned(), letters);
        Archive {
            subscription: log.subscribe(Start::Group(GROUP)).await.unwrap(),
            store,
            dead_letters: DeadLetters::new("t", place, metrics.clone()),
            history: Arc::new(history.await.unwrap()),
            metrics,
            batch_max: 10,
            drain: Drain::default(),
        }
    }

    #[test]
    fn inserts_are_as_far_apart_as_it_takes_to_fill_them() {
        let ms = |records, bytes, batch_max| {
            let within = Duration::from_secs(1);
            let came = Came {
                records,
                bytes,
                within,
            };
            came.period(batch_max).as_millis()
        };
        assert_eq!(ms(90_000, 0, 1_000), 10);
        assert_eq!(ms(9_000, 0, 1_000), 100);
        assert_eq!(ms(9, 90 * BATCH_BYTES, 1_000), 10);
        assert_eq!(ms(1_000, 1_000, 1_000), PERIOD_MAX.as_millis());
        assert_eq!(ms(0, 0, 1_000), PERIOD_MAX.as_millis());
    }

    /// Refuses to commit as often as it is told.
    struct Balking {
        subscription: Box<dyn Subscription>,
        refusals: usize,
    }

    impl Subscription for Balking {
        fn poll<'a>(
            &'a mut self,
            batch: &'a mut Vec<Entry>,
            max: usize,
        ) -> BoxFuture<'a, Result<(), TopicError>> {
            self.subscription.poll(batch, max)
        }

        fn commit(&mut self) -> BoxFuture<'_, Result<(), TopicError>> {
            if self.refusals == 0 {
                return self.subscription.commit();
            }
            self.refusals -= 1;
            Box::pin(async { Err(TopicError::Unavailable("the group changes".into())) })
        }
    }

    #[tokio::test]
    async fn a_commit_that_failed_is_made_again_though_nothing_comes() {
        let log = Memory::new(100);
        let archive = archive(&log, Arc::default(), Arc::new(Memory::new(100))).await;
        let balking = Balking {
            subscription: archive.subscription,
            refusals: 2,
        };
        let archive = Archive {
            subscription: Box::new(balking),
            ..archive
        };
        log.append(vec![record("1")]).await;
        let committed = async {
            while log.bounds(GROUP).await.unwrap()[0].committed == 0 {
                tokio::time::sleep(RETRY.0).await;
            }
        };
        tokio::select! {
            ended = archive.run() => unreachable!("the log is open: {ended:?}"),
            done = tokio::time::timeout(Duration::from_secs(30), committed) => done.unwrap(),
        }
    }

    #[tokio::test]
    async fn nothing_is_committed_before_what_can_never_be_stored_is_put_aside() {
        let log = Memory::new(100);
        let store = Arc::new(Choosy::default());
        let letters = Arc::new(Reluctant {
            topic: Memory::new(100),
            refusals: AtomicUsize::new(usize::MAX),
            bytes_max: usize::MAX,
        });
        let archive = archive(&log, store.clone(), letters.clone()).await;
        let metrics = archive.metrics.clone();
        let texts = ["1", "poison", "", "2"];
        log.append(texts.map(record).into()).await;
        let watch = async {
            while metrics.dead_letter_retries.get() < 3 {
                tokio::time::sleep(RETRY.0).await;
            }
            assert_eq!(log.bounds(GROUP).await.unwrap()[0].committed, 0);
            letters.refusals.store(0, Relaxed);
            log.append(vec![record("3")]).await;
            log.close().await.unwrap();
        };
        let (ended, ()) = tokio::join!(archive.run(), watch);
        ended.unwrap();
        assert_eq!(log.bounds(GROUP).await.unwrap()[0].committed, 5);
        assert_eq!(*store.0.lock(), [0, 3, 4]);
        let mut kept = Vec::new();
        let mut reader = letters.subscribe(Start::Group("operator")).await.unwrap();
        reader.poll(&mut kept, 10).await.unwrap();
        let mut told: Vec<_> = kept
            .iter()
            .map(|entry| ["dlq.offset", "dlq.cause"].map(|name| entry.record.header(name).unwrap()))
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                ["1", "refused: it says poison"],
                ["2", "unreadable: the message must be an object"]
            ]
        );
        assert_eq!(kept[0].record.key, "k");
    }
}
