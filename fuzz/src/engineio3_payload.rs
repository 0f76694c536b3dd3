//! The body of a polling request, revision 3. The first byte says how it is framed: `b` is binary, anything else text.
//!
//! Reading ends, an error ends it at once, and the packets before it can be written and read again in either framing.

use chat_svc::protocol::engineio::{PAYLOAD_PACKETS_MAX, PayloadError, Polled};
use chat_svc::protocol::engineio_v3::{self, Framing, packets, write_payload};
use chat_svc::protocol::frame::Frame;

pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let framing = if *kind == b'b' {
        Framing::Binary
    } else {
        Framing::Text
    };
    let (frames, _) = read(body, framing);
    for some in frames.chunks(PAYLOAD_PACKETS_MAX) {
        let chosen = Framing::of_frames(some, true);
        let is_binary = some.iter().any(Frame::is_binary);
        assert_eq!(chosen == Framing::Binary, is_binary);
        for framing in [Framing::Text, Framing::Binary] {
            let mut body = Vec::new();
            assert_eq!(write_payload(&mut body, some, framing), some.len());
            let (again, error) = read(&body, framing);
            assert_eq!((again.as_slice(), error), (some, None));
        }
    }
    frames.iter().for_each(on_a_websocket);
}

fn read(data: &[u8], framing: Framing) -> (Vec<Frame>, Option<PayloadError>) {
    let (mut body, mut frames) = (data.to_vec(), Vec::new());
    let mut packets = packets(&mut body, framing);
    for packet in packets.by_ref() {
        match packet {
            Ok(Polled::Text(text)) => {
                assert!(!text.is_empty() && str::from_utf8(text).is_ok());
                frames.push(Frame::text_from(text));
            }
            Ok(Polled::Binary(bytes)) => frames.push(Frame::binary(&bytes)),
            Err(error) => {
                assert!(packets.next().is_none(), "it goes on after an error");
                return (frames, Some(error));
            }
        }
    }
    assert!(!data.is_empty() && frames.len() * 3 <= data.len());
    (frames, None)
}

fn on_a_websocket(frame: &Frame) {
    let raw = engineio_v3::websocket_frame(frame, true);
    let text = engineio_v3::websocket_frame(frame, false);
    assert!(!text.is_binary() && str::from_utf8(text.packet()).is_ok());
    if frame.is_binary() {
        assert_eq!(
            engineio_v3::websocket_binary(raw.packet()),
            Ok(frame.packet())
        );
        let typed = text.packet().strip_prefix(b"b").expect("it is base64");
        assert_eq!(
            engineio_v3::decode_binary(typed).as_deref(),
            Ok(frame.packet())
        );
    } else {
        assert_eq!((&raw, &text), (frame, frame));
    }
}
