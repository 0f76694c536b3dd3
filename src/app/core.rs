//! What every part is made of, and how the parts are put together.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::api::admin::Admin;
use crate::api::files::Files;
use crate::api::messages::Messages;
use crate::api::uploads::Uploads;
use crate::app::backends::{Backends, Log, SetupError, Told, setup};
use crate::app::watch::{tidy_sessions, watch_archive, watch_space};
use crate::blobs::Blobs;
use crate::chat::id::MessageIdMaker;
use crate::chat::rejection::Rejection;
use crate::config::{Config, Transport};
use crate::disk::FreeSpace;
use crate::drain::{Drain, Stage, Tasks};
use crate::history::{History, HistoryLimits, Origin};
use crate::http::server::Server;
use crate::http::slots::Slots;
use crate::http::stack::Stack;
use crate::hub::ledger::Ledger;
use crate::hub::recovery::{Recovery, RecoveryLimits};
use crate::hub::session::Link;
use crate::hub::{Hub, HubLimits};
use crate::metrics::Metrics;
use crate::pipeline::archive::{self, Archive};
use crate::pipeline::deliver::Deliver;
use crate::pipeline::publish::{self, LaneLimits, Publisher};
use crate::pipeline::quotes::{self, Publish, Quotes};
use crate::pipeline::signals::Signals;
use crate::protocol::connection::CloseReason;
use crate::router::{self, AdminRouter, Router};
use crate::socket::chat::{Chat, Rates, unix_ms};
use crate::socket::client_files::ClientFiles;
use crate::socket::endpoint::{Endpoint, Options};
use crate::socket::engine::Engine;
use crate::socket::namespaces::Namespaces;
use crate::socket::random;
use crate::store::Store;
use crate::topic::dead_letters::{DeadLetters, LetterPlace};
use crate::topic::{Bounds, Start, Topic, TopicError};

/// How often a log that cannot tell yet is asked again at start.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// In how many steps sessions are closed.
const CLOSE_WAVES: u32 = 8;

/// What every part is made of.
pub struct Core {
    pub metrics: Arc<Metrics>,
    pub hub: Arc<Hub>,
    pub history: Arc<History>,
    pub store: Arc<dyn Store>,
    pub log: Log,
    letters: LetterPlace,
    /// The topic of quote events, and where its dead letters go.
    quotes: Option<(Arc<dyn Topic>, LetterPlace)>,
    pub told: Told,
    pub publisher: Arc<Publisher>,
    /// The way of typing to other nodes, where there may be any.
    pub signals: Option<Arc<Signals>>,
    pub blobs: Blobs,
    pub space: Arc<FreeSpace>,
    pub drain: Drain,
    /// Connections and their requests.
    pub clients: Tasks,
    /// What moves messages.
    pub movers: Tasks,
}

impl Core {
    /// Opens log, store and files, and makes the parts that work on them. Nothing moves yet.
    pub async fn open(config: &Config) -> Result<Self, SetupError> {
        let metrics = Arc::new(Metrics::new(&Rejection::CODES));
        let (drain, clients, movers) = (Drain::default(), Tasks::default(), Tasks::default());
        let Backends {
            log,
            letters,
            quotes,
            signals,
            store,
            blobs,
            told,
        } = Backends::open(config, &clients, &drain).await?;
        let space = FreeSpace::watch(config.data_dir.clone(), config.limits.disk_free_min);
        let space = Arc::new(space.map_err(|error| setup("DATA_DIR", &error))?);
        let bounds = bounds(&log, config.start_timeout).await?;
        let limits = history_limits(config);
        let origin = Origin {
            epoch: config.journal.log_epoch,
            topic: &config.kafka.kafka_topic_chat_messages,
        };
        let history = History::new(store.clone(), &bounds, origin, limits, metrics.clone());
        let history = match log.is_shared(config) {
            true => history.shared(log.topic.clone(), archive::GROUP),
            false => history,
        };
        let history = Arc::new(history);
        let recovery = recovery(config, &bounds, &metrics).await;
        let hub = Arc::new(Hub::new(hub_limits(config), recovery, metrics.clone()));
        let parts = publish::Parts {
            topic: log.topic.clone(),
            history: history.clone(),
            hub: hub.clone(),
            metrics: metrics.clone(),
        };
        let limits = lane_limits(config);
        let publisher = Arc::new(Publisher::new(config.lanes(), limits, space.clone(), parts));
        let core = Self {
            signals: None,
            metrics,
            hub,
            history,
            store,
            log,
            letters,
            quotes,
            told,
            publisher,
            blobs,
            space,
            drain,
            clients,
            movers,
        };
        Ok(match signals {
            Some(topic) => core.with_signals(topic, config),
            None => core,
        })
    }

