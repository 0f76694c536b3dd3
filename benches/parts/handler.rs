//! From the bytes of a client's frame to the lane: all that happens on the connection's task before a message waits for
//! the log. No socket and no log: what the lane gets is refused while no clock runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_svc::topic::Topic;
use chat_svc::topic::memory::Memory;
use criterion::{Criterion, Throughput, criterion_group};
use futures_util::future::FutureExt;

use crate::folder;
use crate::support::messages::{NAME, client_frame, draft_json, umlauts, unframe};
use crate::support::service::Service;
use crate::support::sessions::take_all;

criterion_group!(benches, frame_to_lane);

fn frame_to_lane(criterion: &mut Criterion) {
    let folder = folder();
    let closed = Memory::new(1);
    let is_closed = closed.close().now_or_never();
    assert!(
        matches!(is_closed, Some(Ok(()))),
        "a log that takes nothing"
    );
    let service = Service::unread(Arc::new(closed), folder.path());
    let mut group = criterion.benchmark_group("handler");
    let text = umlauts(120);
    let unnamed = draft_json(&text, None);
    let named = draft_json(&text, Some(NAME));
    let long = draft_json(&umlauts(4_000), None);
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
        let frame = client_frame(&packet);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| receive_all(&service, &frame, count));
        });
    }
    group.finish();
}

/// Takes a frame so many times; how long that took without what the lane does.
fn receive_all(service: &Service, frame: &[u8], count: u64) -> Duration {
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
            unframe(&mut input, |packet| service.submit(packet));
        }
        spent += started.elapsed();
        left -= some;
        // The service has one thread: only now the lane goes on.
        service.flush();
        let answers = take_all(&service.sender.outbox, |answer| {
            let answer = answer.packet();
            assert!(answer.starts_with(b"42[\"messageError\"") || answer.starts_with(b"437["));
        });
        assert!(answers as u64 >= some, "a frame was lost");
    }
    spent
}

/// Frames taken before the lane gets its turn.
const QUEUED: u64 = 64;
