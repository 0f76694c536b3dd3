//! From the log to those who are here: the only place that shows a message to anyone.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::backoff::Backoff;
use crate::chat::message::Message;
use crate::history::{Arrival, History};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::protocol::event;
use crate::topic::{Entry, Subscription, TopicError, header};

/// First and longest pause after a failed read of the log.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Reads the log and queues each message to its recipients' sockets, in the log's order, each message once.
pub struct Deliver {
    pub subscription: Box<dyn Subscription>,
    pub history: Arc<History>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub batch_max: usize,
}

impl Deliver {
    /// Runs until the log is closed and read to its end, or cannot be read any more: [`TopicError::Failed`], for
    /// example when retention removed what was still to be read. To read on behind such a gap would show some messages
    /// twice and others never; a new start begins where the log does.
    pub async fn run(mut self) -> Result<(), TopicError> {
        let mut entries = Vec::new();
        let mut backoff = None;
        loop {
            entries.clear();
            match self.subscription.poll(&mut entries, self.batch_max).await {
                Ok(()) => {
                    backoff = None;
                    self.deliver(&entries);
                }
                Err(TopicError::Closed) => return Ok(()),
                Err(error @ TopicError::Failed(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read");
                    let backoff = backoff.get_or_insert(Backoff::new(RETRY.0, RETRY.1));
                    backoff.rest().await;
                }
            }
        }
    }

    fn deliver(&self, entries: &[Entry]) {
        self.metrics.deliver_batch.observe(entries.len() as f64);
        let mut batch: Vec<Arrival> = entries.iter().map(|entry| self.read(entry)).collect();
        // History first: what is shown must be in it.
        let _showing = self.history.feed(&mut batch);
        let mut rest = entries.iter();
        for arrival in &batch {
            let entry = rest.find(|entry| entry.position == arrival.position);
            if let (Some(entry), Some(message)) = (entry, &arrival.message) {
                self.show(entry, message);
            }
        }
    }

    fn read(&self, entry: &Entry) -> Arrival {
        let position = entry.position;
        let message = self.history.read(entry);
        // Skipped here; the archive puts it aside, once for all nodes.
        if let Err(cause) = &message {
            self.metrics.records_unreadable.inc();
            tracing::debug!(?position, %cause, "a record of the log is no message");
        }
        Arrival {
            position,
            message: message.ok(),
            is_foreign: entry.record.header(header::MESSAGE_ID).is_none(),
        }
    }

    fn show(&self, entry: &Entry, message: &Message) {
        let is_new = self.history.is_new(entry.position);
        if is_new {
            self.metrics.messages_delivered.inc();
        } else if self.hub.recovery().is_none() {
            return;
        }
        let receiver;
        let users = match entry.record.header(header::RECIPIENTS) {
            Some(recipients) => users(recipients),
            None => {
                receiver = message.receiver();
                receiver
                    .iter()
                    .map(|user| Cow::Borrowed(user.as_str()))
                    .collect()
            }
        };
        let rooms: SmallVec<[&str; 2]> = users.iter().map(|user| &**user).collect();
        match self.hub.recovery() {
            None => self.hub.broadcast(&rooms, || event::new_message(message)),
            Some(recovery) => recovery.show(entry.position, &rooms, message, |offset| {
                if is_new {
                    let frame = || event::new_message_at(message, offset);
                    self.hub.broadcast(&rooms, frame);
                }
            }),
        }
    }
}

/// The users of a `recipients` header, a JSON array of strings.
fn users(json: &[u8]) -> SmallVec<[Cow<'_, str>; 2]> {
    // One user, usually: without escapes no string holds a quote.
    let inner = json
        .strip_prefix(b"[\"")
        .and_then(|json| json.strip_suffix(b"\"]"));
    if let Some(user) = inner
        && memchr::memchr2(b'"', b'\\', user).is_none()
    {
        let user = std::str::from_utf8(user).map(Cow::Borrowed);
        return user.into_iter().collect();
    }
    let users: Vec<String> = serde_json::from_slice(json).unwrap_or_default();
    users.into_iter().map(Cow::Owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::HubLimits;
    use crate::store::embedded::EmbeddedStore;
    use crate::topic::memory::Memory;
    use crate::topic::{Record, Start, Topic};

    proptest! {
        #[test]
        fn recipients_come_back_from_their_header(ids in prop::collection::vec("\\PC{1,8}|[\",\\\\\\[\\]]{1,4}", 1..4)) {
            let json = serde_json::to_vec(&ids).unwrap();
            prop_assert_eq!(users(&json).into_vec(), ids);
        }
    }

    #[tokio::test]
    async fn a_log_that_lost_what_was_still_to_be_read_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(folder.path()).unwrap());
        let log = Memory::new(1);
        let metrics = Arc::new(Metrics::new(&[]));
        let history = History::alone(&log, store, metrics.clone());
        let deliver = Deliver {
            subscription: log.subscribe(Start::Latest).await.unwrap(),
            history: Arc::new(history.await.unwrap()),
            hub: Arc::new(Hub::new(HubLimits::default(), None, metrics.clone())),
            metrics,
            batch_max: 10,
        };
        let record = Record {
            key: Default::default(),
            headers: Default::default(),
            value: Default::default(),
        };
        log.append(vec![record; 2]).await;
        let ended = deliver.run().await;
        assert!(matches!(ended, Err(TopicError::Failed(_))), "{ended:?}");
    }
}
