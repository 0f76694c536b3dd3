//! Memory allocations for each message, counted: exact numbers, so `scripts/gates` lets none be added unseen.
//!
//! Prints a line for each count: name, and allocations a message (grown ones among them). The whole process is counted;
//! its threads are this one and, for the journal, the one that writes.

#![allow(clippy::unwrap_used, reason = "a tool at the terminal")]

mod support;

use std::alloc::System;
use std::sync::Arc;

use chat_svc::chat::draft::Draft;
use chat_svc::chat::id::{MessageId, Seq};
use chat_svc::protocol::{event, socketio};
use chat_svc::topic::Topic;
use chat_svc::topic::journal::{Journal, JournalConfig};
use chat_svc::topic::memory::Memory;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use support::{Service, chat_message, client_frame, named_chat_message, unframe};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Messages counted, after half as many that fill what is kept.
const MESSAGES: usize = 1000;

fn main() {
    stages();
    let folder = tempfile::tempdir().unwrap();
    path(
        "memory",
        Arc::new(Memory::new(100_000)),
        &folder.path().join("memory"),
    );
    let journal = Journal::open(JournalConfig::new(folder.path().join("log"))).unwrap();
    path("journal", Arc::new(journal), &folder.path().join("journal"));
}

/// Each stage by itself.
fn stages() {
    let frame = client_frame(&chat_message(120));
    let mut frames = vec![frame; MESSAGES];
    let packets: Vec<&str> = count("stage: frame to packet", &mut frames, |frame| {
        unframe(frame)
    });
    let mut arguments = count("stage: packet to event", &mut { packets }, |packet| {
        let packet = socketio::parse(&packet[1..]).unwrap();
        let event = socketio::event(packet.data.unwrap()).unwrap();
        event.args[0]
    });
    let drafts = count("stage: event to draft", &mut arguments, |json| {
        Draft::parse(json).unwrap()
    });
    let sealed = count("stage: draft to sealed", &mut { drafts }, |draft| {
        draft.seal(MessageId([7; 12]), 1_790_000_000_000)
    });
    let mut messages: Vec<_> = sealed.iter().map(|sealed| sealed.at(Seq(4711))).collect();
    count("stage: message to frame", &mut messages, |message| {
        event::new_message(message)
    });
}

/// One stage for many messages; their results are kept, in room made before.
fn count<'a, T, U>(name: &str, from: &'a mut [T], stage: impl Fn(&'a mut T) -> U) -> Vec<U> {
    let mut results = Vec::with_capacity(from.len());
    let region = Region::new(ALLOCATOR);
    results.extend(from.iter_mut().map(stage));
    report(name, region.change());
    results
}

/// From a client's frame to the frames of its sender and the receiver's two sockets: one at a time, then all at once.
fn path(log: &str, topic: Arc<dyn Topic>, folder: &std::path::Path) {
    let service = Service::start(topic, folder);
    let mut out = Vec::with_capacity(1 << 20);
    let plain = |_: usize| chat_message(120);
    let named = |n: usize| named_chat_message(120, &format!("{n:06}"));
    let kinds: [(&str, &dyn Fn(usize) -> String); 2] = [("", &plain), ("named ", &named)];
    for (kind, packet) in kinds {
        let frames = (0..MESSAGES * 3 / 2).map(|n| client_frame(&packet(n)));
        let mut frames: Vec<_> = frames.collect();
        let (first, counted) = frames.split_at_mut(MESSAGES / 2);
        lock_step(&service, first, &mut out);
        let region = Region::new(ALLOCATOR);
        lock_step(&service, counted, &mut out);
        let counted = region.change();
        report(
            &format!("path: {kind}message through {log}, one at a time"),
            counted,
        );
    }
    let mut burst = vec![client_frame(&chat_message(120)); MESSAGES];
    let region = Region::new(ALLOCATOR);
    for frame in &mut burst {
        service.submit(unframe(frame));
    }
    let door = region.change();
    service.deliver(MESSAGES, &mut out);
    let all = region.change();
    report(
        &format!("path: {MESSAGES} messages at once through {log}"),
        all,
    );
    report(&format!("path: of these to the lane of {log}"), door);
}

fn lock_step(service: &Service, frames: &mut [Vec<u8>], out: &mut Vec<u8>) {
    for frame in frames {
        service.submit(unframe(frame));
        service.deliver(1, out);
        out.clear();
    }
}

fn report(name: &str, counted: Stats) {
    let each = (counted.allocations + counted.reallocations) as f64 / MESSAGES as f64;
    println!("{name}\t{each:.2}");
}
