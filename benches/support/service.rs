//! The service around a message: all its parts but the sockets of the system.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use chat_svc::chat::id::MessageIdMaker;
use chat_svc::chat::rejection::Rejection;
use chat_svc::disk::FreeSpace;
use chat_svc::drain::{Drain, Tasks};
use chat_svc::history::History;
use chat_svc::hub::Hub;
use chat_svc::hub::outbox::Taken;
use chat_svc::hub::session::Session;
use chat_svc::metrics::Metrics;
use chat_svc::pipeline::deliver::Deliver;
use chat_svc::pipeline::publish::{LaneLimits, Parts, Publisher};
use chat_svc::protocol::engineio::SID_BYTES;
use chat_svc::socket::chat::{Chat, Rates};
use chat_svc::socket::engine::Engine;
use chat_svc::socket::namespaces::Namespaces;
use chat_svc::store::embedded::EmbeddedStore;
use chat_svc::topic::{Start, Topic};
use tokio::runtime::{Builder, Runtime};

use super::messages::{RECEIVER, SENDER};
use super::sessions;

/// Sockets of the user to whom messages go.
pub const RECEIVERS: usize = 2;

/// Messages delivered together, as in the server.
const DELIVERED_MAX: usize = 1_024;

/// The parts between a client's frame and the frames of its readers, on one thread. Nothing is archived.
pub struct Service {
    runtime: Runtime,
    pub hub: Arc<Hub>,
    engine: Engine,
    publisher: Arc<Publisher>,
    history: Arc<History>,
    metrics: Arc<Metrics>,
    pub sender: Arc<Session>,
    receivers: Vec<Arc<Session>>,
    tasks: Tasks,
}

impl Service {
    /// On this log, from which messages go to all that get them.
    pub fn start(log: Arc<dyn Topic>, folder: &Path) -> Self {
        let service = Self::unread(log.clone(), folder);
        let subscription = service.runtime.block_on(log.subscribe(Start::Latest));
        let deliver = Deliver {
            subscription: subscription.expect("a subscription"),
            history: service.history.clone(),
            hub: service.hub.clone(),
            metrics: service.metrics.clone(),
            batch_max: DELIVERED_MAX,
        };
        service.runtime.block_on(async {
            service.tasks.spawn("deliver", async move {
                deliver.run().await.expect("a log that can be read");
            });
        });
        service
    }

    /// On this log, which nobody reads. What else has to be on a disk goes into `folder`.
    pub fn unread(log: Arc<dyn Topic>, folder: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let metrics = Arc::new(Metrics::new(&Rejection::CODES));
        let store = EmbeddedStore::open(folder.join("store")).expect("a store");
        let history = History::alone(&*log, Arc::new(store), metrics.clone());
        let history = runtime.block_on(history).expect("the log's bounds");
        let history = Arc::new(history);
        let hub = sessions::hub(16 << 20, &metrics);
        let parts = Parts {
            topic: log,
            history: history.clone(),
            hub: hub.clone(),
            metrics: metrics.clone(),
        };
        let space = FreeSpace::watch(folder.to_owned(), 0).expect("a folder");
        let publisher = Publisher::new(1, LaneLimits::default(), Arc::new(space), parts);
        let publisher = Arc::new(publisher);
        let tasks = Tasks::default();
        runtime.block_on(async { publisher.start(&tasks, &Drain::default()) });
        let engine = engine(&hub, &metrics, &publisher);
        let client = |number: usize, user: &str| connect(&hub, &engine, number as u8, user);
        Self {
            sender: client(0, SENDER),
            receivers: (1..=RECEIVERS).map(|n| client(n, RECEIVER)).collect(),
            runtime,
            hub,
            engine,
            publisher,
            history,
            metrics,
            tasks,
        }
    }

    /// From a packet to the lane in front of the log.
    pub fn submit(&self, packet: &str) {
        let taken = self.engine.text(&self.sender, packet);
        taken.expect("a packet that is taken");
    }

    /// Until the log has answered for all that was submitted.
    pub fn flush(&self) {
        self.runtime.block_on(self.publisher.flushed());
    }

    /// From the lane through the log to the outboxes of all, and from there into `out`, until `messages` messages have
    /// come to all that get them.
    pub fn deliver(&self, messages: usize, out: &mut Vec<u8>) {
        let mut missing = messages * (1 + RECEIVERS);
        let delivered = poll_fn(|cx| {
            missing -= self.take(cx, out);
            if missing == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        self.runtime.block_on(delivered);
    }

    /// Takes what waits in the outboxes; how many frames that were.
    fn take(&self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> usize {
        let mut frames = 0;
        for session in self.receivers.iter().chain([&self.sender]) {
            // Until there is nothing: then the next push wakes the caller.
            while let Poll::Ready(taken) = session.outbox.poll_take(cx, |frame| {
                out.extend_from_slice(frame.websocket());
                frames += 1;
                true
            }) {
                assert_eq!(taken, Taken::Frames);
            }
        }
        frames
    }
}

fn engine(hub: &Arc<Hub>, metrics: &Arc<Metrics>, publisher: &Arc<Publisher>) -> Engine {
    let chat = Chat {
        hub: hub.clone(),
        publisher: publisher.clone(),
        signals: None,
        ids: Arc::new(MessageIdMaker::new([7; 8])),
        metrics: metrics.clone(),
        rates: Rates {
            messages: 0,
            typing: 0,
        },
    };
    Engine {
        hub: hub.clone(),
        metrics: metrics.clone(),
        messages: Box::new(Namespaces {
            hub: hub.clone(),
            application: chat,
        }),
    }
}

/// A client on a websocket, CONNECTed and in its user's room, with nothing left in its outbox.
fn connect(hub: &Hub, engine: &Engine, number: u8, user: &str) -> Arc<Session> {
    let session = sessions::open(hub, [number; SID_BYTES]);
    for packet in ["40", &format!(r#"42["joinRoom","{user}"]"#)] {
        let taken = engine.text(&session, packet);
        taken.expect("a packet that is taken");
    }
    sessions::take_all(&session.outbox, |_| {});
    session
}
