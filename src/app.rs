//! The composition root: the only file that knows every implementation, and the order in which things start and stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::api::admin::Admin;
use crate::api::files::Files;
use crate::api::messages::Messages;
use crate::api::uploads::Uploads;
use crate::blobs::{Blobs, BlobsConfig};
use crate::chat::id::MessageIdMaker;
use crate::chat::rejection::Rejection;
use crate::config::Config;
use crate::disk::FreeSpace;
use crate::drain::{Drain, Stage, Tasks};
use crate::history::{History, HistoryLimits};
use crate::http::server::{self, Server, Slots};
use crate::http::stack::{StackOptions, stack};
use crate::hub::session::Link;
use crate::hub::{Hub, HubLimits};
use crate::metrics::Metrics;
use crate::pipeline::archive::{self, Archive};
use crate::pipeline::deliver::Deliver;
use crate::pipeline::publish::{self, LaneLimits, Publisher};
use crate::protocol::connection::CloseReason;
use crate::router::{self, AdminRouter, Router};
use crate::socket::endpoint::{Endpoint, Options};
use crate::socket::handler::{Handler, Rates, random, unix_ms};
use crate::store::Store;
use crate::store::embedded::EmbeddedStore;
use crate::topic::journal::{Journal, JournalConfig};
use crate::topic::{Bounds, Start, Topic};

/// Admin connections at most: scrapes, probes and quote events need few.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// How often free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// How much of the time to stop in may pass until connections are closed.
const CLOSE_WAVES: u32 = 8;

// === App ===

/// A running service.
pub struct App {
    core: Core,
    journal: Arc<Journal>,
    drain_timeout: Duration,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators do.
    pub admin_address: SocketAddr,
}

/// What every part is made of.
struct Core {
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    history: Arc<History>,
    store: Arc<dyn Store>,
    topic: Arc<dyn Topic>,
    publisher: Arc<Publisher>,
    blobs: Blobs,
    space: Arc<FreeSpace>,
    drain: Drain,
    /// Connections and their requests.
    clients: Tasks,
    /// What moves messages.
    movers: Tasks,
}

/// Why the service did not start: one sentence that says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(String);

/// How the service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Tasks that had not ended in time.
    pub tasks_left: usize,
    /// Whether everything acknowledged is stored, and log and store were closed.
    pub is_clean: bool,
    pub took: Duration,
}

impl App {
    /// Opens log, store and uploads, refills history from the log, and begins to listen. When this returns, clients are
    /// served.
    pub async fn start(config: Config) -> Result<Self, SetupError> {
        config.check().map_err(SetupError)?;
        let data_dir = config.data_dir.clone();
        make_folder(&data_dir)?;
        let listener = listen(SocketAddr::new(config.host, config.port), "PORT")?;
        let admin_listener = listen(config.admin_addr, "ADMIN_ADDR")?;
        let address = listener
            .local_addr()
            .map_err(|error| setup("the listener", &error))?;
        let admin_address = admin_listener
            .local_addr()
            .map_err(|error| setup("the admin listener", &error))?;
        let journal = open_journal(&config).await?;
        let core = Core::open(&config, journal.clone()).await?;
        core.start_movers(&config).await?;
        let slots = Slots::new(config.limits.connections_max, core.metrics.clone());
        let router = core.router(&config);
        let options = stack_options(&config, &core.metrics);
        core.serve(listener, stack(router, &options), slots, &config);
        let slots = Slots::new(ADMIN_CONNECTIONS_MAX, core.metrics.clone());
        let admin = AdminRouter {
            admin: Arc::new(core.admin(journal.clone())),
        };
        // No browser of another origin has business there.
        let options = StackOptions {
            cors_origins: vec!["http://localhost".into()],
            ..options
        };
        core.serve(admin_listener, stack(admin, &options), slots, &config);
        let drain_timeout = config.drain_timeout;
        Ok(Self {
            core,
            journal,
            drain_timeout,
            address,
            admin_address,
        })
    }

    /// Serves until `shutdown` completes, then stops in stages, within the configured time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> DrainReport {
        shutdown.await;
        let started = Instant::now();
        tracing::info!("stopping: no new connections, no new messages");
        let deadline = self.drain_timeout;
        let drained = tokio::time::timeout(deadline, self.drain(deadline)).await;
        let is_clean = drained.is_ok_and(|is_clean| is_clean);
        // Whatever is left has had its time.
        self.core.drain.advance(Stage::Stopped);
        let left = self.core.clients.join(Duration::from_millis(100)).await
            + self.core.movers.join(Duration::from_millis(100)).await;
        DrainReport {
            tasks_left: left,
            is_clean,
            took: started.elapsed(),
        }
    }

    /// The stop follows the water: what comes in first, what goes out last.
    async fn drain(&self, within: Duration) -> bool {
        let core = &self.core;
        core.drain.advance(Stage::Refusing);
        core.publisher.refuse();
        core.publisher.flushed().await;
        // What was just acknowledged is shown before its receiver's connection is closed.
        let shown = core.history.shown().await.is_ok();
        core.close_sessions(within).await;
        core.drain.advance(Stage::Closing);
        // A client that does not let go must not keep what is queued from being written out.
        core.clients.join(within * 3 / 5).await;
        core.drain.advance(Stage::Stopped);
        let closed = core.topic.close().await;
        core.movers.join(within).await;
        let stored = core.store.close().await;
        let failures = [
            closed.err().map(|e| e.to_string()),
            stored.err().map(|e| e.to_string()),
        ];
        for error in failures.into_iter().flatten() {
            tracing::error!(error, "could not be closed");
        }
        shown && core.movers.count() == 0 && core.history.lag() == 0 && !self.journal.stats().failed
    }
}

