//! From the log to those who are here: the only place that shows a message to anyone.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::chat::message::Message;
use crate::history::{Arrival, History};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::protocol::event;
use crate::topic::{Entry, Subscription, TopicError, header};

/// Pause after a failed read of the log.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Reads the log and queues each message to its recipients' sockets, in the log's order, each message once.
pub struct Deliver {
    pub subscription: Box<dyn Subscription>,
    pub history: Arc<History>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub batch_max: usize,
}

impl Deliver {
    /// Runs until the log is closed and read to its end.
    pub async fn run(mut self) {
        let mut entries = Vec::new();
        loop {
            entries.clear();
            match self.subscription.poll(&mut entries, self.batch_max).await {
                Ok(()) => self.deliver(&entries),
                Err(TopicError::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the log cannot be read");
                    tokio::time::sleep(RETRY_AFTER).await;
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
        if message.is_none() {
            self.metrics.records_unreadable.inc();
            tracing::warn!(?position, "a record of the log is no message");
        }
        Arrival { position, message }
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
    let Ok(text) = std::str::from_utf8(json) else {
        return SmallVec::new();
    };
    if !text.contains('\\') {
        // Without escapes no string holds a quote, so the array can be cut at its quotes.
        let inner = text
            .strip_prefix("[\"")
            .and_then(|text| text.strip_suffix("\"]"));
        return inner
            .map(|users| users.split("\",\"").map(Cow::Borrowed).collect())
            .unwrap_or_default();
    }
    let users: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    users.into_iter().map(Cow::Owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn recipients_come_back_from_their_header(ids in prop::collection::vec("\\PC{1,8}|[\",\\\\\\[\\]]{1,4}", 1..4)) {
            let json = serde_json::to_vec(&ids).unwrap();
            prop_assert_eq!(users(&json).into_vec(), ids);
        }
    }
}
