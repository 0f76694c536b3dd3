//! Typing between nodes: on a topic of its own, so that it never stands in the way of messages. What does not get
//! through at once is dropped and counted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::smallvec;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::chat::id::{ConversationId, UserId};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::protocol::event;
use crate::topic::{Entry, Outcome, Record, Start, Topic, TopicError};

/// Signals in one append, and in one read.
const BATCH_MAX: usize = 256;

/// Pause after the topic could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Names the node that a record came from, which has shown it already.
const NODE: &str = "node";

/// The way to the other nodes. Shared by all that relay typing.
pub struct Signals {
    queue: mpsc::Sender<Record>,
    node: Bytes,
    metrics: Arc<Metrics>,
}

/// One `typing` or `stopTyping`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypingSignal<'a> {
    pub is_typing: bool,
    pub sender_id: Cow<'a, str>,
    pub receiver_id: Cow<'a, str>,
    pub conversation_id: Cow<'a, str>,
}

impl Signals {
    /// At most `signals_max` wait for the topic. The second part is to be run by [`Outgoing::run`]. `node` tells this
    /// process from all others.
    pub fn new(
        topic: Arc<dyn Topic>,
        node: [u8; 16],
        signals_max: usize,
        metrics: Arc<Metrics>,
    ) -> (Self, Outgoing) {
        let (queue, queued) = mpsc::channel(signals_max);
        let outgoing = Outgoing {
            topic,
            queued,
            metrics: metrics.clone(),
        };
        let node = Bytes::copy_from_slice(&node);
        let signals = Self {
            queue,
            node,
            metrics,
        };
        (signals, outgoing)
    }

    /// Queues it for the other nodes; never waits. Over its bound the queue takes no more.
    pub fn offer(&self, signal: &TypingSignal<'_>) {
        let value = serde_json::to_vec(signal).expect("strings are JSON");
        let record = Record {
            key: Bytes::copy_from_slice(signal.receiver_id.as_bytes()),
            headers: smallvec![(NODE.into(), self.node.clone())],
            value: value.into(),
        };
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = self.queue.try_send(record) {
            self.metrics.signals_dropped.inc();
        }
    }

    /// What shows other nodes' typing to the sockets here; to be run by [`Incoming::run`].
    pub fn incoming(&self, topic: Arc<dyn Topic>, hub: Arc<Hub>) -> Incoming {
        Incoming {
            topic,
            hub,
            node: self.node.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

// === Outgoing ===

/// From the queue into the topic.
pub struct Outgoing {
    topic: Arc<dyn Topic>,
    queued: mpsc::Receiver<Record>,
    metrics: Arc<Metrics>,
}

impl Outgoing {
    /// Runs for as long as it is polled, or somebody may offer.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.queued.recv_many(&mut batch, BATCH_MAX).await > 0 {
            for outcome in self.topic.append(std::mem::take(&mut batch)).await {
                match outcome {
                    Outcome::Appended(_) => self.metrics.signals_sent.inc(),
                    Outcome::NotAppended(_) | Outcome::Unknown(_) => {
                        self.metrics.signals_dropped.inc()
                    }
                };
            }
        }
    }
}

// === Incoming ===

/// From the topic to those who are here.
pub struct Incoming {
    topic: Arc<dyn Topic>,
    hub: Arc<Hub>,
    node: Bytes,
    metrics: Arc<Metrics>,
}

impl Incoming {
    /// Runs until the topic is closed, or for as long as it is polled.
    pub async fn run(self) {
        loop {
            match self.read().await {
                TopicError::Closed => return,
                error => tracing::warn!(%error, "typing of other nodes cannot be read"),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn read(&self) -> TopicError {
        let mut reader = match self.topic.subscribe(Start::Latest).await {
            Ok(reader) => reader,
            Err(error) => return error,
        };
        let mut entries = Vec::new();
        loop {
            entries.clear();
            if let Err(error) = reader.poll(&mut entries, BATCH_MAX).await {
                return error;
            }
            self.show(&entries);
        }
    }

    /// Of what came together, only the last word of each person to another counts.
    fn show(&self, entries: &[Entry]) {
        let mut last = HashMap::new();
        for signal in entries
            .iter()
            .filter_map(|entry| self.signal(&entry.record))
        {
            let key = (
                signal.sender_id.clone(),
                signal.receiver_id.clone(),
                signal.conversation_id.clone(),
            );
            last.insert(key, signal);
        }
        for signal in last.values() {
            self.metrics.signals_received.inc();
            self.hub.broadcast_volatile(&signal.receiver_id, None, || {
                event::typing(
                    signal.is_typing,
                    &signal.sender_id,
                    &signal.receiver_id,
                    &signal.conversation_id,
                )
            });
        }
    }

    /// `None` for our own, and for what is no signal: others may write to the topic.
    fn signal<'a>(&self, record: &'a Record) -> Option<TypingSignal<'a>> {
        if record.header(NODE) == Some(&self.node) {
            return None;
        }
        let signal: TypingSignal<'_> = serde_json::from_slice(&record.value).ok()?;
        let is_valid = UserId::new(signal.sender_id.as_ref()).is_some()
            && UserId::new(signal.receiver_id.as_ref()).is_some()
            && ConversationId::new(Bytes::copy_from_slice(signal.conversation_id.as_bytes()))
                .is_some();
        is_valid.then_some(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::HubLimits;
    use crate::topic::memory::Memory;

    fn signal(sender: &str) -> TypingSignal<'_> {
        TypingSignal {
            is_typing: true,
            sender_id: sender.into(),
            receiver_id: "b\"ob".into(),
            conversation_id: "c".into(),
        }
    }

    #[tokio::test]
    async fn at_its_bound_the_queue_drops_and_counts() {
        let metrics = Arc::new(Metrics::new(&[]));
        let topic = Arc::new(Memory::new(100));
        let (signals, outgoing) = Signals::new(topic.clone(), [1; 16], 3, metrics.clone());
        for _ in 0..3 {
            signals.offer(&signal("ann"));
        }
        assert_eq!(metrics.signals_dropped.get(), 0);
        signals.offer(&signal("ann"));
        assert_eq!(metrics.signals_dropped.get(), 1);
        drop(signals);
        outgoing.run().await;
        assert_eq!(metrics.signals_sent.get(), 3);
        assert_eq!(topic.ends(Duration::ZERO).await.unwrap(), [3]);
    }

    #[tokio::test]
    async fn a_signal_comes_back_from_its_record_unless_it_is_ours_or_none() {
        let metrics = Arc::new(Metrics::new(&[]));
        let topic = Arc::new(Memory::new(100));
        let hub = Hub::new(HubLimits::default(), None, metrics.clone());
        let (ours, _) = Signals::new(topic.clone(), [1; 16], 9, metrics.clone());
        let (theirs, mut outgoing) = Signals::new(topic.clone(), [2; 16], 9, metrics);
        theirs.offer(&signal("ann"));
        let record = outgoing.queued.try_recv().unwrap();
        let hub = Arc::new(hub);
        let incoming = ours.incoming(topic.clone(), hub.clone());
        assert_eq!(incoming.signal(&record), Some(signal("ann")));
        assert_eq!(theirs.incoming(topic, hub).signal(&record), None);
        for value in [
            "",
            "{}",
            "7",
            r#"{"is_typing":true,"sender_id":"","receiver_id":"b","conversation_id":"c"}"#,
        ] {
            let record = Record {
                value: Bytes::from_static(value.as_bytes()),
                ..record.clone()
            };
            assert_eq!(incoming.signal(&record), None, "{value}");
        }
    }
}
