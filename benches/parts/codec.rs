//! What one message costs in the codecs: decoded from a client's frame, encoded for all who get it.
//!
//! Sizes are those of a chat: some 250 bytes of JSON. The large frame shows the cost for each byte.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

use chat_svc::chat::draft::Draft;
use chat_svc::chat::id::{MessageId, Seq};
use chat_svc::chat::message::{Message, Sealed};
use chat_svc::protocol::engineio::{self, Polled};
use chat_svc::protocol::engineio_v3::{self, Framing};
use chat_svc::protocol::event;
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::msgpack;
use chat_svc::protocol::socketio::{self, EventArgs};
use chat_svc::protocol::websocket::{Decoder, Event, Step};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use simd_json::Buffers;

use crate::support::messages::{
    self, NAME, PAYLOAD_BYTES_MAX as BYTES_MAX, client_frame, draft_json, umlauts,
};

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = receive, poll, poll_v3, msgpack, send, json_in, json_through, json_out
}

/// Frame to event name and raw arguments: all that is done with a message before it is looked into.
fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/receive");
    let event = chat_message(120);
    for (name, packet) in [("chat", event), ("64k", chat_message(65_000))] {
        let frame = client_frame(&packet);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("frame/{name}"), |bencher| {
            bencher.iter_batched_ref(
                || (Decoder::new(), frame.clone()),
                |(decoder, input)| {
                    let step = decoder.decode(input, BYTES_MAX);
                    assert!(matches!(
                        step,
                        Ok(Step::Done {
                            event: Some(Event::Text(_)),
                            ..
                        })
                    ));
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("event/{name}"), |bencher| {
            bencher.iter(|| {
                let packet = socketio::parse(black_box(&packet[1..])).expect("a packet");
                let mut event = EventArgs::default();
                let read = event.read(packet.data.expect("data"));
                read.expect("an event");
                assert_eq!(event.args.len(), 1);
            });
        });
    }
}

fn poll(criterion: &mut Criterion) {
    let body = vec![chat_message(120); 16].join("\u{1e}").into_bytes();
    let frames = vec![Frame::text_from(chat_message(120).as_bytes()); 16];
    criterion.bench_function("codec/poll/read 16", |bencher| {
        bencher.iter_batched_ref(
            || body.clone(),
            |body| {
                let texts =
                    engineio::packets(body).filter(|packet| matches!(packet, Ok(Polled::Text(_))));
                assert_eq!(texts.count(), 16);
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("codec/poll/write 16", |bencher| {
        bencher.iter(|| {
            let mut out = Vec::with_capacity(8192);
            assert_eq!(engineio::write_payload(&mut out, black_box(&frames)), 16);
            out
        });
    });
}

fn poll_v3(criterion: &mut Criterion) {
    let frames = vec![Frame::text_from(chat_message(120).as_bytes()); 16];
    for (name, framing) in [("text", Framing::Text), ("binary", Framing::Binary)] {
        let mut body = Vec::new();
        assert_eq!(engineio_v3::write_payload(&mut body, &frames, framing), 16);
        criterion.bench_function(&format!("codec/poll v3/read 16 {name}"), |bencher| {
            bencher.iter_batched_ref(
                || body.clone(),
                |body| assert_eq!(engineio_v3::packets(body, framing).count(), 16),
                BatchSize::SmallInput,
            );
        });
        criterion.bench_function(&format!("codec/poll v3/write 16 {name}"), |bencher| {
            bencher.iter(|| {
                let mut out = Vec::with_capacity(8192);
                engineio_v3::write_payload(&mut out, black_box(&frames), framing);
                out
            });
        });
    }
}

fn msgpack(criterion: &mut Criterion) {
    let text = Frame::text_from(chat_message(120).as_bytes());
    let binary = msgpack::write::frame(&text, &[], BYTES_MAX).expect("a packet");
    criterion.bench_function("codec/msgpack/read", |bencher| {
        bencher.iter(|| msgpack::read::decode(black_box(binary.packet()), BYTES_MAX));
    });
    criterion.bench_function("codec/msgpack/write", |bencher| {
        bencher.iter(|| msgpack::write::frame(black_box(&text), &[], BYTES_MAX));
    });
}

/// One frame for a message, however many get it; then what each of them costs.
fn send(criterion: &mut Criterion) {
    let message = chat_message(120);
    criterion.bench_function("codec/send/encode", |bencher| {
        bencher.iter(|| {
            Frame::text(message.len() + 32, |out| {
                let args = [black_box(&*message)];
                socketio::write_event(out, "/", None, "newMessage", (&args).into());
            })
        });
    });
    let frame = Frame::text_from(message.as_bytes());
    criterion.bench_function("codec/send/clone", |bencher| {
        bencher.iter(|| black_box(&frame).clone())
    });
}

// === JSON ===
//
// How messages are parsed and written is a choice, shown here by figures: what the service does beside the two crates
// that one would take instead. All read a fresh copy of the same bytes, since simd-json spoils what it reads. The
// crates are favoured: with them nothing is checked, and id and timestamp are there as text.

/// The argument of a `chatMessage`, read.
fn json_in(criterion: &mut Criterion) {
    for (size, text_bytes) in SIZES {
        let mut group = criterion.benchmark_group(format!("codec/json in/{size}"));
        let json = given(text_bytes);
        contest(&mut group, "ours", &json, |json, _| {
            black_box(Draft::parse(json).expect("a draft"));
        });
        contest(&mut group, "serde_json, raw text", &json, |json, _| {
            black_box(serde_json::from_str::<Given<'_, &RawValue>>(json).expect("reads"));
        });
        contest(&mut group, "serde_json", &json, |json, _| {
            black_box(serde_json::from_str::<Given<'_, Text<'_>>>(json).expect("reads"));
        });
        let mut buffers = Buffers::default();
        contest(&mut group, "simd-json", &json, |_, bytes| {
            let read = simd_json::serde::from_slice_with_buffers(bytes, &mut buffers);
            black_box::<Given<'_, Text<'_>>>(read.expect("reads"));
        });
        contest(&mut group, "simd-json, tape only", &json, |_, bytes| {
            black_box(simd_json::to_tape_with_buffers(bytes, &mut buffers).expect("reads"));
        });
        group.finish();
    }
}

/// From the argument of a `chatMessage` to the message as it is stored.
fn json_through(criterion: &mut Criterion) {
    for (size, text_bytes) in SIZES {
        let mut group = criterion.benchmark_group(format!("codec/json through/{size}"));
        let json = given(text_bytes);
        let stored = sealed(&json).value;
        contest(&mut group, "ours", &json, |json, _| {
            assert_eq!(sealed(json).value.len(), stored.len());
        });
        contest(&mut group, "serde_json, raw text", &json, |json, _| {
            let given: Given<'_, &RawValue> = serde_json::from_str(json).expect("reads");
            let mut out = Vec::with_capacity(stored.len());
            serde_json::to_writer(&mut out, &given.stored()).expect("writes");
            assert_eq!(out.len(), stored.len());
        });
        contest(&mut group, "serde_json", &json, |json, _| {
            let given: Given<'_, Text<'_>> = serde_json::from_str(json).expect("reads");
            let mut out = Vec::with_capacity(stored.len());
            serde_json::to_writer(&mut out, &given.stored()).expect("writes");
            assert_eq!(out.len(), stored.len());
        });
        let mut buffers = Buffers::default();
        contest(&mut group, "simd-json", &json, |_, bytes| {
            let given = simd_json::serde::from_slice_with_buffers(bytes, &mut buffers);
            let given: Given<'_, Text<'_>> = given.expect("reads");
            let mut out = Vec::with_capacity(stored.len());
            simd_json::to_writer(&mut out, &given.stored()).expect("writes");
            assert_eq!(out.len(), stored.len());
        });
        group.finish();
    }
}

/// From a record of the log to the frame of a `newMessage`, which is the message with its `seq`.
fn json_out(criterion: &mut Criterion) {
    for (size, text_bytes) in SIZES {
        let mut group = criterion.benchmark_group(format!("codec/json out/{size}"));
        let sealed = sealed(&given(text_bytes));
        let (key, value) = (sealed.conversation.as_bytes(), &sealed.value);
        let seq = Seq::new(1, 4711);
        let frame = event::new_message(&sealed.at(seq));
        let json = str::from_utf8(value).expect("JSON is UTF-8");
        let show = |write: &dyn Fn(&mut Vec<u8>)| {
            let shown = Frame::text(value.len() + 48, |out| {
                out.extend_from_slice(b"42[\"newMessage\",");
                write(out);
                out.push(b']');
            });
            assert_eq!(shown.len(), frame.len());
        };
        contest(&mut group, "ours", json, |_, _| {
            let message = Message::from_log(key, value, seq).expect("a message");
            assert_eq!(event::new_message(&message).len(), frame.len());
        });
        contest(&mut group, "serde_json", json, |json, _| {
            let mut stored: Stored<'_, Text<'_>> = serde_json::from_str(json).expect("reads");
            stored.seq = Some(seq.0);
            show(&|out| serde_json::to_writer(out, &stored).expect("writes"));
        });
        let mut buffers = Buffers::default();
        contest(&mut group, "simd-json", json, |_, bytes| {
            let stored = simd_json::serde::from_slice_with_buffers(bytes, &mut buffers);
            let mut stored: Stored<'_, Text<'_>> = stored.expect("reads");
            stored.seq = Some(seq.0);
            show(&|out| simd_json::to_writer(out, &stored).expect("writes"));
        });
        group.finish();
    }
}

/// Lets one way read: the text as the websocket's decoder hands it on, known to be UTF-8, or a copy of its bytes. Both
/// are made, so that the copy is in everybody's time.
fn contest(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    json: &str,
    mut read: impl FnMut(&str, &mut [u8]),
) {
    group.throughput(Throughput::Bytes(json.len() as u64));
    let mut bytes = json.as_bytes().to_vec();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            bytes.copy_from_slice(black_box(json).as_bytes());
            read(black_box(json), black_box(&mut bytes));
        });
    });
}

fn chat_message(text_bytes: usize) -> String {
    messages::chat_message(text_bytes, Some(NAME))
}

fn given(text_bytes: usize) -> String {
    draft_json(&umlauts(text_bytes), Some(NAME))
}

fn sealed(json: &str) -> Sealed {
    let draft = Draft::parse(json).expect("a draft");
    draft.seal(MessageId([7; 12]), messages::UNIX_MS)
}

/// A text without its quotes and escapes; borrowed when it has none.
#[derive(Deserialize, Serialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields of a `chatMessage`; its text read, or as it came.
#[derive(Deserialize)]
struct Given<'a, T> {
    #[serde(borrow)]
    conversation_id: Cow<'a, str>,
    #[serde(borrow)]
    sender_id: Cow<'a, str>,
    #[serde(borrow)]
    receiver_id: Cow<'a, str>,
    text_content: T,
    #[serde(borrow)]
    client_message_id: Cow<'a, str>,
}

impl<'a, T> Given<'a, T> {
    fn stored(self) -> Stored<'a, T> {
        Stored {
            _id: "070707070707070707070707".into(),
            conversation_id: self.conversation_id,
            sender_id: self.sender_id,
            receiver_id: self.receiver_id,
            text_content: self.text_content,
            message_type: "text".into(),
            timestamp: "2026-11-23T12:00:00.000Z".into(),
            client_message_id: self.client_message_id,
            is_spam: false,
            seq: None,
        }
    }
}

/// A message as it is stored, and with `seq` as it is shown.
#[derive(Deserialize, Serialize)]
struct Stored<'a, T> {
    #[serde(borrow)]
    _id: Cow<'a, str>,
    #[serde(borrow)]
    conversation_id: Cow<'a, str>,
    #[serde(borrow)]
    sender_id: Cow<'a, str>,
    #[serde(borrow)]
    receiver_id: Cow<'a, str>,
    text_content: T,
    #[serde(borrow)]
    message_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    client_message_id: Cow<'a, str>,
    is_spam: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

/// Name, and bytes of text.
const SIZES: [(&str, usize); 2] = [("chat", 120), ("4k", 4_000)];