impl Core {
    async fn open(config: &Config, journal: Arc<Journal>) -> Result<Self, SetupError> {
        let metrics = Arc::new(Metrics::new(&Rejection::CODES));
        let (drain, clients, movers) = (Drain::default(), Tasks::default(), Tasks::default());
        let space = FreeSpace::watch(config.data_dir.clone(), config.limits.disk_free_min);
        let space = Arc::new(space.map_err(|error| setup("DATA_DIR", &error))?);
        let store = open_store(&config.data_dir).await?;
        let blobs = open_blobs(config, &clients).await?;
        let topic: Arc<dyn Topic> = journal;
        let bounds = topic.bounds(archive::GROUP).await;
        let bounds: Vec<Bounds> = bounds.map_err(|error| setup("the journal", &error))?;
        let limits = HistoryLimits {
            tail_bytes_max: config.limits.tail_bytes_max,
            recent_ids_max: config.limits.recent_ids_max,
        };
        let epoch = config.journal.log_epoch;
        let history = History::new(store.clone(), &bounds, epoch, limits, metrics.clone());
        let history = Arc::new(history);
        let hub = Arc::new(Hub::new(hub_limits(config), metrics.clone()));
        let parts = publish::Parts {
            topic: topic.clone(),
            history: history.clone(),
            hub: hub.clone(),
            metrics: metrics.clone(),
        };
        let lanes = LaneLimits {
            messages_max: config.limits.lane_messages_max,
            bytes_max: config.limits.lane_bytes_max,
            batch_max: config.limits.batch_max,
        };
        let publisher = Arc::new(Publisher::new(config.lanes(), lanes, space.clone(), parts));
        Ok(Self {
            metrics,
            hub,
            history,
            store,
            topic,
            publisher,
            blobs,
            space,
            drain,
            clients,
            movers,
        })
    }

    /// Starts what moves messages, and waits until history has read all that the log holds.
    async fn start_movers(&self, config: &Config) -> Result<(), SetupError> {
        let cannot = |error| setup("the journal", &error);
        let behind = Start::Behind {
            group: archive::GROUP,
            window: config.journal.journal_retention,
            records_max: config.limits.recent_ids_max as u64,
        };
        let deliver = Deliver {
            subscription: self.topic.subscribe(behind).await.map_err(cannot)?,
            history: self.history.clone(),
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            batch_max: config.limits.batch_max,
        };
        self.movers.spawn("deliver", deliver.run());
        let group = Start::Group(archive::GROUP);
        let archive = Archive {
            subscription: self.topic.subscribe(group).await.map_err(cannot)?,
            store: self.store.clone(),
            history: self.history.clone(),
            metrics: self.metrics.clone(),
            batch_max: config.limits.batch_max,
            drain: self.drain.clone(),
        };
        self.movers.spawn("archive", archive.run());
        self.publisher.start(&self.movers, &self.drain);
        self.spawn_until_stopped("heartbeat", {
            let hub = self.hub.clone();
            async move { hub.beat().await }
        });
        self.spawn_until_stopped("free space", watch_space(self.space.clone()));
        self.history
            .caught_up()
            .await
            .map_err(|error| setup("the journal", &error))
    }

