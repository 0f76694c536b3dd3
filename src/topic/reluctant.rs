//! A topic for tests of those who have to try again.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::topic::memory::Memory;
use crate::topic::{Bounds, Outcome, Record, Start, Subscription, Topic, TopicError};

/// Takes nothing at all the first `refusals` times, and never a record of more than `bytes_max`.
pub struct Reluctant {
    pub topic: Memory,
    pub refusals: AtomicUsize,
    pub bytes_max: usize,
}

impl Topic for Reluctant {
    fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>> {
        let away = || TopicError::Unavailable("away".into());
        let refuses = self
            .refusals
            .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        Box::pin(async move {
            let mut outcomes = Vec::new();
            for record in batch {
                outcomes.push(match record.value.len() {
                    _ if refuses.is_ok() => Outcome::Unknown(away()),
                    large if large > self.bytes_max => Outcome::NotAppended(TopicError::TooLarge),
                    _ => self.topic.append(vec![record]).await.remove(0),
                });
            }
            outcomes
        })
    }

    fn subscribe(&self, start: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>> {
        self.topic.subscribe(start)
    }

    fn bounds(&self, group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
        self.topic.bounds(group)
    }

    fn ends(&self, within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
        self.topic.ends(within)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
        self.topic.close()
    }
}