    /// Starts what moves typing between nodes. What is under way when the service stops is lost.
    fn with_signals(mut self, topic: Arc<dyn Topic>, config: &Config) -> Self {
        let queue_max = config.limits.signals_max;
        let metrics = self.metrics.clone();
        let (signals, outgoing) = Signals::new(topic.clone(), random(), queue_max, metrics);
        let incoming = signals.incoming(topic, self.hub.clone());
        self.spawn_until_stopped("signals out", outgoing.run());
        self.spawn_until_stopped("signals in", incoming.run());
        self.signals = Some(Arc::new(signals));
        self
    }

    /// Starts what moves messages, and waits until history has read all that the log holds.
    pub async fn start_movers(&self, config: &Config) -> Result<(), SetupError> {
        let cannot = |error| setup("the log", &error);
        self.spawn_until_stopped("horizon", {
            let history = self.history.clone();
            async move { history.follow().await }
        });
        let behind = Start::Behind {
            group: archive::GROUP,
            window: config.journal.journal_retention,
            records_max: config.limits.recent_ids_max as u64,
        };
        let deliver = Deliver {
            subscription: self.log.topic.subscribe(behind).await.map_err(cannot)?,
            history: self.history.clone(),
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            batch_max: config.limits.batch_max,
        };
        self.spawn_mover("deliver", deliver.run());
        let group = Start::Group(archive::GROUP);
        let archive = Archive {
            subscription: self.log.topic.subscribe(group).await.map_err(cannot)?,
            store: self.store.clone(),
            dead_letters: DeadLetters::new(
                &config.kafka.kafka_topic_chat_messages,
                self.letters.clone(),
                self.metrics.clone(),
            ),
            history: self.history.clone(),
            metrics: self.metrics.clone(),
            batch_max: config.insert_max(),
            drain: self.drain.clone(),
        };
        self.spawn_mover("archive", archive.run());
        self.publisher.start(&self.movers, &self.drain);
        self.spawn_until_stopped("heartbeat", {
            let hub = self.hub.clone();
            async move { hub.beat().await }
        });
        if self.hub.recovery().is_some() {
            self.spawn_until_stopped("recovery", tidy_sessions(self.hub.clone()));
        }
        self.spawn_until_stopped("free space", watch_space(self.space.clone()));
        let watching = watch_archive(self.history.clone(), self.metrics.clone());
        self.spawn_until_stopped("archive's age", watching);
        let caught_up = async {
            self.history.caught_up().await?;
            // What was read last is still on its way to those who recover.
            self.history.shown().await
        };
        caught_up.await.map_err(|error| setup("the log", &error))?;
        match &self.quotes {
            Some((topic, letters)) => self.start_quotes(config, &**topic, letters).await,
            None => Ok(()),
        }
    }

