//! Engine.IO revision 3 where it differs from revision 4: how payloads are framed, what a binary
//! message looks like, and that it is the client who pings.
//!
//! Packet types, sids, `open` and refusals are those of [`super::engineio`]. What a session can take
//! (`b64` of its handshake) is for the caller to remember.

use super::engineio::{self, PAYLOAD_PACKETS_MAX, PayloadError, Polled, write_base64};
use super::frame::Frame;

// === Framing ===

/// How the packets of a payload are told apart. Its content type says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `<length>:<packet>`, the length in UTF-16 code units; a binary message is `b4` and base64.
    Text,
    /// A byte 0 (text) or 1 (binary), the length in bytes as one byte 0 to 9 a digit, a byte 255,
    /// the packet.
    Binary,
}

impl Framing {
    /// That of an answer with these frames: binary if the client can take it and one of the frames
    /// that [`write_payload`] will take is binary.
    pub fn of_frames<'a>(
        frames: impl IntoIterator<Item = &'a Frame>,
        supports_binary: bool,
    ) -> Self {
        let mut taken = frames.into_iter().take(PAYLOAD_PACKETS_MAX);
        if supports_binary && taken.any(Frame::is_binary) {
            Self::Binary
        } else {
            Self::Text
        }
    }

    /// That of a request with this content type. Text, unless it says otherwise.
    pub fn of_content_type(content_type: Option<&str>) -> Self {
        let essence = content_type.and_then(|value| value.split(';').next());
        let octets = "application/octet-stream";
        match essence {
            Some(essence) if essence.trim().eq_ignore_ascii_case(octets) => Self::Binary,
            _ => Self::Text,
        }
    }

    /// The content type of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=UTF-8",
            Self::Binary => "application/octet-stream",
        }
    }
}

// === Payloads ===

/// The packets of a polling request's body, in order, in one pass; at most [`BODY_PACKETS_MAX`].
///
/// The first error is the last item: what stands before it counts, what stands behind it does not.
/// An empty body is an error; an empty packet in the text framing (`0:`, how clients write that
/// there is none) is passed over.
pub fn packets(body: &mut [u8], framing: Framing) -> Packets<'_> {
    Packets {
        rest: Some(body),
        framing,
        left: BODY_PACKETS_MAX,
    }
}

/// Iterator of [`packets`].
#[derive(Debug)]
pub struct Packets<'a> {
    /// What is still to be read; `None` at the end.
    rest: Option<&'a mut [u8]>,
    framing: Framing,
    /// Packets that may still come.
    left: usize,
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Polled<'a>, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest.take()?;
            if self.left == 0 {
                return Some(Err(PayloadError::TooManyPackets));
            }
            self.left -= 1;
            let cut = match self.framing {
                Framing::Text => cut_text(rest),
                Framing::Binary => cut_binary(rest),
            };
            let Cut {
                packet,
                is_text,
                behind,
            } = match cut {
                Ok(cut) => cut,
                Err(error) => return Some(Err(error)),
            };
            let is_nothing = packet.is_empty() && self.framing == Framing::Text;
            let polled = match is_text {
                _ if is_nothing => None,
                true => Some(text(packet)),
                false => Some(websocket_binary(packet).map(|raw| Polled::Binary(raw.to_vec()))),
            };
            if !behind.is_empty() && !matches!(polled, Some(Err(_))) {
                self.rest = Some(behind);
            }
            if polled.is_some() {
                return polled;
            }
        }
    }
}

/// A packet, and what is behind it.
struct Cut<'a> {
    packet: &'a mut [u8],
    is_text: bool,
    behind: &'a mut [u8],
}

fn cut_text(body: &mut [u8]) -> Result<Cut<'_>, PayloadError> {
    if body.is_empty() {
        return Err(PayloadError::EmptyPacket);
    }
    let (units, start) = length(body, b'0', b':')?;
    let body = &mut body[start..];
    let end = utf16_prefix(body, units).ok_or(PayloadError::InvalidLength)?;
    let (packet, behind) = body.split_at_mut(end);
    Ok(Cut {
        packet,
        is_text: true,
        behind,
    })
}

