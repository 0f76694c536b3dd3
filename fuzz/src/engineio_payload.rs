//! The body of a polling request, revision 4.
//!
//! Reading ends, an error ends it at once, and the packets before it can be written and read again.

use chat_svc::protocol::engineio::{
    PAYLOAD_PACKETS_MAX, PayloadError, Polled, Sid, packets, write_payload,
};
use chat_svc::protocol::frame::Frame;

pub fn run(data: &[u8]) {
    let (frames, error) = read(data);
    let separators = data.iter().filter(|&&byte| byte == 0x1E).count();
    let items = frames.len() + usize::from(error.is_some());
    assert!((1..=separators + 1).contains(&items));
    assert!(error.is_some() || items == separators + 1);
    for some in frames.chunks(PAYLOAD_PACKETS_MAX) {
        let mut body = Vec::new();
        assert_eq!(write_payload(&mut body, some), some.len());
        let (again, error) = read(&body);
        assert_eq!((again.as_slice(), error), (some, None));
    }
    let sid = str::from_utf8(data).ok();
    if let Some((text, sid)) = sid.and_then(|text| Some((text, Sid::parse(text)?))) {
        assert_eq!(sid.to_string(), text);
    }
}

fn read(data: &[u8]) -> (Vec<Frame>, Option<PayloadError>) {
    let (mut body, mut frames) = (data.to_vec(), Vec::new());
    let mut packets = packets(&mut body);
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
    (frames, None)
}
