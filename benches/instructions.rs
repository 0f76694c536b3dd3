//! Instructions and allocations of the hot path, counted by valgrind: the same on every run, so they can be held.
//!
//! Each function is measured once, after its set-up, which is not counted; `message_path` is all of them together.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use chat_svc::chat::draft::Draft;
use chat_svc::chat::id::{ConversationId, MessageId, Seq};
use chat_svc::chat::message::{Message, Sealed};
use chat_svc::hub::outbox::Outbox;
use chat_svc::protocol::engineio::{self, Polled, Revision};
use chat_svc::protocol::event;
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::incoming::{Incoming, incoming};
use chat_svc::protocol::socketio::{self, EventArgs};
use chat_svc::store::embedded::run::{self, Key, Run};
use chat_svc::topic::Record;
use chat_svc::topic::journal::block::Encoder;
use chat_svc::topic::memory::Memory;
use gungraun::{library_benchmark, library_benchmark_group, main};
use support::messages::{RECEIVER, UNIX_MS, chat_message, client_frame, unframe};
use support::service::{RECEIVERS, Service};

library_benchmark_group!(
    name = hot,
    benchmarks = [
        websocket_decode,
        packet_to_event,
        packet_to_draft,
        draft_to_sealed,
        encode_new_message,
        encode_message_sent,
        polling_read_16,
        polling_write_16,
        journal_block_1,
        journal_block_16,
        store_run_1,
        store_run_32,
        store_read_32,
        outbox_push_take,
        broadcast_to_2,
        message_to_lane,
        lane_to_outboxes,
        message_path,
        messages_path_16,
    ]
);
main!(library_benchmark_groups = hot);

// === Codec ===

#[library_benchmark(setup = warm_frame)]
fn websocket_decode(mut frame: Vec<u8>) -> usize {
    unframe(&mut frame, |packet| black_box(packet).len())
}

#[library_benchmark(setup = warm_packet)]
fn packet_to_event(packet: String) -> usize {
    let mut event = EventArgs::default();
    read_event(black_box(&packet), &mut event);
    black_box(&event).args.len()
}

#[library_benchmark(setup = warm_packet)]
fn packet_to_draft(packet: String) -> bool {
    let mut event = EventArgs::default();
    read_event(black_box(&packet), &mut event);
    black_box(Draft::read(event.first())).is_ok()
}

fn read_event<'a>(packet: &'a str, event: &mut EventArgs<'a>) {
    let message = match incoming(packet, Revision::V4) {
        Ok(Incoming::Message(message)) => message,
        _ => "",
    };
    let packet = socketio::parse(message).expect("a packet");
    let read = event.read(packet.data.expect("data"));
    read.expect("an event");
}

#[library_benchmark(setup = draft)]
fn draft_to_sealed(draft: Draft<'static>) -> Sealed {
    black_box(&draft).seal(MessageId([7; 12]), UNIX_MS)
}

#[library_benchmark(setup = message)]
fn encode_new_message(message: Message) -> Frame {
    event::new_message(black_box(&message))
}

#[library_benchmark(setup = message)]
fn encode_message_sent(message: Message) -> Frame {
    event::message_sent(black_box(&message))
}

#[library_benchmark(setup = payload_of_16)]
fn polling_read_16(mut payload: Vec<u8>) -> usize {
    let packets = engineio::packets(black_box(&mut payload));
    packets
        .filter(|packet| matches!(packet, Ok(Polled::Text(_))))
        .count()
}

#[library_benchmark(setup = frames_16)]
fn polling_write_16(frames: Vec<Frame>) -> Vec<u8> {
    let mut out = Vec::with_capacity(8192);
    engineio::write_payload(&mut out, black_box(&frames));
    out
}

// === Log and store ===

#[library_benchmark(setup = block_of_1)]
fn journal_block_1(ready: Block) -> Block {
    ready.written()
}

#[library_benchmark(setup = block_of_16)]
fn journal_block_16(ready: Block) -> Block {
    ready.written()
}

#[library_benchmark(setup = rows_of_1)]
fn store_run_1(ready: Rows) -> Rows {
    ready.written()
}

#[library_benchmark(setup = rows_of_32)]
fn store_run_32(ready: Rows) -> Rows {
    ready.written()
}

#[library_benchmark(setup = run_of_32)]
fn store_read_32(run: Run<Vec<u8>, Vec<u8>>) -> (Run<Vec<u8>, Vec<u8>>, Vec<Message>) {
    let conversation = black_box(&run).conversation().expect("a key");
    let rows = run.rows().expect("a run");
    let rows = rows.into_iter().map(|row| row.to_message(&conversation));
    let messages = rows.collect();
    (run, messages)
}

// === Hub ===

#[library_benchmark(setup = outbox)]
fn outbox_push_take(ready: (Outbox, Frame)) -> usize {
    let (outbox, frame) = ready;
    let pushed = outbox.push(black_box(&frame).clone());
    let mut bytes = 0;
    let cx = &mut Context::from_waker(Waker::noop());
    let taken = outbox.poll_take(cx, |frame| {
        bytes += frame.len();
        true
    });
    usize::from(pushed.is_ok() && taken.is_ready()) * bytes
}

#[library_benchmark(setup = service)]
fn broadcast_to_2(ready: Ready) -> Ready {
    let frame = &ready.frame;
    ready.service.hub.broadcast(&[RECEIVER], || frame.clone());
    ready
}

// === The whole path ===

#[library_benchmark(setup = service)]
fn message_to_lane(mut ready: Ready) -> Ready {
    unframe(&mut ready.frames[0], |packet| ready.service.submit(packet));
    ready
}