fn cut_binary(body: &mut [u8]) -> Result<Cut<'_>, PayloadError> {
    let is_text = match body.first() {
        Some(&TEXT) => true,
        Some(&BINARY) => false,
        Some(_) => return Err(PayloadError::InvalidLength),
        None => return Err(PayloadError::EmptyPacket),
    };
    let (bytes, start) = length(&body[1..], 0, LENGTH_END)?;
    let (packet, behind) = body[1 + start..]
        .split_at_mut_checked(bytes)
        .ok_or(PayloadError::InvalidLength)?;
    Ok(Cut {
        packet,
        is_text,
        behind,
    })
}

/// The length at the start, in digits counted from `zero` with `end` behind them, and where what it
/// is the length of begins.
fn length(body: &[u8], zero: u8, end: u8) -> Result<(usize, usize), PayloadError> {
    let mut length = 0;
    for (at, &byte) in body.iter().take(LENGTH_DIGITS_MAX + 1).enumerate() {
        match byte.wrapping_sub(zero) {
            _ if byte == end && at > 0 => return Ok((length, at + 1)),
            digit @ 0..=9 if at < LENGTH_DIGITS_MAX => length = length * 10 + usize::from(digit),
            _ => break,
        }
    }
    Err(PayloadError::InvalidLength)
}

/// Bytes of the first `units` UTF-16 code units; `None` if there are fewer, or if that would cut a
/// character. Of what is not UTF-8, some number or none: it is refused later.
fn utf16_prefix(bytes: &[u8], units: usize) -> Option<usize> {
    if bytes.get(..units)?.is_ascii() {
        return Some(units);
    }
    let mut left = units;
    for (at, &byte) in bytes.iter().enumerate() {
        let width = utf16_width(byte);
        if left == 0 && width > 0 {
            return Some(at);
        }
        left = left.checked_sub(width)?;
    }
    (left == 0).then_some(bytes.len())
}

/// UTF-16 code units of the character that starts with this byte; none where none starts.
fn utf16_width(byte: u8) -> usize {
    match byte {
        0x80..=0xBF => 0,
        0xF0..=0xFF => 2,
        _ => 1,
    }
}

fn text(packet: &mut [u8]) -> Result<Polled<'_>, PayloadError> {
    match packet {
        [] => Err(PayloadError::EmptyPacket),
        [b'b', base64 @ ..] => decode_binary(base64).map(Polled::Binary),
        packet if simdutf8::basic::from_utf8(packet).is_err() => Err(PayloadError::InvalidUtf8),
        packet => Ok(Polled::Text(packet)),
    }
}

/// Appends a polling answer's body, at most [`PAYLOAD_PACKETS_MAX`] of the frames; returns how many
/// it took. No frames give an empty body, which is no payload.
pub fn write_payload<'a>(
    out: &mut Vec<u8>,
    frames: impl IntoIterator<Item = &'a Frame>,
    framing: Framing,
) -> usize {
    let mut count = 0;
    for frame in frames.into_iter().take(PAYLOAD_PACKETS_MAX) {
        match framing {
            Framing::Text => write_text(out, frame),
            Framing::Binary => write_binary(out, frame),
        }
        count += 1;
    }
    count
}

fn write_text(out: &mut Vec<u8>, frame: &Frame) {
    let packet = frame.packet();
    let units: usize = match frame.is_binary() {
        true => base64_len(packet),
        false => packet.iter().copied().map(utf16_width).sum(),
    };
    out.extend_from_slice(itoa::Buffer::new().format(units).as_bytes());
    out.push(b':');
    match frame.is_binary() {
        true => write_base64_message(out, packet),
        false => out.extend_from_slice(packet),
    }
}

