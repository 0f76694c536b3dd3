//! Tasks that are named, counted and joined, and the stages in which everything stops.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How far the stop has come; stages only rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// All is well.
    Running,
    /// No new connections, no new messages; readiness is off.
    Refusing,
    /// Connections are being closed.
    Closing,
    /// What is queued has been handed over; everything ends.
    Stopped,
}

// === Drain ===

/// Tells every part how far the stop has come. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    stage: Arc<watch::Sender<Stage>>,
    /// Why the service cannot go on.
    failure: Arc<watch::Sender<Option<String>>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            stage: Arc::new(watch::Sender::new(Stage::Running)),
            failure: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Drain {
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub fn is_running(&self) -> bool {
        self.stage() == Stage::Running
    }

    /// Moves on to `stage`; never back.
    pub fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let forward = *now < stage;
            *now = stage.max(*now);
            forward
        });
    }

    /// Waits until the stop has come to `stage`.
    pub async fn reached(&self, stage: Stage) {
        // The sender lives in `self`, so waiting cannot fail.
        let mut stages = self.stage.subscribe();
        let _never_closed = stages.wait_for(|now| *now >= stage).await;
    }

    /// Says that a part cannot go on, so that the service has to stop; the first one says why.
    pub fn fail(&self, why: String) {
        tracing::error!(why, "stopping");
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(why);
            is_first
        });
    }

    /// Waits until a part cannot go on; why.
    pub async fn failed(&self) -> String {
        let mut failures = self.failure.subscribe();
        loop {
            if let Some(why) = failures.borrow_and_update().clone() {
                return why;
            }
            let _never_closed = failures.changed().await;
        }
    }
}

// === Tasks ===

/// The only place that spawns: each task is counted, and waited for at the end.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task. `name` appears in the log when it panics.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that counts and joins them"
    )]
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(Named { task, name }));
    }

    /// Tasks that have not ended.
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until all have ended, at most `limit`; how many have not.
    pub async fn join(&self, limit: Duration) -> usize {
        self.tracker.close();
        let _elapsed = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.tracker.len()
    }
}

pin_project! {
    /// A task that says its name when it panics. No `async` block: that would keep the task twice, and there are many.
    struct Named<F> {
        #[pin]
        task: F,
        name: &'static str,
    }

    impl<F> PinnedDrop for Named<F> {
        fn drop(this: Pin<&mut Self>) {
            if std::thread::panicking() {
                tracing::error!(task = this.name, "a task panicked");
            }
        }
    }
}

impl<F: Future<Output = ()>> Future for Named<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_only_rise() {
        let drain = Drain::default();
        drain.advance(Stage::Closing);
        drain.advance(Stage::Refusing);
        assert_eq!(drain.stage(), Stage::Closing);
        drain.reached(Stage::Refusing).await;
    }

    #[tokio::test]
    async fn the_first_failure_is_told() {
        let drain = Drain::default();
        let told = drain.clone();
        drain.fail("first".to_owned());
        drain.fail("second".to_owned());
        assert_eq!(told.failed().await, "first");
    }

    #[tokio::test]
    async fn join_waits_for_every_task() {
        let tasks = Tasks::default();
        let drain = Drain::default();
        let waiting = drain.clone();
        tasks.spawn(
            "waits",
            async move { waiting.reached(Stage::Stopped).await },
        );
        assert_eq!(tasks.count(), 1);
        drain.advance(Stage::Stopped);
        assert_eq!(tasks.join(Duration::from_secs(10)).await, 0);
    }
}
