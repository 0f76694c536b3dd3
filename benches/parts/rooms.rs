//! Who is in which room: joined, left, looked up and broadcast to by several threads at once.
//!
//! A bench's name ends in the members of a room and the number of threads. Times are of one call as its thread sees it;
//! throughput is that of all threads together. In "one room" all threads want the same room, the worst case; "apart"
//! each has its own, the usual one.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use chat_svc::chat::id::UserId;
use chat_svc::chat::rejection::Rejection;
use chat_svc::hub::Hub;
use chat_svc::hub::rooms::Rooms;
use chat_svc::hub::session::Session;
use chat_svc::metrics::Metrics;
use chat_svc::protocol::frame::Frame;
use criterion::{Criterion, Throughput, criterion_group};

use crate::support::messages::{NAME, chat_message};
use crate::support::sessions::{self, connected, take_all};

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500));
    targets = rooms
}

fn rooms(criterion: &mut Criterion) {
    each_case(criterion, "rooms/join, leave", |_| 1, join_and_leave);
    each_case(criterion, "rooms/look up", |case| case.members, look_up);
    each_case(criterion, "rooms/broadcast", |case| case.members, broadcast);
}

/// A socket joins a room in which others are, and leaves it.
fn join_and_leave(case: Case, calls: u64) -> Duration {
    let hub = hub();
    let _members = case.fill(&hub, |session, room| {
        assert_eq!(hub.join(session, room), Ok(()));
    });
    let sockets: Vec<_> = (0..case.threads).map(|_| connected(&hub)).collect();
    case.run(calls, |thread, room| {
        assert_eq!(hub.join(&sockets[thread], room.clone()), Ok(()));
        hub.leave_all(&sockets[thread]);
    })
}

/// Every member of a room is looked at. Throughput is in members.
fn look_up(case: Case, calls: u64) -> Duration {
    let (hub, rooms) = (hub(), Rooms::default());
    let _members = case.fill(&hub, |session, room| {
        assert_eq!(rooms.join(session, room, 1), Ok(true));
    });
    case.run(calls, |_, room| {
        let mut seen = 0;
        rooms.for_each(&[room.as_str()], |member| {
            black_box(member);
            seen += 1;
        });
        assert_eq!(seen, case.members);
    })
}

/// A frame goes to every member's outbox, and out of it again. Throughput is in frames queued.
fn broadcast(case: Case, calls: u64) -> Duration {
    let hub = hub();
    let members = case.fill(&hub, |session, room| {
        assert_eq!(hub.join(session, room), Ok(()));
    });
    let frame = Frame::text_from(chat_message(120, Some(NAME)).as_bytes());
    let taken = AtomicU64::new(0);
    let spent = case.run(calls, |thread, room| {
        hub.broadcast(&[room.as_str()], || frame.clone());
        let members = members[case.room(thread)].iter();
        let frames = members.map(|member| take_all(&member.outbox, |_| {}));
        taken.fetch_add(frames.sum::<usize>() as u64, Relaxed);
    });
    let sent = calls * (case.threads * case.members) as u64;
    assert_eq!(taken.into_inner(), sent, "every frame comes out");
    spent
}

// === Case ===

#[derive(Clone, Copy)]
struct Case {
    /// In each room.
    members: usize,
    threads: usize,
    is_apart: bool,
}

fn each_case(
    criterion: &mut Criterion,
    name: &str,
    elements: impl Fn(Case) -> usize,
    bench: impl Fn(Case, u64) -> Duration,
) {
    let mut group = criterion.benchmark_group(name);
    for (members, is_apart) in [(2, false), (50, false), (1_000, false), (50, true)] {
        for threads in [1, 2, 4] {
            if is_apart && threads == 1 {
                continue; // It is the same as one room.
            }
            let case = Case {
                members,
                threads,
                is_apart,
            };
            let all = threads * elements(case);
            group.throughput(Throughput::Elements(all as u64));
            let place = if is_apart { "apart" } else { "one room" };
            group.bench_function(format!("{place} of {members}/{threads}"), |bencher| {
                bencher.iter_custom(|calls| bench(case, calls));
            });
        }
    }
    group.finish();
}

impl Case {
    /// Which room a thread wants.
    fn room(self, thread: usize) -> usize {
        if self.is_apart { thread } else { 0 }
    }

    /// Fresh sockets for every room, by room.
    fn fill(self, hub: &Hub, join: impl Fn(&Arc<Session>, UserId)) -> Vec<Vec<Arc<Session>>> {
        let rooms = if self.is_apart { self.threads } else { 1 };
        let members = |number| {
            let member = |_| {
                let session = connected(hub);
                join(&session, name(number));
                session
            };
            (0..self.members).map(member).collect()
        };
        (0..rooms).map(members).collect()
    }

    /// Has every thread make its calls, with its number and its room; how long the slowest took.
    fn run(self, calls: u64, call: impl Fn(usize, &UserId) + Sync) -> Duration {
        let start = Barrier::new(self.threads);
        let work = |thread| {
            let room = name(self.room(thread));
            start.wait();
            let started = Instant::now();
            (0..calls).for_each(|_| call(thread, &room));
            started.elapsed()
        };
        thread::scope(|scope| {
            let work = &work;
            let threads = (0..self.threads).map(|thread| scope.spawn(move || work(thread)));
            let threads: Vec<_> = threads.collect();
            let spent = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"));
            spent.max().unwrap_or_default()
        })
    }
}

fn hub() -> Arc<Hub> {
    sessions::hub(BYTES_MAX, &Arc::new(Metrics::new(&Rejection::CODES)))
}

fn name(number: usize) -> UserId {
    UserId::new(format!("user-{number}")).expect("a user id")
}

/// So much that nothing is refused while other threads keep a thread from taking its frames.
const BYTES_MAX: usize = 1 << 30;
