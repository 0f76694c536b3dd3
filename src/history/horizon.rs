//! Where a log ends that other processes append to as well, and how far they have archived it.
//!
//! Whoever needs the end gets an answer to a question that was asked after the need arose; one question at a time is
//! under way, and one answer serves all that came before it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::metrics::Metrics;
use crate::topic::{Bounds, Topic, TopicError};

/// The end of a shared log, asked for as needed.
pub struct Horizon {
    topic: Arc<dyn Topic>,
    /// Whose commits say what the store has.
    group: &'static str,
    /// Number of the last need.
    needed: AtomicU64,
    need: Notify,
    told: watch::Sender<Told>,
    /// How many wait for the archive: while there are any, its places are asked for more often.
    waiting: AtomicUsize,
    waiter: Notify,
    metrics: Arc<Metrics>,
}

/// The last answer.
struct Told {
    /// The last need that it serves.
    need: u64,
    ends: Result<Arc<[u64]>, TopicError>,
}

impl Horizon {
    pub fn new(topic: Arc<dyn Topic>, group: &'static str, metrics: Arc<Metrics>) -> Self {
        let told = Told {
            need: 0,
            ends: Ok(Arc::default()),
        };
        Self {
            topic,
            group,
            needed: AtomicU64::new(0),
            need: Notify::new(),
            told: watch::Sender::new(told),
            waiting: AtomicUsize::new(0),
            waiter: Notify::new(),
            metrics,
        }
    }

    /// The end of each partition, by partition: all that anybody acknowledged before the call lies below. An answer or
    /// an error comes within two times [`ASK_MAX`], as long as [`Horizon::run`] is polled.
    pub async fn ends(&self) -> Result<Arc<[u64]>, TopicError> {
        let need = self.needed.fetch_add(1, Ordering::AcqRel) + 1;
        let mut answers = self.told.subscribe();
        self.need.notify_one();
        let told = answers.wait_for(|told| told.need >= need).await;
        told.map_err(|_| TopicError::Closed)?.ends.clone()
    }

    /// Whether the last question had no answer.
    pub fn is_unknown(&self) -> bool {
        self.told.borrow().ends.is_err()
    }

    /// Asks for the ends as they are needed, and hands what the archive has committed to `archived`, for as long as it
    /// is polled.
    pub async fn run(&self, archived: impl Fn(&[Bounds])) {
        tokio::join!(self.answer(), self.follow(archived));
    }

    async fn answer(&self) {
        let mut served = 0;
        loop {
            let need = self.needed.load(Ordering::Acquire);
            if need == served {
                self.need.notified().await;
                continue;
            }
            let asked = Instant::now();
            let ends = self.topic.ends(ASK_MAX).await.map(Arc::from);
            self.metrics
                .log_end_seconds
                .observe(asked.elapsed().as_secs_f64());
            if let Err(error) = &ends {
                self.metrics.log_end_failures.inc();
                tracing::debug!(%error, "the end of the log is not known");
            }
            self.told.send_replace(Told { need, ends });
            served = need;
        }
    }

    async fn follow(&self, archived: impl Fn(&[Bounds])) {
        loop {
            match self.topic.bounds(self.group).await {
                Ok(bounds) => archived(&bounds),
                Err(error) => tracing::debug!(%error, "the archive's places are not known"),
            }
            if self.waiting.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(FOLLOW_SOON).await;
            } else {
                let rest = tokio::time::sleep(FOLLOW_EVERY);
                tokio::select! {
                    () = rest => {}
                    () = self.waiter.notified() => {}
                }
            }
        }
    }

    /// Held by who waits for the archive.
    pub fn hurry(&self) -> Hurry<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.waiter.notify_one();
        Hurry(self)
    }
}

/// See [`Horizon::hurry`].
pub struct Hurry<'a>(&'a Horizon);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Longest wait for one answer.
pub const ASK_MAX: Duration = Duration::from_secs(2);

/// How often the archive's places are asked for, when nobody waits for them and when somebody does.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
const FOLLOW_SOON: Duration = Duration::from_millis(20);
