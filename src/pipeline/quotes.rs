//! From the topic of quote events into the log: each accepted quote becomes one system message.
//!
//! Events are committed when their messages are durable in the log. An event that is read again, by whichever node,
//! makes the same message again, which everybody recognises by its id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use crate::backoff::Backoff;
use crate::chat::id::ConversationId;
use crate::chat::message::Sealed;
use crate::chat::quote::QuoteEvent;
use crate::chat::rejection::Rejection;
use crate::drain::{Drain, Stage};
use crate::metrics::Metrics;
use crate::topic::dead_letters::{Cause, DeadLetters, Letter};
use crate::topic::{Entry, Subscription, TopicError};

/// The group whose members share the events.
pub const GROUP: &str = "quotes";

/// Reads quote events in a group, one batch at a time.
pub struct Quotes {
    pub subscription: Box<dyn Subscription>,
    pub publish: Publish,
    /// Where events go that cannot be read.
    pub dead_letters: DeadLetters,
    pub metrics: Arc<Metrics>,
    pub drain: Drain,
    pub unix_ms: fn() -> u64,
}

/// The way into the log: waits until the message is durable there, or refused.
pub struct Publish(
    pub Box<dyn Fn(Sealed) -> BoxFuture<'static, Result<(), Rejection>> + Send + Sync>,
);

impl Quotes {
    /// Runs until the service stops or its topic cannot be read any more. What is under way at a stop is not
    /// committed, so it is read again.
    pub async fn run(mut self) -> Result<(), TopicError> {
        let drain = self.drain.clone();
        tokio::select! {
            ended = self.consume() => ended,
            () = drain.reached(Stage::Refusing) => Ok(()),
        }
    }

    async fn consume(&mut self) -> Result<(), TopicError> {
        let mut entries = Vec::new();
        let mut backoff = None;
        loop {
            entries.clear();
            match self.subscription.poll(&mut entries, BATCH_MAX).await {
                Ok(()) => {
                    backoff = None;
                    self.take(&entries).await;
                }
                Err(error @ (TopicError::Closed | TopicError::Failed(_))) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "quote events cannot be read");
                    let backoff = backoff.get_or_insert(Backoff::new(RETRY.0, RETRY.1));
                    backoff.rest().await;
                }
            }
        }
    }

    async fn take(&mut self, entries: &[Entry]) {
        let mut letters = Vec::new();
        let mut conversations: HashMap<ConversationId, Vec<(&Entry, Sealed)>> = HashMap::new();
        for entry in entries {
            match QuoteEvent::parse(&entry.record.value) {
                Ok(QuoteEvent::Accepted(quote)) => {
                    let sealed = quote.seal((self.unix_ms)());
                    let conversation = sealed.conversation.clone();
                    let messages = conversations.entry(conversation).or_default();
                    messages.push((entry, sealed));
                }
                Ok(QuoteEvent::Ignored(kind)) => self.metrics.quote_ignored(&kind),
                Err(why) => {
                    let cause = Cause::Unreadable(why.to_string());
                    letters.push(Letter::new(entry.clone(), cause));
                }
            }
        }
        let (publish, metrics) = (&self.publish, &*self.metrics);
        let conversations = conversations.into_values();
        let published = conversations.map(|messages| in_order(publish, metrics, messages));
        letters.extend(join_all(published).await.into_iter().flatten());
        self.dead_letters.keep(letters).await;
        // A commit that fails or is lost only means that these are read again.
        if let Err(error) = self.subscription.commit().await {
            tracing::warn!(%error, "the place in the quote events was not committed");
        }
    }
}

/// Publishes one conversation's messages, each when the one before is in the log; those that can never be.
async fn in_order(
    publish: &Publish,
    metrics: &Metrics,
    messages: Vec<(&Entry, Sealed)>,
) -> Vec<Letter> {
    let mut letters = Vec::new();
    for (entry, sealed) in messages {
        match publish_one(publish, metrics, sealed).await {
            Ok(()) => {
                metrics.quotes_accepted.inc();
            }
            Err(refused) => {
                let cause = Cause::Refused(refused.to_string());
                letters.push(Letter::new(entry.clone(), cause));
            }
        }
    }
    letters
}

/// As often as it takes. When it is unknown whether the message is in the log, it is sent again: it has the same id.
async fn publish_one(
    publish: &Publish,
    metrics: &Metrics,
    sealed: Sealed,
) -> Result<(), Rejection> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match (publish.0)(sealed.clone()).await {
            Err(refused) if refused.retryable() => {
                metrics.quote_retries.inc();
                tracing::warn!(%refused, id = %sealed.id, "a quote's message is not in the log yet");
                backoff.rest().await;
            }
            published => return published,
        }
    }
}

/// Events of one batch, and so messages under way at once.
const BATCH_MAX: usize = 256;

