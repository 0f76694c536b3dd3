//! A chat message on its way, and the service around it: all its parts but the sockets of the system.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use chat_svc::chat::id::MessageIdMaker;
use chat_svc::chat::rejection::Rejection;
use chat_svc::disk::FreeSpace;
use chat_svc::drain::{Drain, Tasks};
use chat_svc::history::History;
use chat_svc::hub::outbox::Taken;
use chat_svc::hub::session::{Handshake, Link, PollingForm, Session};
use chat_svc::hub::{Hub, HubLimits};
use chat_svc::metrics::Metrics;
use chat_svc::pipeline::deliver::Deliver;
use chat_svc::pipeline::publish::{LaneLimits, Parts, Publisher};
use chat_svc::protocol::engineio::{Revision, SID_BYTES, Sid};
use chat_svc::protocol::websocket::{Decoder, Event, Opcode, Step, head};
use chat_svc::socket::chat::{Chat, Rates};
use chat_svc::socket::engine::Engine;
use chat_svc::socket::namespaces::Namespaces;
use chat_svc::store::embedded::EmbeddedStore;
use chat_svc::topic::{Start, Topic};
use tokio::runtime::{Builder, Runtime};

/// Largest message of a client.
pub const BYTES_MAX: usize = 1_000_000;

/// Sockets of the user to whom messages go.
pub const RECEIVERS: usize = 2;

/// Who gets the messages.
pub const RECEIVER: &str = "user-4712";

// === A message ===

/// The packet of a `chatMessage` of some 250 bytes, as official clients write it.
pub fn chat_message(text_bytes: usize) -> String {
    let text = "grüße ".repeat(text_bytes / 8);
    let ids =
        format!(r#""conversation_id":"c-4711","sender_id":"user-0815","receiver_id":"{RECEIVER}""#);
    format!(r#"42["chatMessage",{{{ids},"text_content":"{text}"}}]"#)
}

/// The packet as a client's frame, masked.
pub fn client_frame(packet: &str) -> Vec<u8> {
    let payload = packet.as_bytes();
    let (head, head_len) = head(Opcode::Text, payload.len());
    let mut frame = head[..head_len].to_vec();
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// The packet in a frame that holds one whole.
pub fn unframe(frame: &mut [u8]) -> &str {
    // A text in one frame borrows nothing of the decoder.
    let len = frame.len();
    let step = Decoder::new()
        .decode(frame, BYTES_MAX)
        .map(|step| match step {
            Step::Done {
                consumed,
                event: Some(Event::Text(text)),
            } => (consumed, text.len()),
            _ => (0, 0),
        });
    let (consumed, text) = step.expect("a frame");
    assert!(consumed == len && text > 0, "a whole text");
    std::str::from_utf8(&frame[len - text..]).expect("UTF-8")
}

// === Service ===

/// The parts between a client's frame and the frames of its readers, on one thread. Nothing is archived.
pub struct Service {
    runtime: Runtime,
    pub hub: Arc<Hub>,
    pub engine: Engine,
    pub sender: Arc<Session>,
    receivers: Vec<Arc<Session>>,
    _tasks: Tasks,
}

impl Service {
    /// On this log; what else has to be on a disk goes into `folder`.
    pub fn start(topic: Arc<dyn Topic>, folder: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let metrics = Arc::new(Metrics::new(&Rejection::CODES));
        let hub = Arc::new(Hub::new(hub_limits(), None, metrics.clone()));
        let tasks = Tasks::default();
        let publisher = runtime.block_on(pipeline(topic, folder, &hub, &metrics, &tasks));
        let chat = Chat {
            hub: hub.clone(),
            publisher,
            signals: None,
            ids: Arc::new(MessageIdMaker::new([7; 8])),
            metrics: metrics.clone(),
            rates: Rates {
                messages: 0,
                typing: 0,
            },
        };
        let engine = Engine {
            hub: hub.clone(),
            metrics,
            messages: Box::new(Namespaces {
                hub: hub.clone(),
                application: chat,
            }),
        };
        let connect = |number: u8, user: &str| connect(&hub, &engine, number, user);
        let sender = connect(0, "user-0815");
        let receivers = (1..=RECEIVERS as u8).map(|number| connect(number, RECEIVER));
        let receivers = receivers.collect();
        Self {
            runtime,
            hub,
            engine,
            sender,
            receivers,
            _tasks: tasks,
        }
    }

    /// From a packet to the lane in front of the log.
    pub fn submit(&self, packet: &str) {
        let taken = self.engine.text(&self.sender, packet);
        taken.expect("a packet that is taken");
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
    pub fn take(&self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> usize {
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

async fn pipeline(
    topic: Arc<dyn Topic>,
    folder: &Path,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Arc<Publisher> {
    let store = EmbeddedStore::open(folder.join("store")).expect("a store");
    let history = History::alone(&*topic, Arc::new(store), metrics.clone());
    let history = Arc::new(history.await.expect("the log's bounds"));
    let subscription = topic.subscribe(Start::Latest).await;
    let deliver = Deliver {
        subscription: subscription.expect("a subscription"),
        history: history.clone(),
        hub: hub.clone(),
        metrics: metrics.clone(),
        batch_max: 1024,
    };
    tasks.spawn("deliver", async move {
        deliver.run().await.expect("a log that can be read");
    });
    let space = FreeSpace::watch(folder.to_owned(), 0).expect("a folder");
    let parts = Parts {
        topic,
        history,
        hub: hub.clone(),
        metrics: metrics.clone(),
    };
    let publisher = Arc::new(Publisher::new(
        1,
        LaneLimits::default(),
        Arc::new(space),
        parts,
    ));
    publisher.start(tasks, &Drain::default());
    publisher
}

/// A client on a websocket, CONNECTed and in its user's room, with nothing left in its outbox.
fn connect(hub: &Hub, engine: &Engine, number: u8, user: &str) -> Arc<Session> {
    let handshake = Handshake {
        revision: Revision::V4,
        polling: PollingForm::default(),
        query: "".into(),
    };
    let session = hub.open(Sid::new([number; SID_BYTES]), Link::WebSocket, handshake);
    for packet in ["40", &format!(r#"42["joinRoom","{user}"]"#)] {
        engine
            .text(&session, packet)
            .expect("a packet that is taken");
    }
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    let _connected = session.outbox.poll_take(cx, |_| true);
    session
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// The server's, but for outboxes that hold all that a bench leaves in them.
fn hub_limits() -> HubLimits {
    HubLimits {
        outbox_bytes_max: 16 << 20,
        ..HubLimits::default()
    }
}
