//! From the bytes of a client's frame to the lane: all that happens on the connection's task before a message waits for
//! the log. No socket and no log: what the lane gets is refused while no clock runs.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_svc::chat::id::MessageIdMaker;
use chat_svc::chat::rejection::Rejection;
use chat_svc::disk::FreeSpace;
use chat_svc::drain::{Drain, Tasks};
use chat_svc::history::History;
use chat_svc::hub::session::Session;
use chat_svc::metrics::Metrics;
use chat_svc::pipeline::publish::{LaneLimits, Parts, Publisher};
use chat_svc::protocol::websocket::{Decoder, Event, Step};
use chat_svc::socket::chat::{Chat, Rates};
use chat_svc::socket::engine::Engine;
use chat_svc::socket::namespaces::Namespaces;
use chat_svc::store::embedded::EmbeddedStore;
use chat_svc::topic::{Bounds, Outcome, Record, Start, Subscription, Topic, TopicError};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::{BoxFuture, FutureExt};
use tempfile::TempDir;

criterion_group!(benches, frame_to_lane);
criterion_main!(benches);

fn frame_to_lane(criterion: &mut Criterion) {
    // One thread, so that the lane rests while the clock runs.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let rig = runtime.block_on(Rig::new());
    let mut group = criterion.benchmark_group("handler");
    let text = support::umlauts(120);
    let unnamed = support::draft_json(&text, None);
    let named = support::draft_json(&text, Some("0190b3f2-7c1e"));
    let long = support::draft_json(&support::umlauts(4_000), None);
    let packets = [
        ("chatMessage", format!(r#"42["chatMessage",{unnamed}]"#)),
        (
            "chatMessage with an ack",
            format!(r#"427["chatMessage",{unnamed}]"#),
        ),
        (
            "chatMessage with client_message_id",
            format!(r#"42["chatMessage",{named}]"#),
        ),
        (
            "chatMessage of 4 kB",
            format!(r#"42["chatMessage",{long}]"#),
        ),
    ];
    for (name, packet) in packets {
        let frame = support::client_frame(packet.as_bytes());
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| runtime.block_on(rig.receive_all(&frame, count)));
        });
    }
    group.finish();
}

// === Rig ===

/// One client of a server that has no log.
struct Rig {
    engine: Engine,
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    /// The store's, which is only asked whether a message was sent before.
    _folder: TempDir,
}

impl Rig {
    async fn new() -> Rig {
        let folder = support::folder();
        let metrics = Arc::new(Metrics::new(&Rejection::CODES));
        let hub = support::hub(1 << 20);
        let topic = Arc::new(Refusing);
        let store = EmbeddedStore::open(folder.path()).expect("a store");
        let history = History::alone(&*topic, Arc::new(store), metrics.clone());
        let parts = Parts {
            history: Arc::new(history.await.expect("the log's bounds")),
            topic,
            hub: hub.clone(),
            metrics: metrics.clone(),
        };
        let space = FreeSpace::watch(folder.path().to_owned(), 0).expect("a folder");
        let publisher = Arc::new(Publisher::new(
            4,
            LaneLimits::default(),
            Arc::new(space),
            parts,
        ));
        publisher.start(&Tasks::default(), &Drain::default());
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
        let session = support::session(&hub);
        let messages = Box::new(Namespaces {
            hub: hub.clone(),
            application: chat,
        });
        Rig {
            engine: Engine {
                hub,
                metrics,
                messages,
            },
            session,
            publisher,
            _folder: folder,
        }
    }

    /// Takes a frame so many times; how long that took without what the lane does.
    async fn receive_all(&self, frame: &[u8], count: u64) -> Duration {
        let mut spent = Duration::ZERO;
        let mut input = Vec::with_capacity(frame.len());
        let mut left = count;
        while left > 0 {
            let some = left.min(QUEUED);
            let started = Instant::now();
            for _ in 0..some {
                // Unmasking spoils it. The copy is part of the time; from a socket it is the kernel's.
                input.clear();
                input.extend_from_slice(frame);
                self.receive(&mut input);
            }
            spent += started.elapsed();
            left -= some;
            self.publisher.flushed().await;
            let answers = support::take_all(&self.session.outbox, |answer| {
                let answer = answer.packet();
                assert!(answer.starts_with(b"42[\"messageError\"") || answer.starts_with(b"437["));
            });
            assert!(answers as u64 >= some, "a frame was lost");
        }
        spent
    }

    /// As a websocket's task does.
    fn receive(&self, input: &mut [u8]) {
        let mut decoder = Decoder::new();
        let Ok(Step::Done {
            event: Some(Event::Text(packet)),
            ..
        }) = decoder.decode(input, support::PAYLOAD_BYTES_MAX)
        else {
            unreachable!("the frame is a whole text");
        };
        let taken = self.engine.text(&self.session, packet);
        assert_eq!(taken, Ok(()));
    }
}

/// A log that takes nothing: what comes through the lane is answered at once.
struct Refusing;

impl Topic for Refusing {
    fn append(&self, batch: Vec<Record>) -> BoxFuture<'_, Vec<Outcome>> {
        let refused = |_| Outcome::NotAppended(TopicError::TooLarge);
        let outcomes = batch.into_iter().map(refused).collect();
        async { outcomes }.boxed()
    }

    fn subscribe(&self, _start: Start) -> BoxFuture<'_, Result<Box<dyn Subscription>, TopicError>> {
        async { Err(TopicError::Closed) }.boxed()
    }

    fn bounds(&self, _group: &'static str) -> BoxFuture<'_, Result<Vec<Bounds>, TopicError>> {
        let bounds = Bounds {
            partition: 0,
            committed: 0,
            end: 0,
        };
        async move { Ok(vec![bounds]) }.boxed()
    }

    fn ends(&self, _within: Duration) -> BoxFuture<'_, Result<Vec<u64>, TopicError>> {
        async { Ok(vec![0]) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), TopicError>> {
        async { Ok(()) }.boxed()
    }
}

/// Frames taken before the lane gets its turn.
const QUEUED: u64 = 64;
