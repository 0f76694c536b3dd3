//! What is looked at from time to time, for as long as the service runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use crate::disk::FreeSpace;
use crate::history::History;
use crate::hub::Hub;
use crate::hub::recovery::Recovery;
use crate::metrics::Metrics;

/// How often free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether the archive has moved.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether what is known of sessions should be written anew.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Keeps the free space known.
pub async fn watch_space(space: Arc<FreeSpace>) {
    loop {
        if let Err(error) = space.refresh() {
            tracing::warn!(%error, "free space cannot be told");
        }
        tokio::time::sleep(SPACE_EVERY).await;
    }
}

/// Tells for how long the archive has stood still with something to do.
pub async fn watch_archive(history: Arc<History>, metrics: Arc<Metrics>) {
    let mut moved = (history.watermark(), Instant::now());
    loop {
        let watermark = history.watermark();
        if watermark != moved.0 || history.lag() == 0 {
            moved = (watermark, Instant::now());
        }
        metrics.archive_age.set(moved.1.elapsed().as_secs());
        tokio::time::sleep(WATERMARK_EVERY).await;
    }
}

/// Has what is known of sessions written anew when that pays.
pub async fn tidy_sessions(hub: Arc<Hub>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let hub = hub.clone();
        let tidied = spawn_blocking(move || hub.recovery().map(Recovery::tidy)).await;
        debug_assert!(tidied.is_ok(), "it does not panic");
    }
}