/// First and longest pause before an event is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::*;
    use crate::topic::dead_letters::LetterPlace;
    use crate::topic::memory::Memory;
    use crate::topic::{Record, Start, Topic};

    /// Quote events, their dead letters, and the messages that were published, by text.
    struct Setup {
        events: Memory,
        letters: Arc<Memory>,
        published: Arc<Mutex<Vec<String>>>,
        /// What the way into the log answers, one after the other; then it takes everything.
        answers: Arc<Mutex<VecDeque<Rejection>>>,
        metrics: Arc<Metrics>,
        drain: Drain,
    }

    impl Setup {
        fn new(answers: &[Rejection]) -> Self {
            Self {
                events: Memory::new(100),
                letters: Arc::new(Memory::new(100)),
                published: Arc::default(),
                answers: Arc::new(Mutex::new(answers.iter().copied().collect())),
                metrics: Arc::new(Metrics::new(&[])),
                drain: Drain::default(),
            }
        }

        async fn quotes(&self) -> Quotes {
            let (published, answers) = (self.published.clone(), self.answers.clone());
            let publish = move |sealed: Sealed| -> BoxFuture<'static, Result<(), Rejection>> {
                let answer = answers.lock().pop_front();
                if answer.is_none() {
                    let text = String::from_utf8_lossy(&sealed.value).into_owned();
                    let text = text.split("text_content\":\"").nth(1).unwrap();
                    published
                        .lock()
                        .push(text.split('"').next().unwrap().to_owned());
                }
                Box::pin(async move { answer.map_or(Ok(()), Err) })
            };
            let place = LetterPlace::Topic("q.dlq".to_owned(), self.letters.clone());
            Quotes {
                subscription: self.events.subscribe(Start::Group(GROUP)).await.unwrap(),
                publish: Publish(Box::new(publish)),
                dead_letters: DeadLetters::new("q", place, self.metrics.clone()),
                metrics: self.metrics.clone(),
                drain: self.drain.clone(),
                unix_ms: || 0,
            }
        }

        async fn event(&self, json: &str) {
            let record = Record {
                key: Bytes::new(),
                headers: Default::default(),
                value: Bytes::copy_from_slice(json.as_bytes()),
            };
            self.events.append(vec![record]).await;
        }

        async fn accepted(&self, quote: &str) {
            self.event(&format!(
                r#"{{"type":"QUOTE_ACCEPTED","quoteId":"{quote}","clientId":"c","professionalId":"p"}}"#
            ))
            .await;
        }

        /// Runs until everything is committed.
        async fn run(&self) {
            let quotes = self.quotes().await;
            let committed = async {
                loop {
                    let bounds = self.events.bounds(GROUP).await.unwrap()[0];
                    if bounds.committed == bounds.end {
                        return self.drain.advance(Stage::Refusing);
                    }
                    tokio::task::yield_now().await;
                }
            };
            let (ended, ()) = tokio::join!(quotes.run(), committed);
            ended.unwrap();
        }

        async fn causes(&self) -> Vec<String> {
            let mut entries = Vec::new();
            let mut reader = self
                .letters
                .subscribe(Start::Group("operator"))
                .await
                .unwrap();
            reader.poll(&mut entries, 100).await.unwrap();
            let cause = |entry: &Entry| entry.record.header("dlq.cause").unwrap().clone();
            let causes = entries.iter().map(cause);
            causes
                .map(|cause| String::from_utf8(cause.to_vec()).unwrap())
                .collect()
        }
    }

    #[tokio::test]
    async fn a_conversations_quotes_stay_in_order_whatever_is_refused_in_passing() {
        let passing = [Rejection::Busy, Rejection::Unknown, Rejection::Unavailable];
        let setup = Setup::new(&passing);
        for quote in ["1", "2", "3", "4"] {
            setup.accepted(quote).await;
        }
        setup.run().await;
        let expected = ["1", "2", "3", "4"].map(|quote| format!("Quote {quote} was accepted."));
        assert_eq!(*setup.published.lock(), expected);
        assert_eq!(setup.metrics.quote_retries.get(), 3);
    }

    #[tokio::test]
    async fn what_cannot_be_read_or_is_refused_for_good_is_put_aside_and_the_rest_goes_on() {
        let setup = Setup::new(&[Rejection::TooLarge("the message is too large")]);
        setup.accepted("refused").await;
        setup.event("{").await;
        setup.event(r#"{"type":"QUOTE_SENT"}"#).await;
        setup.accepted("1").await;
        setup.run().await;
        assert_eq!(*setup.published.lock(), ["Quote 1 was accepted."]);
        let mut causes = setup.causes().await;
        causes.sort();
        assert_eq!(
            causes,
            [
                "refused: the message is too large",
                "unreadable: the event must be a JSON object"
            ]
        );
        let ignored = "chat_quotes_ignored_total{type=\"QUOTE_SENT\"} 1";
        assert!(setup.metrics.encode().contains(ignored));
    }

    #[tokio::test]
    async fn what_was_under_way_at_a_stop_is_not_committed() {
        let setup = Setup::new(&[Rejection::Draining; 1_000]);
        setup.accepted("1").await;
        let quotes = setup.quotes().await;
        let stop = async {
            while setup.metrics.quote_retries.get() < 3 {
                tokio::time::sleep(RETRY.0).await;
            }
            setup.drain.advance(Stage::Refusing);
        };
        let (ended, ()) = tokio::join!(quotes.run(), stop);
        ended.unwrap();
        assert_eq!(setup.events.bounds(GROUP).await.unwrap()[0].committed, 0);
    }

    #[tokio::test]
    async fn events_that_are_gone_end_it() {
        let setup = Setup {
            events: Memory::new(1),
            ..Setup::new(&[])
        };
        let quotes = setup.quotes().await;
        setup.accepted("1").await;
        setup.accepted("2").await;
        let ended = quotes.run().await;
        assert!(matches!(ended, Err(TopicError::Failed(_))), "{ended:?}");
    }
}