fn write_binary(out: &mut Vec<u8>, frame: &Frame) {
    let packet = frame.packet();
    let head: &[u8] = if frame.is_binary() { &[MESSAGE] } else { &[] };
    out.push(if frame.is_binary() { BINARY } else { TEXT });
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(head.len() + packet.len()).bytes();
    out.extend(digits.map(|digit| digit - b'0'));
    out.push(LENGTH_END);
    out.extend_from_slice(head);
    out.extend_from_slice(packet);
}

// === Binary messages ===

/// The frame as it has to go on a WebSocket: a binary message gets its type in front, or becomes
/// text if the WebSocket was opened with `b64`. A text frame stays what it is and shares its bytes.
pub fn websocket_frame(frame: &Frame, supports_binary: bool) -> Frame {
    let message = frame.packet();
    match (frame.is_binary(), supports_binary) {
        (false, _) => frame.clone(),
        (true, true) => Frame::binary(&[&[MESSAGE], message].concat()),
        (true, false) => Frame::text(base64_len(message), |out| {
            write_base64_message(out, message);
        }),
    }
}

/// The message in a WebSocket's binary message, behind its type.
///
/// # Errors
/// [`PayloadError::EmptyPacket`]; [`PayloadError::BinaryType`] if it is of another type.
pub fn websocket_binary(message: &[u8]) -> Result<&[u8], PayloadError> {
    match message {
        [] => Err(PayloadError::EmptyPacket),
        [MESSAGE, raw @ ..] => Ok(raw),
        _ => Err(PayloadError::BinaryType),
    }
}

/// Decodes a binary message in its text form: what follows the `b`, in a payload or in a text
/// frame. That is its type and standard base64, padded or not.
///
/// # Errors
/// [`PayloadError::BinaryType`], [`PayloadError::InvalidBase64`].
pub fn decode_binary(typed: &[u8]) -> Result<Vec<u8>, PayloadError> {
    match typed {
        [b'4', base64 @ ..] => engineio::decode_binary(base64),
        _ => Err(PayloadError::BinaryType),
    }
}

fn write_base64_message(out: &mut Vec<u8>, message: &[u8]) {
    out.extend_from_slice(b"b4");
    write_base64(out, message);
}

/// Characters of a binary message in its text form.
fn base64_len(message: &[u8]) -> usize {
    2 + message.len().div_ceil(3) * 4
}

// === Heartbeat ===

/// The answer to a client's ping: only that to an upgrade's probe repeats what came with it.
pub fn pong(data: &str) -> Frame {
    match data {
        "probe" => Frame::probe_pong(),
        _ => Frame::pong(),
    }
}

/// Packets read from one body. Clients put all that waits into one, so a burst has to fit.
pub const BODY_PACKETS_MAX: usize = 65_536;

/// Digits of a length: more than any body has.
const LENGTH_DIGITS_MAX: usize = 10;

/// In the binary framing: a text packet, a binary one, and what ends the digits of its length.
const TEXT: u8 = 0;
const BINARY: u8 = 1;
const LENGTH_END: u8 = 255;

