//! What one message costs in the codecs: decoded from a client's frame, encoded for all who get it.
//!
//! Sizes are those of a chat: some 250 bytes of JSON. The large frame shows the cost for each byte.

use std::hint::black_box;

use chat_svc::protocol::engineio::{self, Polled};
use chat_svc::protocol::engineio_v3::{self, Framing};
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::msgpack;
use chat_svc::protocol::socketio;
use chat_svc::protocol::websocket::{Decoder, Event, Opcode, Step, head};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

criterion_group!(benches, receive, poll, poll_v3, msgpack, send);
criterion_main!(benches);

/// Frame to event name and raw arguments: all that is done with a message before it is looked into.
fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive");
    let event = chat_message(120);
    for (name, packet) in [("chat", event), ("64k", chat_message(65_000))] {
        let frame = client_frame(packet.as_bytes());
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
                let event = socketio::event(packet.data.expect("data")).expect("an event");
                assert_eq!(event.args.len(), 1);
            });
        });
    }
}

fn poll(criterion: &mut Criterion) {
    let body = vec![chat_message(120); 16].join("\u{1e}").into_bytes();
    let frames = vec![Frame::text_from(chat_message(120).as_bytes()); 16];
    criterion.bench_function("poll/read 16", |bencher| {
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
    criterion.bench_function("poll/write 16", |bencher| {
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
        criterion.bench_function(&format!("poll v3/read 16 {name}"), |bencher| {
            bencher.iter_batched_ref(
                || body.clone(),
                |body| assert_eq!(engineio_v3::packets(body, framing).count(), 16),
                BatchSize::SmallInput,
            );
        });
        criterion.bench_function(&format!("poll v3/write 16 {name}"), |bencher| {
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
    criterion.bench_function("msgpack/read", |bencher| {
        bencher.iter(|| msgpack::read::decode(black_box(binary.packet()), BYTES_MAX));
    });
    criterion.bench_function("msgpack/write", |bencher| {
        bencher.iter(|| msgpack::write::frame(black_box(&text), &[], BYTES_MAX));
    });
}

/// One frame for a message, however many get it; then what each of them costs.
fn send(criterion: &mut Criterion) {
    let message = chat_message(120);
    criterion.bench_function("send/encode", |bencher| {
        bencher.iter(|| {
            Frame::text(message.len() + 32, |out| {
                let args = [black_box(&*message)];
                socketio::write_event(out, "/", None, "newMessage", (&args).into());
            })
        });
    });
    let frame = Frame::text_from(message.as_bytes());
    criterion.bench_function("send/clone", |bencher| {
        bencher.iter(|| black_box(&frame).clone())
    });
}

fn chat_message(text_len: usize) -> String {
    let text = "grüße ".repeat(text_len / 8);
    let ids = r#""conversation_id":"c-4711","sender_id":"user-0815","receiver_id":"user-4712""#;
    format!(
        r#"42["chatMessage",{{{ids},"text_content":"{text}","client_message_id":"0190b3f2-7c1e"}}]"#
    )
}

fn client_frame(payload: &[u8]) -> Vec<u8> {
    let (head, head_len) = head(Opcode::Text, payload.len());
    let mut frame = head[..head_len].to_vec();
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

const BYTES_MAX: usize = 1_000_000;
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
