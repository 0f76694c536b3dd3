//! From the log into the store, in batches: insert, commit, and only then tell history that the store has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chat::message::Message;
use crate::drain::Drain;
use crate::history::History;
use crate::metrics::Metrics;
use crate::store::{Inserted, Store};
use crate::topic::{Entry, Position, Subscription, TopicError};

/// The group whose commits say what the store has.
pub const GROUP: &str = "archive";

/// Rest between two inserts. Nobody waits for the archive (history reads what it does not have from the tail), so it is
/// worth more to insert, and sync, many at once.
const REST: Duration = Duration::from_millis(20);

/// First and longest pause before an insert is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Reads the log in a group of its own and inserts every message into the store.
pub struct Archive {
    pub subscription: Box<dyn Subscription>,
    pub store: Arc<dyn Store>,
    pub history: Arc<History>,
    pub metrics: Arc<Metrics>,
    pub batch_max: usize,
    pub drain: Drain,
}

impl Archive {
    /// Runs until the log is closed and everything in it is stored and committed.
    pub async fn run(mut self) {
        let mut entries = Vec::new();
        loop {
            entries.clear();
            match self.subscription.poll(&mut entries, self.batch_max).await {
                Ok(()) => self.archive(&entries).await,
                Err(TopicError::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read");
                    tokio::time::sleep(RETRY.0).await;
                }
            }
            if entries.len() < self.batch_max && self.drain.is_running() {
                tokio::time::sleep(REST).await;
            }
        }
    }

    async fn archive(&mut self, entries: &[Entry]) {
        let messages: Vec<Message> = entries
            .iter()
            .filter_map(|entry| self.history.read(entry))
            .collect();
        let started = Instant::now();
        let inserted = insert(&*self.store, &messages, &self.metrics).await;
        self.metrics.archive_batch.observe(messages.len() as f64);
        self.metrics
            .archive_seconds
            .observe(started.elapsed().as_secs_f64());
        for (index, cause) in &inserted.poison {
            self.metrics.archive_poison.inc();
            let id = messages.get(*index).map(|message| message.id);
            tracing::error!(?id, %cause, "the store can never take this message");
        }
        // A commit that fails or is lost only means that these are read again, and found to be there.
        if let Err(error) = self.subscription.commit().await {
            tracing::warn!(%error, "the archive's place was not committed");
        }
        for Position { partition, offset } in last_of_each_partition(entries) {
            self.history.archived(Position {
                partition,
                offset: offset + 1,
            });
        }
        self.metrics.archive_lag.set(self.history.lag());
    }
}

/// Inserts, as often as it takes.
async fn insert(store: &dyn Store, messages: &[Message], metrics: &Metrics) -> Inserted {
    let mut pause = RETRY.0;
    loop {
        match store.insert_many(messages).await {
            Ok(inserted) => return inserted,
            Err(error) => {
                metrics.archive_retries.inc();
                tracing::warn!(%error, messages = messages.len(), "the store did not take a batch");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
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
