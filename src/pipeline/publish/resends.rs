//! What clients send again: answered with the first copy, wherever that stands.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Publisher, Submission};
use crate::chat::id::MessageId;
use crate::chat::message::Message;
use crate::chat::rejection::Rejection;
use crate::history::Found;

/// How long a lane waits to be told whether a message was sent before. Resends are few, and a store that is away must
/// not hold up the others.
const SENT_BEFORE_MAX: Duration = Duration::from_secs(2);

/// For how long a store that could not tell is not asked again.
const SENT_BEFORE_REST: Duration = Duration::from_secs(5);

/// What is known of messages that may be resends.
struct Known {
    messages: HashMap<MessageId, Message>,
    /// Sent before, and not to be had now: only the store has them, which does not answer, or not even that yet.
    untold: HashSet<MessageId>,
}

impl Known {
    fn new(found: Vec<Message>) -> Self {
        Self {
            messages: found.into_iter().map(|m| (m.id, m)).collect(),
            untold: HashSet::new(),
        }
    }
}

impl Publisher {
    /// Answers those that are in history already, and joins those that stand in the batch twice; the rest is new.
    pub(super) async fn answer_resends(&self, batch: Vec<Submission>) -> Vec<Submission> {
        let resent = batch
            .iter()
            .filter(|submission| submission.sealed.may_be_resent);
        let ids: Vec<MessageId> = resent.map(|submission| submission.sealed.id).collect();
        if ids.is_empty() {
            return batch;
        }
        let Known { messages, untold } = self.sent_before(&ids).await;
        let mut fresh: Vec<Submission> = Vec::with_capacity(batch.len());
        let mut places: HashMap<MessageId, usize> = HashMap::new();
        for submission in batch {
            let id = submission.sealed.id;
            if !submission.sealed.may_be_resent {
                fresh.push(submission);
            } else if untold.contains(&id) {
                self.answer(submission.receipts, Err(Rejection::Unavailable), false);
            } else if let Some(message) = messages.get(&id) {
                self.accept_resend(submission.receipts, message);
            } else if let Some(place) = places.get(&id) {
                fresh[*place].receipts.extend(submission.receipts);
            } else {
                places.insert(id, fresh.len());
                fresh.push(submission);
            }
        }
        fresh
    }

    /// Which of these were sent before. Without the store only what was read lately is known: the message itself when
    /// it is on its way to the store, else only that there is one.
    async fn sent_before(&self, ids: &[MessageId]) -> Known {
        let history = &self.parts.history;
        let rests = |since: Instant| since.elapsed() < SENT_BEFORE_REST;
        let store_rests = self.untold.lock().is_some_and(rests);
        if !store_rests {
            match tokio::time::timeout(SENT_BEFORE_MAX, history.find_own(ids)).await {
                Ok(Ok(Found { messages, has_gap })) => {
                    let known = Known::new(messages);
                    return match has_gap {
                        true => self.with_untold(known, ids),
                        false => known,
                    };
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot tell whether messages were sent before")
                }
                Err(_) => tracing::warn!("cannot tell in time whether messages were sent before"),
            }
            *self.untold.lock() = Some(Instant::now());
        }
        // Appending the others is right even so: readers of the log and the store recognise a second copy by its id.
        let _behind = tokio::time::timeout(SENT_BEFORE_MAX, history.read_own()).await;
        self.with_untold(Known::new(history.find_in_tail(ids)), ids)
    }

    /// Of the others it is known that there are some, as far as they were read lately.
    fn with_untold(&self, mut known: Known, ids: &[MessageId]) -> Known {
        let was_read = |id: &&MessageId| self.parts.history.was_read(**id);
        let others = ids.iter().filter(|id| !known.messages.contains_key(id));
        known.untold = others.filter(was_read).copied().collect();
        known
    }
}
