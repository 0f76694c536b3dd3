//! Engine.IO revision 4: packet types, session ids, the handshake's answers, and polling payloads
//! both ways.
//!
//! Packets are read where they lie; only base64 is decoded into memory of its own, smaller than its
//! text. Packet types, sids, `open` and errors are those of revision 3 as well; what it does in
//! another way is in [`super::engineio_v3`].

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thiserror::Error;

use super::frame::Frame;

// === Revision ===

/// The revision of the protocol, which the handshake's `EIO` names for the whole session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// With Socket.IO revision 4: JavaScript clients 1.x and 2.x, Java 1.x, python-socketio 4.
    V3,
    /// With Socket.IO revision 5: all clients since.
    V4,
}

impl Revision {
    /// From the value of `EIO`; `None` for anything but `3` and `4`.
    pub fn parse(eio: &str) -> Option<Self> {
        match eio {
            "3" => Some(Self::V3),
            "4" => Some(Self::V4),
            _ => None,
        }
    }
}

// === PacketType ===

/// The first character of a text packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    Open = 0,
    Close = 1,
    Ping = 2,
    Pong = 3,
    Message = 4,
    Upgrade = 5,
    Noop = 6,
}

impl PacketType {
    /// From its ASCII digit.
    pub fn from_digit(digit: u8) -> Option<Self> {
        match digit {
            b'0' => Some(Self::Open),
            b'1' => Some(Self::Close),
            b'2' => Some(Self::Ping),
            b'3' => Some(Self::Pong),
            b'4' => Some(Self::Message),
            b'5' => Some(Self::Upgrade),
            b'6' => Some(Self::Noop),
            _ => None,
        }
    }

    /// Its ASCII digit.
    pub fn digit(self) -> u8 {
        b'0' + self as u8
    }
}

// === Sid ===

/// Names a session and is its secret: who knows it can speak for the client. `Debug` does not tell
/// it, `Display` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid([u8; SID_BYTES]);

