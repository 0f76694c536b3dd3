//! Waiting: until what was acknowledged, here or by another node, has been read.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::chat::id::MessageId;
use crate::chat::message::Message;
use crate::history::horizon::Horizon;
use crate::history::{History, HistoryError, Partition};
use crate::topic::{Bounds, Position, Topic};

/// How long a reader waits for the log's reader, or for the store, to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// How long a page waits for the log to tell where it ends, when it could not tell the last time.
const CUT_OFF_MAX: Duration = Duration::from_millis(200);

const READER_BEHIND: &str = "the log's reader is behind";

impl History {
    /// For a log that other nodes append to and archive as well: what they acknowledged is then waited for as our own
    /// is. Needs [`History::follow`] to run. `group`: whose commits say what the store has.
    pub fn shared(self, topic: Arc<dyn Topic>, group: &'static str) -> Self {
        let horizon = Horizon::new(topic, group, self.metrics.clone());
        Self {
            horizon: Some(horizon),
            ..self
        }
    }

    /// Follows what other nodes append and archive, for as long as it is polled; ends at once when there are none.
    pub async fn follow(&self) {
        let Some(horizon) = &self.horizon else { return };
        let archived = |bounds: &[Bounds]| {
            for bounds in bounds {
                self.archived(Position {
                    partition: bounds.partition,
                    offset: bounds.committed,
                });
            }
        };
        horizon.run(archived).await;
    }

    /// Whether other nodes append to the log too.
    pub fn is_shared(&self) -> bool {
        self.horizon.is_some()
    }

    /// Of messages that this process appended at these places: those that stand in the log before, because another node
    /// was quicker, as they stand there. By id. An error when the log's reader has not come past the places `within`.
    pub async fn earlier(
        &self,
        appended: &[(MessageId, Position)],
        within: Duration,
    ) -> Result<HashMap<MessageId, Message>, HistoryError> {
        let is_past = |(_, place): &(MessageId, Position)| {
            let partition = self.partition(place.partition);
            partition.is_none_or(|p| p.read.load(Ordering::Acquire) > place.offset)
        };
        let are_past = || appended.iter().all(is_past);
        self.wait_within(within, READER_BEHIND, are_past).await?;
        let is_second = |(id, place): &&(MessageId, Position)| {
            let first = self.recent.lock().first(*id);
            first.is_some_and(|first| first < self.seq(*place))
        };
        let ids: Vec<MessageId> = appended
            .iter()
            .filter(is_second)
            .map(|(id, _)| *id)
            .collect();
        let found = self.find_now(&ids).await?.complete()?;
        Ok(found
            .into_iter()
            .map(|message| (message.id, message))
            .collect())
    }

    /// As [`History::caught_up`]; but while the log cannot tell where it ends, what this process knows will do: nobody
    /// gets anything acknowledged meanwhile, and what another node acknowledged just before is shown live later.
    pub(super) async fn caught_up_or_cut_off(&self) -> Result<(), HistoryError> {
        let Some(horizon) = &self.horizon else {
            return self.read_own().await;
        };
        let patience = match horizon.is_unknown() {
            true => CUT_OFF_MAX,
            false => CATCH_UP_MAX,
        };
        match tokio::time::timeout(patience, horizon.ends()).await {
            Ok(Ok(ends)) => self.read_up_to(&ends).await,
            Ok(Err(_)) | Err(_) => {
                self.metrics.pages_cut_off.inc();
                self.read_own().await
            }
        }
    }

    /// Waits until the log's reader has handed over everything acknowledged before the call, by any node; an error when
    /// that takes longer than 5 s, or the log cannot tell where it ends.
    pub async fn caught_up(&self) -> Result<(), HistoryError> {
        let Some(horizon) = &self.horizon else {
            return self.read_up_to(&[]).await;
        };
        let asked = Instant::now();
        let ends = tokio::time::timeout(CATCH_UP_MAX, horizon.ends()).await;
        let unknown = |cause: &str| HistoryError::Unavailable(cause.into());
        let ends = ends
            .map_err(|_| unknown("the end of the log is not known"))?
            .map_err(|error| unknown(&error.to_string()))?;
        self.read_up_to(&ends).await?;
        self.metrics
            .catch_up_seconds
            .observe(asked.elapsed().as_secs_f64());
        Ok(())
    }

    /// Waits until the log's reader has handed over everything that this process acknowledged before the call.
    pub async fn read_own(&self) -> Result<(), HistoryError> {
        self.read_up_to(&[]).await
    }

    /// Waits until the log's reader has come past what this process appended, and these ends, by partition.
    pub(super) async fn read_up_to(&self, ends: &[u64]) -> Result<(), HistoryError> {
        let target = |p: &Partition| {
            let end = ends.get(p.number as usize).copied().unwrap_or_default();
            p.appended.load(Ordering::Acquire).max(end)
        };
        let target: smallvec::SmallVec<[u64; 16]> = self.partitions.iter().map(target).collect();
        let reached = || {
            let mut pairs = self.partitions.iter().zip(&target);
            pairs.all(|(partition, target)| partition.read.load(Ordering::Acquire) >= *target)
        };
        if reached() {
            return Ok(());
        }
        self.wait(READER_BEHIND, reached).await
    }

    /// Waits until all that this process acknowledged has been read and shown.
    pub async fn shown(&self) -> Result<(), HistoryError> {
        self.read_up_to(&[]).await?;
        drop(self.showing.lock());
        Ok(())
    }

    /// Waits for `done`, at most [`CATCH_UP_MAX`].
    pub(super) fn wait<'a>(
        &'a self,
        what: &'static str,
        done: impl Fn() -> bool + Send + 'a,
    ) -> impl Future<Output = Result<(), HistoryError>> + Send + 'a {
        self.wait_within(CATCH_UP_MAX, what, done)
    }

    fn wait_within<'a>(
        &'a self,
        within: Duration,
        what: &'static str,
        done: impl Fn() -> bool + Send + 'a,
    ) -> impl Future<Output = Result<(), HistoryError>> + Send + 'a {
        let waiting = async move {
            loop {
                let moved = self.moved.notified();
                if done() {
                    return;
                }
                moved.await;
            }
        };
        async move {
            tokio::time::timeout(within, waiting)
                .await
                .map_err(|_| HistoryError::Unavailable(what.into()))
        }
    }
}
