//! Removing what nobody needs, also when the server is away just then: it is asked again until it answers, for an hour
//! at most, or until this process stops. What is left after that is for the lifecycle rule of the bucket.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::store::{ANSWER_SECONDS_MAX, BlobError, Blobs, Parts, Place};
use crate::chat::attachment::BlobName;
use crate::drain::Stage;

/// What becomes of a part, told once.
pub(super) type Sending = oneshot::Receiver<Result<(), BlobError>>;

/// What is to be removed.
pub(super) struct Unwanted {
    pub name: BlobName,
    pub parts: Option<Parts>,
    /// A part is on its way: removing waits for it.
    pub sending: Option<Sending>,
    /// The file may stand under its name.
    pub is_published: bool,
    /// The server may still be at work on a request that we gave up: what that leaves takes a second look.
    pub is_unsettled: bool,
}

impl Unwanted {
    /// An upload that is not published.
    pub fn unfinished(name: BlobName, parts: Parts) -> Self {
        Self {
            name,
            parts: Some(parts),
            sending: None,
            is_published: false,
            is_unsettled: false,
        }
    }
}

impl Blobs {
    /// Removes a file that no message names, in a task of its own.
    pub fn remove(&self, name: BlobName) {
        drop(self.discard(Unwanted {
            name,
            parts: None,
            sending: None,
            is_published: true,
            is_unsettled: false,
        }));
    }

    /// Removes it in a task of its own. Sends when that is done, or was tried once without success.
    pub(super) fn discard(&self, unwanted: Unwanted) -> oneshot::Receiver<()> {
        let (tried, receiver) = oneshot::channel();
        // Without a runtime the whole process is ending: parts dropped remove themselves, the rest is for the next
        // start.
        if Handle::try_current().is_ok() {
            let blobs = self.clone();
            self.tasks.spawn("discard upload", async move {
                blobs.clear(unwanted, tried).await;
            });
        }
        receiver
    }

    async fn clear(&self, mut unwanted: Unwanted, tried: oneshot::Sender<()>) {
        let is_bucket = matches!(self.place, Place::Bucket(_));
        if let Some(sending) = unwanted.sending.take() {
            // Bounded, as every wait for an answer.
            unwanted.is_unsettled = !matches!(sending.await, Ok(Ok(())));
        }
        let mut outcome = self.try_clear(&mut unwanted).await;
        // Nobody may be waiting.
        let _unheard = tried.send(());
        let place = is_bucket.then(|| self.discards.try_acquire());
        if let Some(Ok(_place)) = place {
            outcome = self.clear_later(&mut unwanted, outcome).await;
        }
        if let Err(error) = outcome {
            let name = unwanted.name.as_str();
            tracing::warn!(%error, name, "an upload nobody needs could not be removed");
        }
    }

    /// Tries again until the server has answered, and once more when it may have been behind.
    async fn clear_later(
        &self,
        unwanted: &mut Unwanted,
        mut outcome: Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        let mut pause = PAUSE_MIN;
        for _ in 0..TRIES_MAX {
            match outcome {
                Ok(()) if !unwanted.is_unsettled => break,
                Ok(()) => {
                    unwanted.is_unsettled = false;
                    pause = Duration::from_secs(ANSWER_SECONDS_MAX);
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.reached(Stage::Refusing) => break,
            }
            pause = (pause * 2).min(PAUSE_MAX);
            outcome = self.try_clear(unwanted).await;
        }
        outcome
    }

    async fn try_clear(&self, unwanted: &mut Unwanted) -> Result<(), BlobError> {
        if let Some(parts) = &mut unwanted.parts {
            match self.within(parts.abort()).await {
                Ok(()) | Err(BlobError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        if unwanted.is_published {
            self.delete(&unwanted.name).await?;
        }
        Ok(())
    }
}

/// Between two tries, doubled each time. All together about an hour.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
const TRIES_MAX: usize = 120;