    async fn start_quotes(
        &self,
        config: &Config,
        topic: &dyn Topic,
        letters: &LetterPlace,
    ) -> Result<(), SetupError> {
        let group = Start::Group(quotes::GROUP);
        let subscription = topic.subscribe(group).await;
        let publisher = self.publisher.clone();
        let publish = move |sealed| -> BoxFuture<'static, Result<(), Rejection>> {
            let publisher = publisher.clone();
            Box::pin(async move { publisher.publish(sealed).await.map(|_published| ()) })
        };
        let quotes = Quotes {
            subscription: subscription.map_err(|error| setup("the quote events", &error))?,
            publish: Publish(Box::new(publish)),
            dead_letters: DeadLetters::new(
                &config.kafka.kafka_topic_quote_events,
                letters.clone(),
                self.metrics.clone(),
            ),
            metrics: self.metrics.clone(),
            drain: self.drain.clone(),
            unix_ms,
        };
        self.spawn_mover("quotes", quotes.run());
        Ok(())
    }

    /// Starts a task without which the service cannot go on.
    fn spawn_mover(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), TopicError>> + Send + 'static,
    ) {
        let drain = self.drain.clone();
        self.movers.spawn(name, async move {
            let ended = task.await;
            if drain.is_running() {
                let why = ended.err().unwrap_or(TopicError::Closed);
                drain.fail(format!("{name} cannot go on: {why}"));
            }
        });
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

    /// The handlers of the public port.
    pub fn router(&self, config: &Config) -> Result<Router, SetupError> {
        let ids = Arc::new(MessageIdMaker::new(random::<8>()));
        let (engine, limits) = (&config.engine, &config.limits);
        let endpoint = self.endpoint(config, ids.clone())?;
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
        let link_seconds = u64::from(limits.upload_link_seconds);
        let files = Files {
            blobs: self.blobs.clone(),
            link_validity: (link_seconds > 0).then(|| Duration::from_secs(link_seconds)),
        };
        let socket_path = engine.socket_path.clone();
        let parts = router::Parts {
            endpoint,
            messages,
            uploads,
            files,
            socket_path,
            compression: engine.http_compression,
        };
        Ok(Router {
            parts: Arc::new(parts),
        })
    }

    /// Socket.IO with the chat on it.
    fn endpoint(&self, config: &Config, ids: Arc<MessageIdMaker>) -> Result<Endpoint, SetupError> {
        let client_files = match &config.engine.serve_client {
            None => ClientFiles::default(),
            Some(folder) => {
                ClientFiles::read(folder).map_err(|error| setup("SERVE_CLIENT", &error))?
            }
        };
        let (engine, limits) = (&config.engine, &config.limits);
        let chat = Chat {
            hub: self.hub.clone(),
            publisher: self.publisher.clone(),
            signals: self.signals.clone(),
            ids,
            metrics: self.metrics.clone(),
            rates: Rates {
                messages: limits.messages_per_second_max,
                typing: limits.typing_per_second_max,
            },
        };
        let sessions = Engine {
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            messages: Box::new(Namespaces {
                hub: self.hub.clone(),
                application: chat,
            }),
        };
        Ok(Endpoint {
            engine: Arc::new(sessions),
            options: Options {
                ping_interval: engine.ping_interval,
                ping_timeout: engine.ping_timeout,
                upgrade_timeout: engine.upgrade_timeout,
                payload_bytes_max: engine.payload_bytes_max,
                cors_origins: config.cors_origins.clone(),
                polling: engine.transports.contains(&Transport::Polling),
                websocket: engine.transports.contains(&Transport::Websocket),
                upgrades: engine.allow_upgrades,
                revision_3: engine.allow_eio3,
                jsonp: engine.allow_jsonp,
                cookie: engine.cookie.clone(),
            },
            client_files,
            tasks: self.clients.clone(),
        })
    }

    /// The handlers of the admin listener.
    pub fn admin(&self) -> AdminRouter {
        let (metrics, history) = (self.metrics.clone(), self.history.clone());
        let (space, log) = (self.space.clone(), self.log.clone());
        let tasks = [self.clients.clone(), self.movers.clone()];
        let refresh = move || {
            log.measure(&metrics);
            metrics.archive_lag.set(history.lag());
            metrics
                .disk_free_bytes
                .set(space.refresh().unwrap_or_default());
            metrics
                .tasks
                .set(tasks.iter().map(Tasks::count).sum::<usize>() as i64);
        };
        let log = self.log.clone();
        let admin = Admin {
            metrics: self.metrics.clone(),
            refresh: Box::new(refresh),
            log_failure: Box::new(move || log.failure()),
            store: self.store.clone(),
            blobs: self.blobs.clone(),
            history: self.history.clone(),
            publisher: self.publisher.clone(),
            space: self.space.clone(),
            drain: self.drain.clone(),
            unix_ms,
        };
        AdminRouter {
            admin: Arc::new(admin),
        }
    }

    /// Begins to accept connections.
    pub fn serve(&self, listener: TcpListener, stack: Stack, slots: Slots, config: &Config) {
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
    pub async fn close_sessions(&self, within: Duration) {
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

/// Where the log ends and what the archive has of it. A cluster that has just started may need a while to know.
async fn bounds(log: &Log, within: Duration) -> Result<Vec<Bounds>, SetupError> {
    let started = Instant::now();
    loop {
        match log.topic.bounds(archive::GROUP).await {
            Ok(bounds) => return Ok(bounds),
            Err(TopicError::Unavailable(error)) if started.elapsed() < within => {
                tracing::info!(error = &*error, "waiting for the log");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            Err(error) => return Err(setup("the log", &error)),
        }
    }
}

async fn recovery(config: &Config, bounds: &[Bounds], metrics: &Arc<Metrics>) -> Option<Recovery> {
    let engine = &config.engine;
    let limits = RecoveryLimits {
        window: engine.recovery_window,
        messages_bytes_max: engine.recovery_messages_bytes_max,
        sessions_bytes_max: engine.recovery_sessions_bytes_max,
    };
    let epoch = config.journal.log_epoch;
    if limits.window.is_zero() {
        return None;
    }
    let recovery = Recovery::new(epoch, bounds, limits, metrics.clone());
    let folder = config.data_dir.join("recovery");
    let opened = spawn_blocking(move || Ledger::open(&folder, limits.window)).await;
    Some(match opened.unwrap_or_else(|error| Err(error.into())) {
        Ok((ledger, saved)) => recovery.restore(ledger, saved),
        Err(error) => {
            tracing::warn!(%error, "sessions will not be recovered after a restart");
            recovery
        }
    })
}

fn history_limits(config: &Config) -> HistoryLimits {
    HistoryLimits {
        tail_bytes_max: config.limits.tail_bytes_max,
        recent_ids_max: config.limits.recent_ids_max,
    }
}

fn lane_limits(config: &Config) -> LaneLimits {
    LaneLimits {
        messages_max: config.limits.lane_messages_max,
        bytes_max: config.limits.lane_bytes_max,
        batch_max: config.append_max(),
        wait_max: config.kafka.kafka_delivery_timeout,
    }
}

fn hub_limits(config: &Config) -> HubLimits {
    HubLimits {
        outbox_bytes_max: config.limits.outbox_bytes_max,
        rooms_per_socket_max: config.limits.rooms_per_socket_max,
        sessions_max: config.limits.connections_max,
        payload_bytes_max: config.engine.payload_bytes_max,
        ping_interval: config.engine.ping_interval,
        ping_timeout: config.engine.ping_timeout,
        connect_timeout: Some(config.engine.connect_timeout),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::chat::id::ID_BYTES_MAX;
    use crate::config;

    #[test]
    fn the_limits_of_a_server_that_is_not_configured_are_the_defaults_of_its_parts() {
        let config = Config::try_parse_from(["chat-svc"]).unwrap();
        assert_eq!(history_limits(&config), HistoryLimits::default());
        assert_eq!(lane_limits(&config), LaneLimits::default());
        assert_eq!(hub_limits(&config), HubLimits::default());
        assert_eq!(config::ROOM_BYTES_MAX, ID_BYTES_MAX);
    }
}