    /// Starts a task that has no end of its own.
    fn spawn_until_stopped(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let drain = self.drain.clone();
        self.movers.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = drain.reached(Stage::Stopped) => {}
            }
        });
    }

    fn router(&self, config: &Config) -> Router {
        let ids = Arc::new(MessageIdMaker::new(random::<8>()));
        let (engine, limits) = (&config.engine, &config.limits);
        let handler = Handler {
            hub: self.hub.clone(),
            publisher: self.publisher.clone(),
            ids: ids.clone(),
            metrics: self.metrics.clone(),
            rates: Rates {
                messages: limits.messages_per_second_max,
                typing: limits.typing_per_second_max,
            },
        };
        let endpoint = Endpoint {
            handler: Arc::new(handler),
            options: Options {
                ping_interval: engine.ping_interval,
                ping_timeout: engine.ping_timeout,
                upgrade_timeout: engine.upgrade_timeout,
                payload_bytes_max: engine.payload_bytes_max,
                cors_origins: config.cors_origins.clone(),
            },
            tasks: self.clients.clone(),
        };
        let messages = Messages {
            history: self.history.clone(),
            metrics: self.metrics.clone(),
            page_default: limits.page_default,
            page_max: limits.page_max,
        };
        let uploads = Uploads {
            blobs: self.blobs.clone(),
            publisher: self.publisher.clone(),
            history: self.history.clone(),
            ids,
            space: self.space.clone(),
            metrics: self.metrics.clone(),
            tasks: self.clients.clone(),
            file_bytes_max: limits.upload_bytes_max,
            slots: Semaphore::new(limits.uploads_max),
            unix_ms,
            random,
        };
        let files = Files {
            blobs: self.blobs.clone(),
        };
        let socket_path = engine.socket_path.clone();
        let parts = router::Parts {
            endpoint,
            messages,
            uploads,
            files,
            socket_path,
        };
        Router {
            parts: Arc::new(parts),
        }
    }

    fn admin(&self, journal: Arc<Journal>) -> Admin {
        let (metrics, history) = (self.metrics.clone(), self.history.clone());
        let (space, log) = (self.space.clone(), journal.clone());
        let tasks = [self.clients.clone(), self.movers.clone()];
        let refresh = move || {
            let stats = log.stats();
            metrics.journal_bytes.set(stats.bytes_on_disk);
            metrics.journal_records.set(stats.appended_records);
            metrics.journal_syncs.set(stats.blocks);
            metrics.journal_queued_bytes.set(stats.queued_bytes as u64);
            metrics.archive_lag.set(history.lag());
            metrics
                .disk_free_bytes
                .set(space.refresh().unwrap_or_default());
            metrics
                .tasks
                .set(tasks.iter().map(Tasks::count).sum::<usize>() as i64);
        };
        let log_failure = move || {
            journal
                .stats()
                .failed
                .then(|| "a write failed; restart".to_owned())
        };
        Admin {
            metrics: self.metrics.clone(),
            refresh: Box::new(refresh),
            log_failure: Box::new(log_failure),
            store: self.store.clone(),
            blobs: self.blobs.clone(),
            history: self.history.clone(),
            publisher: self.publisher.clone(),
            space: self.space.clone(),
            drain: self.drain.clone(),
            unix_ms,
        }
    }

    fn serve(
        &self,
        listener: tokio::net::TcpListener,
        stack: crate::http::stack::Stack,
        slots: Slots,
        config: &Config,
    ) {
        let server = Server {
            listener,
            stack,
            header_timeout: config.limits.header_timeout,
            slots,
            tasks: self.clients.clone(),
            drain: self.drain.clone(),
        };
        self.clients.spawn("accept", server.run());
    }

    /// Closes all sessions in waves, so that their clients do not come back to the next server all at once. A
    /// Socket.IO DISCONNECT is never sent: clients would take it as final.
    async fn close_sessions(&self, within: Duration) {
        let sessions = self.hub.sessions();
        let wave = sessions.len().div_ceil(CLOSE_WAVES as usize).max(1);
        let pause = (within / 4 / CLOSE_WAVES).min(Duration::from_millis(100));
        for wave in sessions.chunks(wave) {
            for session in wave {
                self.hub.close(session, CloseReason::ServerShuttingDown);
            }
            tokio::time::sleep(pause).await;
        }
        // A handshake may have slipped in before the listener closed.
        for session in self.hub.sessions() {
            self.hub.close(&session, CloseReason::ServerShuttingDown);
            if *session.link.lock() != Link::WebSocket {
                self.hub.forget(&session);
            }
        }
    }
}

async fn watch_space(space: Arc<FreeSpace>) {
    loop {
        if let Err(error) = space.refresh() {
            tracing::warn!(%error, "free space cannot be told");
        }
        tokio::time::sleep(SPACE_EVERY).await;
    }
}

// === opening ===

fn setup(what: &str, error: &dyn std::fmt::Display) -> SetupError {
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

fn listen(address: SocketAddr, knob: &str) -> Result<tokio::net::TcpListener, SetupError> {
    server::bind(address)
        .map_err(|error| SetupError(format!("{knob}: cannot listen on {address}: {error}")))
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

fn stack_options(config: &Config, metrics: &Arc<Metrics>) -> StackOptions {
    StackOptions {
        metrics: metrics.clone(),
        socket_path: config.engine.socket_path.as_str().into(),
        cors_origins: config.cors_origins.clone(),
        body_idle_timeout: config.limits.body_idle_timeout,
    }
}

fn hub_limits(config: &Config) -> HubLimits {
    HubLimits {
        outbox_bytes_max: config.limits.outbox_bytes_max,
        rooms_per_socket_max: config.limits.rooms_per_socket_max,
        payload_bytes_max: config.engine.payload_bytes_max,
        ping_interval: config.engine.ping_interval,
        ping_timeout: config.engine.ping_timeout,
        connect_timeout: config.engine.connect_timeout,
    }
}
