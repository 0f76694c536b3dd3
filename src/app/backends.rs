//! Log, store and files: opened as the configuration asks, each failure one sentence. The only file that knows every
//! implementation of them.

use std::path::Path;
use std::sync::Arc;

use crate::blobs::{Blobs, BlobsConfig};
use crate::config::Config;
use crate::drain::Tasks;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::embedded::EmbeddedStore;
use crate::topic::Topic;
use crate::topic::journal::{Journal, JournalConfig};

/// What the service keeps its messages and files in.
pub struct Backends {
    pub log: Log,
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
}

/// The log, and what only its implementation can tell of it.
#[derive(Clone)]
pub struct Log {
    pub topic: Arc<dyn Topic>,
    journal: Arc<Journal>,
}

impl Backends {
    /// Opens all three. `tasks` run what files need done when a client has gone.
    pub async fn open(config: &Config, tasks: &Tasks) -> Result<Self, SetupError> {
        make_folder(&config.data_dir)?;
        let journal = open_journal(config).await?;
        let store = open_store(&config.data_dir).await?;
        let blobs = open_blobs(config, tasks).await?;
        Ok(Self {
            log: Log {
                topic: journal.clone(),
                journal,
            },
            store,
            blobs,
        })
    }
}

impl Log {
    /// Why it takes no messages any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.journal
            .stats()
            .failed
            .then(|| "a write failed; restart".to_owned())
    }

    /// Brings its numbers up to date.
    pub fn measure(&self, metrics: &Metrics) {
        let stats = self.journal.stats();
        metrics.journal_bytes.set(stats.bytes_on_disk);
        metrics.journal_records.set(stats.appended_records);
        metrics.journal_syncs.set(stats.blocks);
        metrics.journal_queued_bytes.set(stats.queued_bytes as u64);
    }
}

/// Why the service did not start: one sentence that says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub String);

pub fn setup(what: &str, error: &dyn std::fmt::Display) -> SetupError {
    SetupError(format!("{what}: {error}"))
}

fn make_folder(folder: &Path) -> Result<(), SetupError> {
    std::fs::create_dir_all(folder).map_err(|error| {
        SetupError(format!(
            "DATA_DIR: the folder {} cannot be used: {error}",
            folder.display()
        ))
    })
}

async fn open_journal(config: &Config) -> Result<Arc<Journal>, SetupError> {
    let limits = &config.journal;
    let journal = JournalConfig {
        segment_bytes_max: limits.journal_segment_bytes,
        retention: limits.journal_retention,
        retained_bytes_max: limits.journal_retained_bytes_max,
        ..JournalConfig::new(config.data_dir.join("journal"))
    };
    let opened = blocking(move || Journal::open(journal)).await?;
    Ok(Arc::new(opened.map_err(|error| setup("DATA_DIR", &error))?))
}

async fn open_store(data_dir: &Path) -> Result<Arc<dyn Store>, SetupError> {
    let path = data_dir.join("store");
    let opened = blocking(move || EmbeddedStore::open(&path)).await?;
    Ok(Arc::new(opened.map_err(|error| setup("DATA_DIR", &error))?))
}

async fn open_blobs(config: &Config, tasks: &Tasks) -> Result<Blobs, SetupError> {
    let url = config.upload_url.as_deref().filter(|url| !url.is_empty());
    let folder = BlobsConfig::choose(&config.upload_path, url);
    let folder = folder.map_err(|error| setup("UPLOAD_URL", &error))?;
    let tasks = tasks.clone();
    blocking(move || Blobs::open(&folder, tasks))
        .await?
        .map_err(|error| setup("UPLOAD_PATH", &error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SetupError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| setup("start", &error))
}
