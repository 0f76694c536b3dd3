//! What it costs to queue a frame to clients and to take it out again, which is all that a message and a connection's
//! task have to do with each other.

use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::Duration;

use chat_svc::hub::outbox::{FRAME_OVERHEAD, Outbox, Overflow};
use chat_svc::protocol::frame::Frame;
use criterion::{BatchSize, Criterion, Throughput, criterion_group};

use crate::support::messages::{NAME, chat_message};
use crate::support::sessions::take_all;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = one, many, together, at_limit
}

/// One frame in, one frame out: what a quiet client costs.
fn one(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox/one");
    group.throughput(Throughput::Elements(1));
    let outbox = Outbox::new(BYTES_MAX);
    let frame = message();
    group.bench_function("push, take", |bencher| {
        bencher.iter(|| {
            assert_eq!(outbox.push(frame.clone()), Ok(()));
            take_all(&outbox, |frame| _ = black_box(frame.websocket()))
        });
    });
    group.bench_function("wait, push, take", |bencher| {
        let cx = &mut Context::from_waker(Waker::noop());
        bencher.iter(|| {
            assert!(outbox.poll_take(cx, |_| true).is_pending());
            assert_eq!(outbox.push(frame.clone()), Ok(()));
            take_all(&outbox, |frame| _ = black_box(frame.websocket()))
        });
    });
    group.bench_function("push volatile, take", |bencher| {
        bencher.iter(|| {
            assert!(outbox.push_volatile(frame.clone()));
            take_all(&outbox, |frame| _ = black_box(frame.websocket()))
        });
    });
    group.finish();
}

/// One frame to many clients, each of which takes it. Per client.
fn many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox/many");
    for clients in [50, 1_000] {
        let outboxes: Vec<_> = (0..clients).map(|_| Outbox::new(BYTES_MAX)).collect();
        let frame = message();
        group.throughput(Throughput::Elements(clients));
        group.bench_function(clients.to_string(), |bencher| {
            bencher.iter(|| {
                for outbox in &outboxes {
                    assert_eq!(outbox.push(frame.clone()), Ok(()));
                }
                let taken = outboxes.iter().map(|outbox| take_all(outbox, |_| {}));
                assert_eq!(taken.sum::<usize>() as u64, clients);
            });
        });
    }
    group.finish();
}

/// Frames that queued up become one write: taken under one lock and copied to where the system call takes them. Per
/// frame.
fn together(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox/together");
    let outbox = Outbox::new(BYTES_MAX);
    let frame = message();
    let mut buffer = Vec::with_capacity(128 << 10);
    for frames in [4, 16, 256] {
        group.throughput(Throughput::Elements(frames));
        group.bench_function(frames.to_string(), |bencher| {
            bencher.iter(|| {
                for _ in 0..frames {
                    assert_eq!(outbox.push(frame.clone()), Ok(()));
                }
                buffer.clear();
                let taken = take_all(&outbox, |frame| buffer.extend_from_slice(frame.websocket()));
                assert_eq!(taken as u64, frames);
                black_box(&buffer);
            });
        });
    }
    group.finish();
}

/// A client that does not read: its queue is full.
fn at_limit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox/at limit");
    let frame = message();
    group.bench_function("volatile is dropped", |bencher| {
        let outbox = full(&frame);
        bencher.iter(|| assert!(!outbox.push_volatile(frame.clone())));
    });
    group.bench_function("one too many closes it", |bencher| {
        bencher.iter_batched_ref(
            || full(&frame),
            |outbox| assert_eq!(outbox.push(frame.clone()), Err(Overflow)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// An outbox that takes no other such frame: 64 KiB of them, with every frame's memory its own.
fn full(frame: &Frame) -> Outbox {
    let cost = frame.len() + FRAME_OVERHEAD;
    let frames = FULL_BYTES / cost;
    let outbox = Outbox::new(frames * cost);
    for _ in 0..frames {
        assert_eq!(outbox.push(Frame::text_from(frame.packet())), Ok(()));
    }
    outbox
}

fn message() -> Frame {
    Frame::text_from(chat_message(120, Some(NAME)).as_bytes())
}

/// The server's default.
const BYTES_MAX: usize = 1 << 20;
const FULL_BYTES: usize = 64 << 10;
