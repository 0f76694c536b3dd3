//! The composition root: in which order the service starts, and stops.

pub mod backends;
mod core;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::app::backends::{SetupError, Told, setup};
use crate::app::core::Core;
use crate::config::Config;
use crate::drain::Stage;
use crate::http::server;
use crate::http::slots::Slots;
use crate::http::stack::{Credentials, StackOptions, stack};
use crate::metrics::Metrics;

/// Admin connections at most: scrapes, probes and quote events need few.
const ADMIN_CONNECTIONS_MAX: usize = 256;

// === App ===

/// A running service.
pub struct App {
    core: Core,
    drain_timeout: Duration,
    /// Where log and store are.
    pub told: Told,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators do.
    pub admin_address: SocketAddr,
}

/// How the service ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Why the service stopped though nobody asked it to, if so.
    pub failure: Option<String>,
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
        let listener = listen(SocketAddr::new(config.host, config.port), "PORT")?;
        let admin_listener = listen(config.admin_addr, "ADMIN_ADDR")?;
        let address = listener
            .local_addr()
            .map_err(|error| setup("the listener", &error))?;
        let admin_address = admin_listener
            .local_addr()
            .map_err(|error| setup("the admin listener", &error))?;
        let core = Core::open(&config).await?;
        core.start_movers(&config).await?;
        let slots = Slots::new(config.limits.connections_max, core.metrics.clone());
        let router = core.router(&config)?;
        let options = stack_options(&config, &core.metrics);
        core.serve(listener, stack(router, &options), slots, &config);
        let slots = Slots::new(ADMIN_CONNECTIONS_MAX, core.metrics.clone());
        // No browser of another origin has business there.
        let options = StackOptions {
            cors_origins: vec!["http://localhost".into()],
            cors_credentials: Credentials::Never,
            ..options
        };
        core.serve(
            admin_listener,
            stack(core.admin(), &options),
            slots,
            &config,
        );
        let drain_timeout = config.drain_timeout;
        let told = core.told.clone();
        Ok(Self {
            core,
            told,
            drain_timeout,
            address,
            admin_address,
        })
    }

    /// Serves until `shutdown` completes, or a part cannot go on; then stops in stages, within the configured time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> DrainReport {
        let failure = tokio::select! {
            () = shutdown => None,
            why = self.core.drain.failed() => Some(why),
        };
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
            failure,
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
        let closed = core.log.topic.close().await;
        core.movers.join(within).await;
        let stored = core.store.close().await;
        let failures = [
            closed.err().map(|e| e.to_string()),
            stored.err().map(|e| e.to_string()),
        ];
        for error in failures.into_iter().flatten() {
            tracing::error!(error, "could not be closed");
        }
        // What is left in a shared log, the other nodes store.
        let is_stored = core.history.is_shared() || core.history.lag() == 0;
        shown && core.movers.count() == 0 && is_stored && !core.log.has_failed()
    }
}

fn listen(address: SocketAddr, knob: &str) -> Result<TcpListener, SetupError> {
    server::bind(address)
        .map_err(|error| SetupError(format!("{knob}: cannot listen on {address}: {error}")))
}

fn stack_options(config: &Config, metrics: &Arc<Metrics>) -> StackOptions {
    StackOptions {
        metrics: metrics.clone(),
        socket_path: config.engine.socket_path.as_str().into(),
        cors_origins: config.cors_origins.clone(),
        cors_credentials: match config.cors_credentials {
            Some(true) => Credentials::Always,
            Some(false) => Credentials::Never,
            None if config.cors_origins.is_empty() => Credentials::OldClients,
            None => Credentials::Always,
        },
        body_idle_timeout: config.limits.body_idle_timeout,
    }
}