/// The type of a binary packet, as a number.
const MESSAGE: u8 = 4;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
    }

    fn read(body: &[u8], framing: Framing) -> (Vec<Seen>, Option<PayloadError>) {
        let (mut body, mut seen) = (body.to_vec(), Vec::new());
        let mut packets = packets(&mut body, framing);
        for packet in packets.by_ref() {
            match packet {
                Ok(Polled::Text(text)) => {
                    seen.push(Seen::Text(String::from_utf8(text.to_vec()).unwrap()));
                }
                Ok(Polled::Binary(bytes)) => seen.push(Seen::Binary(bytes)),
                Err(error) => {
                    assert!(packets.next().is_none());
                    return (seen, Some(error));
                }
            }
        }
        (seen, None)
    }

    fn text(text: &str) -> Seen {
        Seen::Text(text.into())
    }

    fn frame(seen: &Seen) -> Frame {
        match seen {
            Seen::Text(text) => Frame::text_from(text.as_bytes()),
            Seen::Binary(bytes) => Frame::binary(bytes),
        }
    }

    #[test]
    fn lengths_of_text_are_utf_16_code_units() {
        let expected = vec![text("4aé€"), text("4😀"), text("2")];
        assert_eq!(
            read("4:4aé€3:4😀1:2".as_bytes(), Framing::Text),
            (expected, None)
        );
        let mut out = Vec::new();
        let frames = [text("4aé€"), text("4😀"), text("6")].map(|seen| frame(&seen));
        assert_eq!(write_payload(&mut out, &frames, Framing::Text), 3);
        assert_eq!(String::from_utf8(out).unwrap(), "4:4aé€3:4😀1:6");
    }

    #[test]
    fn a_length_that_cuts_a_character_is_wrong() {
        for wrong in ["2:4😀", "4:4😀", "2:4😀1:2"] {
            let (seen, error) = read(wrong.as_bytes(), Framing::Text);
            assert_eq!(
                (seen, error),
                (vec![], Some(PayloadError::InvalidLength)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn binary_messages_are_b4_or_framed() {
        let frames = [text("4é"), Seen::Binary(vec![1, 2, 255])].map(|seen| frame(&seen));
        let written = |supports_binary| {
            let framing = Framing::of_frames(&frames, supports_binary);
            let mut out = Vec::new();
            write_payload(&mut out, &frames, framing);
            (framing, out)
        };
        assert_eq!(
            written(false),
            (Framing::Text, "2:4é6:b4AQL/".as_bytes().to_vec())
        );
        let framed = b"\x00\x03\xff4\xc3\xa9\x01\x04\xff\x04\x01\x02\xff";
        assert_eq!(written(true), (Framing::Binary, framed.to_vec()));
    }

    #[test]
    fn what_is_all_text_stays_text() {
        let noops = vec![Frame::noop(); PAYLOAD_PACKETS_MAX];
        assert_eq!(Framing::of_frames(&noops, true), Framing::Text);
        // The seventeenth is for the next answer.
        let late = [noops, vec![Frame::binary(b"a")]].concat();
        assert_eq!(Framing::of_frames(&late, true), Framing::Text);
        assert_eq!(Framing::of_frames(&late[1..], true), Framing::Binary);
    }

    #[test]
    fn the_content_type_tells_the_framing() {
        for octets in [
            "application/octet-stream",
            "Application/Octet-Stream",
            "application/octet-stream; charset=x",
        ] {
            assert_eq!(Framing::of_content_type(Some(octets)), Framing::Binary);
        }
        for other in ["text/plain;charset=UTF-8", "", "application/octet-streams"] {
            assert_eq!(Framing::of_content_type(Some(other)), Framing::Text);
        }
        assert_eq!(Framing::of_content_type(None), Framing::Text);
        for framing in [Framing::Text, Framing::Binary] {
            assert_eq!(
                Framing::of_content_type(Some(framing.content_type())),
                framing
            );
        }
    }

    #[test]
    fn the_base64_form_is_taken_in_either_framing() {
        let expected = (vec![Seen::Binary(vec![1])], None);
        assert_eq!(read(b"6:b4AQ==", Framing::Text), expected);
        assert_eq!(read(b"4:b4AQ", Framing::Text), expected);
        assert_eq!(read(b"\x00\x06\xffb4AQ==", Framing::Binary), expected);
    }

    #[test]
    fn text_payloads_that_cannot_be_read() {
        for (wrong, expected) in [
            ("", PayloadError::EmptyPacket),
            ("4", PayloadError::InvalidLength),
            (":", PayloadError::InvalidLength),
            (":4a", PayloadError::InvalidLength),
            ("2", PayloadError::InvalidLength),
            ("x:4a", PayloadError::InvalidLength),
            ("-1:4a", PayloadError::InvalidLength),
            ("+2:4a", PayloadError::InvalidLength),
            (" 2:4a", PayloadError::InvalidLength),
            ("2.0:4a", PayloadError::InvalidLength),
            ("3:4a", PayloadError::InvalidLength),
            ("9999999999:4a", PayloadError::InvalidLength),
            ("00000000002:4a", PayloadError::InvalidLength),
            ("18446744073709551618:4a", PayloadError::InvalidLength),
            ("1:b", PayloadError::BinaryType),
            ("4:bAQI", PayloadError::BinaryType),
            ("6:b2AQID", PayloadError::BinaryType),
            ("3:b4*", PayloadError::InvalidBase64),
        ] {
            assert_eq!(
                read(wrong.as_bytes(), Framing::Text),
                (vec![], Some(expected)),
                "{wrong}"
            );
            let behind = format!("2:4a{wrong}");
            let behind = read(behind.as_bytes(), Framing::Text);
            let expected = Some(expected).filter(|_| !wrong.is_empty());
            assert_eq!(behind, (vec![text("4a")], expected), "{wrong}");
        }
        let invalid = (vec![], Some(PayloadError::InvalidUtf8));
        assert_eq!(read(b"4:4\xFFab", Framing::Text), invalid);
        assert!(read(b"2:4a\x80", Framing::Text).1.is_some());
    }

    #[test]
    fn the_longest_length_is_ten_digits() {
        let expected = (vec![text("4a")], None);
        assert_eq!(read(b"0000000002:4a", Framing::Text), expected);
        let framed = b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xff4a";
        assert_eq!(read(framed, Framing::Binary), expected);
        let longer = b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xff4a";
        assert_eq!(
            read(longer, Framing::Binary).1,
            Some(PayloadError::InvalidLength)
        );
    }

    #[test]
    fn no_packet_is_written_as_an_empty_one() {
        assert_eq!(read(b"0:", Framing::Text), (vec![], None));
        assert_eq!(read(b"0:2:4a0:", Framing::Text), (vec![text("4a")], None));
    }

    #[test]
    fn binary_payloads_that_cannot_be_read() {
        for (wrong, expected) in [
            (b"".as_slice(), PayloadError::EmptyPacket),
            (b"\x02\x01\xff4", PayloadError::InvalidLength),
            (b"4a", PayloadError::InvalidLength),
            (b"\x00", PayloadError::InvalidLength),
            (b"\x00\xff", PayloadError::InvalidLength),
            (b"\x00\x01", PayloadError::InvalidLength),
            (b"\x00\x0a\xff4", PayloadError::InvalidLength),
            (b"\x00\x32\xff4a", PayloadError::InvalidLength),
            (b"\x00\x03\xff4a", PayloadError::InvalidLength),
            (b"\x00\x00\xff", PayloadError::EmptyPacket),
            (b"\x01\x00\xff", PayloadError::EmptyPacket),
            (b"\x00\x02\xff4\xff", PayloadError::InvalidUtf8),
            (b"\x01\x02\xff4a", PayloadError::BinaryType),
            (b"\x01\x01\xff\x02", PayloadError::BinaryType),
        ] {
            assert_eq!(
                read(wrong, Framing::Binary),
                (vec![], Some(expected)),
                "{wrong:?}"
            );
        }
        let empty = (vec![Seen::Binary(vec![])], None);
        assert_eq!(read(b"\x01\x01\xff\x04", Framing::Binary), empty);
    }

    #[test]
    fn a_body_has_a_bounded_number_of_packets() {
        for (framing, one) in [
            (Framing::Text, b"1:6".as_slice()),
            (Framing::Text, b"0:"),
            (Framing::Binary, b"\x00\x01\xff6"),
        ] {
            let (_, error) = read(&one.repeat(BODY_PACKETS_MAX), framing);
            assert_eq!(error, None);
            let (seen, error) = read(&one.repeat(BODY_PACKETS_MAX + 1), framing);
            assert_eq!(error, Some(PayloadError::TooManyPackets));
            assert!([0, BODY_PACKETS_MAX].contains(&seen.len()));
        }
    }

    #[test]
    fn an_answer_has_at_most_sixteen_packets() {
        for framing in [Framing::Text, Framing::Binary] {
            for (offered, taken) in [(0, 0), (16, 16), (17, 16)] {
                let frames = vec![Frame::noop(); offered];
                let mut out = Vec::new();
                assert_eq!(write_payload(&mut out, &frames, framing), taken);
                assert_eq!(out.iter().filter(|&&byte| byte == b'6').count(), taken);
            }
        }
    }

    #[test]
    fn a_websocket_carries_the_type_as_a_number() {
        let binary = Frame::binary(&[7, 8]);
        assert_eq!(
            websocket_frame(&binary, true),
            Frame::binary(&[MESSAGE, 7, 8])
        );
        assert_eq!(websocket_frame(&binary, false), Frame::text_from(b"b4Bwg="));
        let text = Frame::text_from(b"42[\"a\"]");
        for supports_binary in [true, false] {
            let same = websocket_frame(&text, supports_binary);
            assert_eq!(same.websocket().as_ptr(), text.websocket().as_ptr());
        }
        assert_eq!(websocket_binary(&[4, 7, 8]), Ok([7, 8].as_slice()));
        assert_eq!(websocket_binary(&[4]), Ok([].as_slice()));
        assert_eq!(websocket_binary(&[]), Err(PayloadError::EmptyPacket));
        assert_eq!(websocket_binary(b"4a"), Err(PayloadError::BinaryType));
    }

    #[test]
    fn only_a_probe_is_repeated() {
        assert_eq!(pong("probe"), Frame::probe_pong());
        for other in ["", "x", "probes"] {
            assert_eq!(pong(other), Frame::pong());
        }
    }

    fn packet() -> impl Strategy<Value = Seen> {
        prop_oneof![
            "4\\PC{0,40}".prop_map(Seen::Text),
            "4[a-é€😀:0-9\u{0}\u{1e}]{0,40}".prop_map(Seen::Text),
            vec(any::<u8>(), 0..60).prop_map(Seen::Binary),
        ]
    }

    proptest! {
        #[test]
        fn payloads_come_back_as_they_were_written(
            expected in vec(packet(), 1..=16),
            supports_binary in any::<bool>(),
        ) {
            let frames: Vec<Frame> = expected.iter().map(frame).collect();
            let framing = Framing::of_frames(&frames, supports_binary);
            let mut out = Vec::new();
            write_payload(&mut out, &frames, framing);
            prop_assert_eq!(read(&out, framing), (expected.clone(), None));
            let mut framed = Vec::new();
            write_payload(&mut framed, &frames, Framing::Binary);
            prop_assert_eq!(read(&framed, Framing::Binary), (expected, None));
        }

        #[test]
        fn lengths_are_those_of_the_standard_library(text in "\\PC{0,60}", cut in 0..70_usize) {
            let units: Vec<u16> = text.encode_utf16().collect();
            let widths: usize = text.bytes().map(utf16_width).sum();
            prop_assert_eq!(widths, units.len());
            let expected = units
                .get(..cut)
                .and_then(|units| String::from_utf16(units).ok())
                .map(|prefix| prefix.len());
            prop_assert_eq!(utf16_prefix(text.as_bytes(), cut), expected);
        }

        #[test]
        fn any_body_is_read_to_its_end(
            body in vec(prop_oneof![any::<u8>(), 0..6_u8, Just(255), b'0'..=b':'], 0..200),
        ) {
            for framing in [Framing::Text, Framing::Binary] {
                let (seen, error) = read(&body, framing);
                prop_assert!(seen.len() * 3 <= body.len());
                prop_assert!(error.is_some() || !body.is_empty());
            }
        }
    }
}