impl Sid {
    /// From random bytes, which have to come from the system's source.
    pub const fn new(bytes: [u8; SID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads the 20 characters that `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; SID_BYTES];
        if text.len() != SID_CHARS {
            return None;
        }
        URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        base64::display::Base64Display::new(&self.0, &URL_SAFE_NO_PAD).fmt(f)
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sid(..)")
    }
}

// === HandshakeError ===

/// Why a request is refused, in the codes and words that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    #[error("{}", self.message())]
    TransportUnknown,
    #[error("{}", self.message())]
    SessionIdUnknown,
    #[error("{}", self.message())]
    BadHandshakeMethod,
    #[error("{}", self.message())]
    BadRequest,
    #[error("{}", self.message())]
    Forbidden,
    #[error("{}", self.message())]
    UnsupportedProtocolVersion,
}

impl HandshakeError {
    pub fn code(self) -> u8 {
        match self {
            Self::TransportUnknown => 0,
            Self::SessionIdUnknown => 1,
            Self::BadHandshakeMethod => 2,
            Self::BadRequest => 3,
            Self::Forbidden => 4,
            Self::UnsupportedProtocolVersion => 5,
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::TransportUnknown => "Transport unknown",
            Self::SessionIdUnknown => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedProtocolVersion => "Unsupported protocol version",
        }
    }

    pub fn http_status(self) -> u16 {
        if self == Self::Forbidden { 403 } else { 400 }
    }

    /// The body of a polling client's answer.
    pub fn json(self) -> String {
        format!(
            r#"{{"code":{},"message":"{}"}}"#,
            self.code(),
            self.message()
        )
    }
}

// === Open ===

/// The server's first packet: the session and what the client has to keep to. The same for both
/// revisions; clients of revision 3 do not look at `maxPayload`.
#[derive(Clone, Debug)]
pub struct Open<'a> {
    pub sid: Sid,
    /// Transports the client may change to; plain names, written as they are.
    pub upgrades: &'a [&'a str],
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// Bytes of a request body or message.
    pub max_payload: usize,
}

impl Open<'_> {
    /// Appends the packet: its type and an object of exactly the five keys that clients expect.
    pub fn write(&self, out: &mut Vec<u8>) {
        let upgrades: Vec<String> = self
            .upgrades
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        let packet = format!(
            r#"0{{"sid":"{}","upgrades":[{}],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            self.sid,
            upgrades.join(","),
            self.ping_interval.as_millis(),
            self.ping_timeout.as_millis(),
            self.max_payload,
        );
        out.extend_from_slice(packet.as_bytes());
    }
}

// === Payloads ===

/// The packets of a polling request's body, in order, in one pass.
///
/// The first error is the last item: what stands before it counts, what stands behind it does not.
/// An empty body is one empty packet, so an error.
pub fn packets(body: &mut [u8]) -> Packets<'_> {
    Packets { rest: Some(body) }
}

/// Iterator of [`packets`].
#[derive(Debug)]
pub struct Packets<'a> {
    /// What is still to be read; `None` at the end.
    rest: Option<&'a mut [u8]>,
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Polled<'a>, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let packet = match memchr::memchr(SEPARATOR, rest) {
            Some(end) => {
                let (packet, behind) = rest.split_at_mut(end);
                self.rest = Some(&mut behind[1..]);
                packet
            }
            None => rest,
        };
        let polled = polled(packet);
        if polled.is_err() {
            self.rest = None;
        }
        Some(polled)
    }
}

/// A packet that came by polling.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled<'a> {
    /// A text packet with its type in front: valid UTF-8 of at least one byte, the type still to be
    /// judged.
    Text(&'a mut [u8]),
    /// A binary message.
    Binary(Vec<u8>),
}

/// Why a payload cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    #[error("an empty packet")]
    EmptyPacket,
    #[error("a packet is not UTF-8")]
    InvalidUtf8,
    #[error("a binary message is not base64")]
    InvalidBase64,
    /// Revision 3 only, as are those below.
    #[error("a packet's length is missing, no number or not that of what follows")]
    InvalidLength,
    #[error("a binary packet is not a message")]
    BinaryType,
    #[error("too many packets")]
    TooManyPackets,
}

fn polled(packet: &mut [u8]) -> Result<Polled<'_>, PayloadError> {
    match packet {
        [] => Err(PayloadError::EmptyPacket),
        [BINARY, base64 @ ..] => decode_binary(base64).map(Polled::Binary),
        packet if simdutf8::basic::from_utf8(packet).is_err() => Err(PayloadError::InvalidUtf8),
        packet => Ok(Polled::Text(packet)),
    }
}

/// Decodes a binary message in its text form: what follows the `b`, which clients may also send in
/// a text frame. Standard base64, padded or not.
///
/// # Errors
/// [`PayloadError::InvalidBase64`].
pub fn decode_binary(base64: &[u8]) -> Result<Vec<u8>, PayloadError> {
    BASE64_LENIENT
        .decode(base64)
        .map_err(|_| PayloadError::InvalidBase64)
}

/// Appends a polling answer's body, at most [`PAYLOAD_PACKETS_MAX`] of the frames; returns how many
/// it took.
pub fn write_payload<'a>(out: &mut Vec<u8>, frames: impl IntoIterator<Item = &'a Frame>) -> usize {
    let mut count = 0;
    for frame in frames.into_iter().take(PAYLOAD_PACKETS_MAX) {
        if count > 0 {
            out.push(SEPARATOR);
        }
        if frame.is_binary() {
            out.push(BINARY);
            write_base64(out, frame.packet());
        } else {
            out.extend_from_slice(frame.packet());
        }
        count += 1;
    }
    count
}

/// Appends standard base64, padded: four characters for each three bytes begun.
pub(super) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("four characters for each three bytes begun");
}

/// Packets in one polling answer. Clients in Python refuse a longer one and drop the connection.
pub const PAYLOAD_PACKETS_MAX: usize = 16;

/// Random bytes in a [`Sid`], in which base64 leaves no bit unused.
pub const SID_BYTES: usize = 15;
const SID_CHARS: usize = SID_BYTES / 3 * 4;

/// Between two packets of a payload.
const SEPARATOR: u8 = 0x1E;
/// In front of a binary message in a payload, in place of its type.
const BINARY: u8 = b'b';

/// What clients' own base64 may look like: with or without padding, whatever its last bits.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SID: [u8; SID_BYTES] = [0, 255, 3, 250, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 255];

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
    }

    fn read(body: &[u8]) -> (Vec<Seen>, Option<PayloadError>) {
        let (mut body, mut seen) = (body.to_vec(), Vec::new());
        for packet in packets(&mut body) {
            match packet {
                Ok(Polled::Text(text)) => {
                    seen.push(Seen::Text(String::from_utf8(text.to_vec()).unwrap()));
                }
                Ok(Polled::Binary(bytes)) => seen.push(Seen::Binary(bytes)),
                Err(error) => return (seen, Some(error)),
            }
        }
        (seen, None)
    }

    fn text(text: &str) -> Seen {
        Seen::Text(text.into())
    }

    #[test]
    fn revisions_are_three_and_four() {
        assert_eq!(Revision::parse("3"), Some(Revision::V3));
        assert_eq!(Revision::parse("4"), Some(Revision::V4));
        for wrong in ["", "2", "5", "04", "4 ", "44"] {
            assert_eq!(Revision::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn types_and_digits_belong_together() {
        for digit in 0..=255 {
            match PacketType::from_digit(digit) {
                Some(packet_type) => assert_eq!(packet_type.digit(), digit),
                None => assert!(!(b'0'..=b'6').contains(&digit)),
            }
        }
    }

    #[test]
    fn a_sid_is_twenty_characters_and_back() {
        let sid = Sid::new(SID);
        let text = sid.to_string();
        assert_eq!(text.len(), 20);
        assert_eq!(Sid::parse(&text), Some(sid));
        assert!(!format!("{sid:?}").contains(&text));
        for wrong in [
            "",
            &text[1..],
            &format!("{text}A"),
            "AAAAAAAAAAAAAAAAAAA=",
            "AAAAAAAAAAAAAAAAAAA+",
        ] {
            assert_eq!(Sid::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Sid::parse("äääääääääA"), None);
    }

    #[test]
    fn refusals_have_the_known_codes() {
        let forbidden = HandshakeError::Forbidden;
        assert_eq!(forbidden.json(), r#"{"code":4,"message":"Forbidden"}"#);
        assert_eq!(forbidden.http_status(), 403);
        let version = HandshakeError::UnsupportedProtocolVersion;
        assert_eq!(
            version.json(),
            r#"{"code":5,"message":"Unsupported protocol version"}"#
        );
        assert_eq!(version.http_status(), 400);
        assert_eq!(
            HandshakeError::SessionIdUnknown.to_string(),
            "Session ID unknown"
        );
    }

    #[test]
    fn open_has_exactly_the_five_keys() {
        let mut out = Vec::new();
        let mut open = Open {
            sid: Sid::new([0; SID_BYTES]),
            upgrades: &["websocket"],
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_millis(200),
            max_payload: 1_000_000,
        };
        open.write(&mut out);
        let expected = concat!(
            r#"0{"sid":"AAAAAAAAAAAAAAAAAAAA","upgrades":["websocket"],"#,
            r#""pingInterval":25000,"pingTimeout":200,"maxPayload":1000000}"#,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        open.upgrades = &[];
        open.write(&mut out);
        assert!(
            String::from_utf8(out)
                .unwrap()
                .contains(r#""upgrades":[],"#)
        );
    }

    #[test]
    fn payloads_are_split_at_the_separator() {
        let (seen, error) = read("4a\u{1e}bAQID\u{1e}3\u{1e}4😀".as_bytes());
        assert_eq!(
            seen,
            [
                text("4a"),
                Seen::Binary(vec![1, 2, 3]),
                text("3"),
                text("4😀")
            ]
        );
        assert_eq!(error, None);
    }

    #[test]
    fn what_stands_before_an_error_counts() {
        for (behind, expected) in [
            (b"".as_slice(), PayloadError::EmptyPacket),
            (b"4\xFF", PayloadError::InvalidUtf8),
            (b"b*", PayloadError::InvalidBase64),
            (b"bA", PayloadError::InvalidBase64),
        ] {
            let mut body = [b"4a\x1e", behind, b"\x1e4b"].concat();
            let items: Vec<_> = packets(&mut body).map(|item| item.map(drop)).collect();
            assert_eq!(items, [Ok(()), Err(expected)]);
            assert_eq!(read(behind), (vec![], Some(expected)));
        }
        assert_eq!(
            read(b"4a\x1e"),
            (vec![text("4a")], Some(PayloadError::EmptyPacket))
        );
    }

    #[test]
    fn base64_may_be_careless_and_may_be_empty() {
        // With padding, without it, and with bits behind the last byte.
        for base64 in [b"bAQ==".as_slice(), b"bAQ", b"bAR=="] {
            assert_eq!(read(base64), (vec![Seen::Binary(vec![1])], None));
        }
        assert_eq!(read(b"b"), (vec![Seen::Binary(vec![])], None));
    }

    #[test]
    fn an_answer_has_at_most_sixteen_packets() {
        for (offered, taken) in [(0, 0), (15, 15), (16, 16), (17, 16)] {
            let frames = vec![Frame::noop(); offered];
            let mut out = Vec::new();
            assert_eq!(write_payload(&mut out, &frames), taken);
            assert_eq!(out.iter().filter(|&&byte| byte == b'6').count(), taken);
        }
    }

    proptest! {
        #[test]
        fn payloads_come_back_as_they_were_written(
            expected in vec(
                prop_oneof![
                    "4[^\u{1e}]{0,40}".prop_map(Seen::Text),
                    vec(any::<u8>(), 0..60).prop_map(Seen::Binary),
                ],
                1..=16,
            ),
        ) {
            let frames: Vec<Frame> = expected
                .iter()
                .map(|packet| match packet {
                    Seen::Text(text) => Frame::text_from(text.as_bytes()),
                    Seen::Binary(bytes) => Frame::binary(bytes),
                })
                .collect();
            let mut out = Vec::new();
            write_payload(&mut out, &frames);
            prop_assert_eq!(read(&out), (expected, None));
        }

        #[test]
        fn any_body_is_read_to_its_end(
            body in vec(prop_oneof![any::<u8>(), Just(0x1E), Just(b'b')], 0..200),
        ) {
            let separators = body.iter().filter(|&&byte| byte == SEPARATOR).count();
            let mut body = body;
            let items: Vec<_> = packets(&mut body).map(|item| item.map(drop)).collect();
            prop_assert!(items.len() <= separators + 1);
            prop_assert!(items.iter().rev().skip(1).all(Result::is_ok));
        }

        #[test]
        fn sids_come_back(bytes in any::<[u8; SID_BYTES]>()) {
            let sid = Sid::new(bytes);
            prop_assert_eq!(Sid::parse(&sid.to_string()), Some(sid));
        }
    }
}