#[library_benchmark(setup = service_with_one)]
fn lane_to_outboxes(mut ready: Ready) -> Ready {
    ready.service.deliver(1, &mut ready.out);
    ready
}

#[library_benchmark(setup = service)]
fn message_path(mut ready: Ready) -> Ready {
    unframe(&mut ready.frames[0], |packet| ready.service.submit(packet));
    ready.service.deliver(1, &mut ready.out);
    ready
}

#[library_benchmark(setup = service)]
fn messages_path_16(mut ready: Ready) -> Ready {
    for frame in &mut ready.frames {
        unframe(frame, |packet| ready.service.submit(packet));
    }
    ready.service.deliver(16, &mut ready.out);
    ready
}

// === Set-up ===

fn packet() -> String {
    chat_message(120, None)
}

/// After another, so that it is known which instructions the processor has: asked once in a process.
fn warm_packet() -> String {
    let _event = arguments();
    packet()
}

/// As [`warm_packet`].
fn warm_frame() -> Vec<u8> {
    unframe(&mut frame(), |_| ());
    frame()
}

fn frame() -> Vec<u8> {
    client_frame(&packet())
}

fn arguments() -> String {
    let packet = packet();
    let event = socketio::parse(&packet[1..])
        .and_then(|packet| socketio::event(packet.data.unwrap_or_default()));
    event.expect("an event").args[0].to_owned()
}

fn draft() -> Draft<'static> {
    // What a set-up returns owns its memory: this ends with the process.
    let draft = Draft::parse(arguments().leak()).expect("a draft");
    // Once before, so that the thread has the memory and the second's text that it keeps.
    let sealed = draft.seal(MessageId([7; 12]), UNIX_MS);
    drop(event::message_sent(&sealed.at(Seq(4711))));
    draft
}

fn message() -> Message {
    let message = draft().seal(MessageId([7; 12]), UNIX_MS).at(Seq(4711));
    let conversation = ConversationId::new(Bytes::from_static(b"c-4711"));
    assert_eq!(Some(&message.conversation), conversation.as_ref());
    message
}

fn payload_of_16() -> Vec<u8> {
    let _warm = warm_frame();
    vec![packet(); 16].join("\u{1e}").into_bytes()
}

fn frames_16() -> Vec<Frame> {
    vec![event::new_message(&message()); 16]
}

/// Records on their way into the journal, and the memory that blocks are written in.
struct Block {
    encoder: Encoder,
    records: Vec<Record>,
}

impl Block {
    fn of(records: usize) -> Self {
        let record = || Record::from(draft().seal(MessageId([7; 12]), UNIX_MS));
        let records = (0..records).map(|_| record()).collect();
        let encoder = Encoder::default();
        Self { encoder, records }.written()
    }

    fn written(mut self) -> Self {
        self.encoder.begin();
        for record in black_box(&self.records) {
            assert!(self.encoder.push(record), "a block takes more");
        }
        black_box(self.encoder.finish(4711, 1, UNIX_MS));
        self
    }
}

fn block_of_1() -> Block {
    Block::of(1)
}

fn block_of_16() -> Block {
    Block::of(16)
}

/// Messages on their way into the embedded store, and the memory that rows are written in.
struct Rows {
    messages: Vec<&'static Message>,
    writer: run::Writer,
}

impl Rows {
    fn of(messages: usize) -> Self {
        // What a set-up returns owns its memory: this ends with the process.
        let messages: &[Message] = vec![message(); messages].leak();
        let (messages, writer) = (messages.iter().collect(), run::Writer::default());
        Self { messages, writer }.written()
    }

    fn written(mut self) -> Self {
        for run in run::cut(black_box(&self.messages)) {
            black_box(self.writer.write(run));
        }
        self
    }
}

fn rows_of_1() -> Rows {
    Rows::of(1)
}

fn rows_of_32() -> Rows {
    Rows::of(32)
}

fn run_of_32() -> Run<Vec<u8>, Vec<u8>> {
    let mut rows = rows_of_32();
    let first = rows.messages[0];
    let key = Key::of(&first.conversation).at(first.place()).to_vec();
    let value = rows.writer.write(&rows.messages).to_vec();
    let run = Run::new(key, value);
    assert_eq!(run.rows().map(|rows| rows.len()), Some(32), "one run");
    run
}

/// An outbox in use: its queue has had its memory.
fn outbox() -> (Outbox, Frame) {
    let (outbox, frame) = (Outbox::new(1 << 20), event::new_message(&message()));
    let _warm = outbox_push_take_once(&outbox, &frame);
    (outbox, frame)
}

fn outbox_push_take_once(outbox: &Outbox, frame: &Frame) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    outbox.push(frame.clone()).is_ok() && outbox.poll_take(cx, |_| true).is_ready()
}

/// A service that has carried messages, and more for it.
struct Ready {
    service: Service,
    frame: Frame,
    frames: Vec<Vec<u8>>,
    out: Vec<u8>,
    _folder: tempfile::TempDir,
}

fn service() -> Ready {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::start(Arc::new(Memory::new(10_000)), folder.path());
    let mut out = Vec::with_capacity(1 << 20);
    // One by one and together, so that queues and tables have the room that they will need.
    for together in [1, 1, 1, 32, 1] {
        for _ in 0..together {
            unframe(&mut frame(), |packet| service.submit(packet));
        }
        service.deliver(together, &mut out);
    }
    assert!(out.len() > 36 * (1 + RECEIVERS) * 200);
    out.clear();
    Ready {
        service,
        frame: event::new_message(&message()),
        frames: vec![frame(); 16],
        out,
        _folder: folder,
    }
}

fn service_with_one() -> Ready {
    let mut ready = service();
    unframe(&mut ready.frames[0], |packet| ready.service.submit(packet));
    ready
}
