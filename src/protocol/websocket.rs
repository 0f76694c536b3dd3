//! RFC 6455 frames, the server's side of them: decodes in place what a client sent, writes what it
//! gets.
//!
//! [`Decoder`] is total and keeps no bytes but those of an open fragmented message, so a caller may
//! stop between any two steps. A length is judged when it is declared, before its bytes arrive. No
//! extensions: a reserved bit is a violation. Answering pings, echoing a close and giving up on a
//! message that stays open are the caller's.

use thiserror::Error;

// === Decoder ===

/// Decodes one client's frames. One a connection; 8 bytes unless a fragmented message is open.
#[derive(Debug, Default)]
pub struct Decoder {
    message: Option<Box<Fragments>>,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one step at the start of `input`, the bytes as they came.
    ///
    /// `message_bytes_max` bounds the payload of a message, also when it comes in fragments;
    /// exactly that many bytes are accepted. A frame is unmasked in place once it is whole; until
    /// then `input` is left as it is and has to be handed in again with more bytes behind it. What
    /// an event lends from a fragmented message is freed by the next call.
    ///
    /// # Errors
    /// The first rule that the client broke. The connection is then to be closed with
    /// [`Violation::close_code`].
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Step<'a>, Violation> {
        self.message.take_if(|message| message.finished);
        let [first, second, ..] = *input else {
            return Ok(Step::Incomplete {
                needed: HEAD_BYTES_MIN,
            });
        };
        let (fin, opcode) = (first & FIN != 0, Opcode::from_first(first)?);
        self.admit(fin, opcode, second)?;
        let (payload_start, payload_len) = match payload_range(second, &input[2..])? {
            Ok(range) => range,
            Err(needed) => return Ok(Step::Incomplete { needed }),
        };
        self.admit_len(opcode, payload_len, message_bytes_max)?;
        let consumed = usize::try_from(payload_len)
            .unwrap_or(usize::MAX)
            .saturating_add(payload_start);
        if input.len() < consumed {
            return Ok(Step::Incomplete { needed: consumed });
        }
        let (head, payload) = input[..consumed].split_at_mut(payload_start);
        let mask = *head.last_chunk().expect("a masked head ends in its mask");
        unmask(payload, mask);
        let event = if opcode.is_control() {
            Some(control(opcode, payload)?)
        } else {
            self.data(fin, opcode, payload, message_bytes_max)?
        };
        Ok(Step::Done { consumed, event })
    }

    /// Whether a fragmented message is open: begun and not ended yet.
    pub fn is_mid_message(&self) -> bool {
        self.message
            .as_ref()
            .is_some_and(|message| !message.finished)
    }

    /// What the first two bytes tell.
    fn admit(&self, fin: bool, opcode: Opcode, second: u8) -> Result<(), Violation> {
        if second & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => {
                Err(Violation::ControlFragmented)
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong
                if usize::from(second & !MASKED) > CONTROL_BYTES_MAX =>
            {
                Err(Violation::ControlTooLong)
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => Ok(()),
            Opcode::Continuation => match &self.message {
                None => Err(Violation::UnexpectedContinuation),
                Some(message) if message.count >= FRAGMENTS_MAX => Err(Violation::TooManyFragments),
                Some(_) => Ok(()),
            },
            Opcode::Text | Opcode::Binary if self.message.is_some() => {
                Err(Violation::ExpectedContinuation)
            }
            Opcode::Text | Opcode::Binary => Ok(()),
        }
    }

    /// What the declared length tells. Control frames have their own, smaller bound.
    fn admit_len(
        &self,
        opcode: Opcode,
        len: u64,
        message_bytes_max: usize,
    ) -> Result<(), Violation> {
        let so_far = self
            .message
            .as_ref()
            .map_or(0, |message| message.bytes.len());
        let left = message_bytes_max.saturating_sub(so_far);
        if opcode.is_control() || u64::try_from(left).is_ok_and(|left| len <= left) {
            Ok(())
        } else {
            Err(Violation::TooLarge)
        }
    }

    fn data<'a>(
        &'a mut self,
        fin: bool,
        opcode: Opcode,
        payload: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Event<'a>>, Violation> {
        let is_text = opcode == Opcode::Text;
        if fin && opcode != Opcode::Continuation {
            return whole(is_text, payload).map(Some);
        }
        let message = self
            .message
            .get_or_insert_with(|| Box::new(Fragments::new(is_text)));
        message.append(payload, message_bytes_max)?;
        if !fin {
            return Ok(None);
        }
        message.finish().map(Some)
    }
}

/// What one call of [`Decoder::decode`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// No whole frame yet. `needed`: bytes that the frame at the start takes in all, as far as its
    /// head tells; a hint, made by the client: never reserve it at once.
    Incomplete { needed: usize },
    /// `consumed` bytes of input are done, at least one. No event: a fragment that is not the last.
    Done {
        consumed: usize,
        event: Option<Event<'a>>,
    },
}

/// A message or control frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Text(&'a str),
    Binary(&'a mut [u8]),
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    Pong,
    /// The client's close code, if it gave one.
    Close(Option<u16>),
}

fn whole(is_text: bool, payload: &mut [u8]) -> Result<Event<'_>, Violation> {
    if !is_text {
        return Ok(Event::Binary(payload));
    }
    match simdutf8::basic::from_utf8(payload) {
        Ok(text) => Ok(Event::Text(text)),
        Err(_) => Err(Violation::InvalidUtf8),
    }
}

fn control(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match (opcode, payload) {
        (Opcode::Ping, _) => Ok(Event::Ping(payload)),
        (Opcode::Pong, _) => Ok(Event::Pong),
        (_, []) => Ok(Event::Close(None)),
        (_, [high, low, reason @ ..]) => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_close_with(code) {
                Err(Violation::InvalidCloseCode)
            } else if simdutf8::basic::from_utf8(reason).is_err() {
                Err(Violation::InvalidUtf8)
            } else {
                Ok(Event::Close(Some(code)))
            }
        }
        (_, [_]) => Err(Violation::InvalidCloseCode),
    }
}

/// Codes that may stand in a close frame: those registered for it, and those left to libraries and
/// applications.
fn may_close_with(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Where the payload starts and its declared length; the inner `Err` is the bytes needed to tell.
/// `rest` is what follows the first two bytes.
fn payload_range(second: u8, rest: &[u8]) -> Result<Result<(usize, u64), usize>, Violation> {
    let (extended, len, len_min) = match second & !MASKED {
        126 => (
            2,
            rest.first_chunk()
                .map(|&len| u64::from(u16::from_be_bytes(len))),
            126,
        ),
        127 => (
            8,
            rest.first_chunk().map(|&len| u64::from_be_bytes(len)),
            1 << 16,
        ),
        len => (0, Some(u64::from(len)), 0),
    };
    let payload_start = 2 + extended + MASK_BYTES;
    match len {
        None => Ok(Err(payload_start)),
        Some(len) if len < len_min => Err(Violation::NonMinimalLength),
        Some(len) if len > i64::MAX as u64 => Err(Violation::TooLarge),
        // The length is handed on even before the mask is here: one that is too large needs no mask
        // to be refused.
        Some(len) => Ok(Ok((payload_start, len))),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; MASK_BYTES]) {
    let word = u32::from_ne_bytes(mask);
    let (words, tail) = payload.as_chunks_mut::<MASK_BYTES>();
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

// === Fragments ===

/// A message that comes in fragments, as far as it came.
#[derive(Debug)]
struct Fragments {
    bytes: Vec<u8>,
    /// Bytes at the start that are known to be UTF-8; of text only.
    checked: usize,
    count: usize,
    is_text: bool,
    /// Its last fragment came: the bytes are lent out and go with the next step.
    finished: bool,
}

impl Fragments {
    fn new(is_text: bool) -> Self {
        Self {
            bytes: Vec::new(),
            checked: 0,
            count: 0,
            is_text,
            finished: false,
        }
    }

    fn append(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), Violation> {
        let len = self.bytes.len() + payload.len();
        if len > self.bytes.capacity() {
            // Doubles like a `Vec`, but never beyond the limit.
            let capacity = (self.bytes.capacity() * 2).min(bytes_max).max(len);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(payload);
        self.count += 1;
        if self.is_text { self.check() } else { Ok(()) }
    }

    /// Checks what came since, up to a character that a fragment's end may have cut.
    fn check(&mut self) -> Result<(), Violation> {
        match simdutf8::compat::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Event<'_>, Violation> {
        self.finished = true;
        // Text is looked at once more, as a whole: a proof in pieces is none to the compiler.
        whole(self.is_text, &mut self.bytes)
    }
}

// === Violation ===

/// A rule of the protocol, or a limit of ours, that a client broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("a frame from a client is not masked")]
    Unmasked,
    #[error("a reserved bit is set")]
    ReservedBits,
    #[error("unknown opcode")]
    UnknownOpcode,
    #[error("a control frame of more than 125 bytes")]
    ControlTooLong,
    #[error("a control frame in fragments")]
    ControlFragmented,
    #[error("text is not UTF-8")]
    InvalidUtf8,
    #[error("a close frame has a code that must not be sent")]
    InvalidCloseCode,
    #[error("a continuation without a message to continue")]
    UnexpectedContinuation,
    #[error("a new message inside a fragmented one")]
    ExpectedContinuation,
    #[error("the message is too large")]
    TooLarge,
    #[error("the message has too many fragments")]
    TooManyFragments,
    #[error("a length takes more bytes than it needs")]
    NonMinimalLength,
}

impl Violation {
    /// The code to close the connection with.
    pub fn close_code(self) -> u16 {
        match self {
            Self::InvalidUtf8 => 1007,
            Self::TooLarge | Self::TooManyFragments => 1009,
            Self::Unmasked
            | Self::ReservedBits
            | Self::UnknownOpcode
            | Self::ControlTooLong
            | Self::ControlFragmented
            | Self::InvalidCloseCode
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::NonMinimalLength => 1002,
        }
    }
}

// === Frames of ours ===

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    fn from_first(first: u8) -> Result<Self, Violation> {
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        match first & 0x0F {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(Violation::UnknownOpcode),
        }
    }

    fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// The head of an unmasked, final frame and how many of the bytes it takes: 2, 4 or 10.
pub fn head(opcode: Opcode, payload_len: usize) -> ([u8; HEAD_BYTES_MAX], usize) {
    let mut head = [0; HEAD_BYTES_MAX];
    head[0] = FIN | opcode as u8;
    match payload_len {
        0..=125 => {
            head[1] = payload_len as u8;
            (head, 2)
        }
        126..=0xFFFF => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            (head, 4)
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
            (head, 10)
        }
    }
}

/// Appends a whole frame: head and payload.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let (head, head_len) = head(opcode, payload.len());
    out.reserve(head_len + payload.len());
    out.extend_from_slice(&head[..head_len]);
    out.extend_from_slice(payload);
}

/// A whole close frame with that code and no reason.
pub fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FIN | Opcode::Close as u8, 2, high, low]
}

/// Longest head of a frame of ours, in bytes.
pub const HEAD_BYTES_MAX: usize = 10;

/// Fragments that one message may come in.
pub const FRAGMENTS_MAX: usize = 1024;

const CONTROL_BYTES_MAX: usize = 125;
const MASK_BYTES: usize = 4;
/// Shortest head of a client's frame.
const HEAD_BYTES_MIN: usize = 2 + MASK_BYTES;
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

    /// A client's frame. `first` is the whole first byte.
    fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let (head, head_len) = head(Opcode::Text, payload.len());
        let mut frame = head[..head_len].to_vec();
        frame[0] = first;
        frame[1] |= MASKED;
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        client_frame(first, payload, [0x11, 0xA2, 0x33, 0xC4])
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong,
        Close(Option<u16>),
    }

    fn seen(event: Event<'_>) -> Seen {
        match event {
            Event::Text(text) => Seen::Text(text.to_owned()),
            Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Event::Pong => Seen::Pong,
            Event::Close(code) => Seen::Close(code),
        }
    }

    /// Feeds `chunks` as a connection would, and returns what came out of them.
    fn run<'c>(
        chunks: impl IntoIterator<Item = &'c [u8]>,
        max: usize,
    ) -> (Vec<Seen>, Result<Decoder, Violation>) {
        let (mut decoder, mut input, mut out) = (Decoder::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                let before = input.clone();
                match decoder.decode(&mut input, max) {
                    Err(violation) => return (out, Err(violation)),
                    Ok(Step::Incomplete { needed }) => {
                        assert!(needed > before.len());
                        assert_eq!(input, before, "an unfinished frame is left as it is");
                        break;
                    }
                    Ok(Step::Done { consumed, event }) => {
                        assert!((1..=before.len()).contains(&consumed));
                        out.extend(event.map(seen));
                        input.drain(..consumed);
                    }
                }
            }
        }
        (out, Ok(decoder))
    }

    fn decoded(bytes: &[u8]) -> Vec<Seen> {
        let (seen, end) = run([bytes], MAX);
        assert!(!end.unwrap().is_mid_message());
        seen
    }

    fn violation(bytes: &[u8]) -> Violation {
        run([bytes], MAX).1.unwrap_err()
    }

    fn text(text: &str) -> Seen {
        Seen::Text(text.into())
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<Decoder>() <= 32);
    }

    #[test]
    fn frames_in_one_buffer_come_in_order() {
        let mut bytes = masked(0x81, "grüße".as_bytes());
        bytes.extend(masked(0x82, b"\x00\xFF"));
        bytes.extend(masked(0x89, b"hi"));
        bytes.extend(masked(0x8A, b""));
        bytes.extend(masked(0x88, b""));
        let expected = [
            text("grüße"),
            Seen::Binary(vec![0, 255]),
            Seen::Ping(b"hi".to_vec()),
            Seen::Pong,
            Seen::Close(None),
        ];
        assert_eq!(decoded(&bytes), expected);
    }

    #[test]
    fn heads_are_minimal() {
        for (len, head_len) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(head(Opcode::Text, len).1, head_len);
            let payload = vec![b'x'; len];
            let mut frame = Vec::new();
            write_frame(&mut frame, Opcode::Binary, &payload);
            assert_eq!(frame.len(), head_len + len);
            let (seen, _) = run([masked(0x82, &payload).as_slice()], len);
            assert_eq!(seen, [Seen::Binary(payload)]);
        }
        assert_eq!(close_frame(1009), [0x88, 2, 0x03, 0xF1]);
    }

    #[test]
    fn rules_of_the_head() {
        assert_eq!(violation(&[0x81, 0x01]), Violation::Unmasked);
        for reserved in [0x40, 0x20, 0x10] {
            assert_eq!(
                violation(&masked(0x81 | reserved, b"")),
                Violation::ReservedBits
            );
        }
        for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
            assert_eq!(
                violation(&masked(0x80 | opcode, b"")),
                Violation::UnknownOpcode
            );
        }
        for control in [8, 9, 0xA] {
            assert_eq!(
                violation(&masked(control, b"")),
                Violation::ControlFragmented
            );
            assert_eq!(
                violation(&masked(0x80 | control, &[0; 126])),
                Violation::ControlTooLong
            );
        }
        assert_eq!(
            decoded(&masked(0x89, &[7; 125])),
            [Seen::Ping(vec![7; 125])]
        );
    }

    #[test]
    fn lengths_are_minimal_and_63_bits() {
        assert_eq!(
            violation(&[0x81, 0xFE, 0, 125]),
            Violation::NonMinimalLength
        );
        let mut long = vec![0x81, 0xFF];
        long.extend_from_slice(&65_535u64.to_be_bytes());
        assert_eq!(violation(&long), Violation::NonMinimalLength);
        let huge = [0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0];
        let end = run([huge.as_slice()], usize::MAX).1;
        assert_eq!(end.unwrap_err(), Violation::TooLarge);
        let (seen, end) = run(
            [[0x81, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255].as_slice()],
            usize::MAX,
        );
        assert!(seen.is_empty() && end.is_ok());
    }

    #[test]
    fn a_message_may_be_exactly_the_limit() {
        assert_eq!(
            decoded(&masked(0x81, &[b'a'; MAX])),
            [text(&"a".repeat(MAX))]
        );
        // The length alone decides: neither mask nor payload is there yet.
        assert_eq!(
            violation(&masked(0x81, &[b'a'; MAX + 1])[..4]),
            Violation::TooLarge
        );
    }

    #[test]
    fn the_sum_of_fragments_may_be_exactly_the_limit() {
        let mut bytes = masked(0x02, &[1; MAX - 1]);
        bytes.extend(masked(0x80, &[1; 1]));
        assert_eq!(decoded(&bytes), [Seen::Binary(vec![1; MAX])]);
        let mut bytes = masked(0x02, &[1; MAX - 1]);
        bytes.extend(&masked(0x80, &[1; 2])[..2]);
        assert_eq!(violation(&bytes), Violation::TooLarge);
        // The next message starts from nothing.
        let mut bytes = masked(0x02, &[1; MAX]);
        bytes.extend(masked(0x80, b""));
        bytes.extend(masked(0x82, &[2; MAX]));
        assert_eq!(decoded(&bytes).len(), 2);
    }

    #[test]
    fn control_frames_are_not_bound_by_the_message_limit() {
        let (seen, _) = run([masked(0x89, &[1; 125]).as_slice()], 10);
        assert_eq!(seen, [Seen::Ping(vec![1; 125])]);
    }

    #[test]
    fn a_message_has_at_most_1024_fragments() {
        let fragments = |count: usize| {
            let mut bytes = masked(0x01, b"a");
            for _ in 2..count {
                bytes.extend(masked(0x00, b""));
            }
            bytes.extend(masked(0x80, b"z"));
            bytes
        };
        assert_eq!(decoded(&fragments(FRAGMENTS_MAX)), [text("az")]);
        assert_eq!(
            violation(&fragments(FRAGMENTS_MAX + 1)),
            Violation::TooManyFragments
        );
    }

    #[test]
    fn fragments_keep_their_order_among_themselves() {
        assert_eq!(
            violation(&masked(0x80, b"a")),
            Violation::UnexpectedContinuation
        );
        assert_eq!(
            violation(&masked(0x00, b"a")),
            Violation::UnexpectedContinuation
        );
        for second in [0x81, 0x01, 0x82, 0x02] {
            let mut bytes = masked(0x01, b"a");
            bytes.extend(masked(second, b"b"));
            assert_eq!(violation(&bytes), Violation::ExpectedContinuation);
        }
        // Once a message has ended, its continuation is no longer open.
        let mut bytes = masked(0x01, b"a");
        bytes.extend(masked(0x80, b"b"));
        bytes.extend(masked(0x80, b"c"));
        let (seen, end) = run([bytes.as_slice()], MAX);
        assert_eq!(
            (seen, end.unwrap_err()),
            (vec![text("ab")], Violation::UnexpectedContinuation)
        );
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let mut bytes = masked(0x01, b"a");
        bytes.extend(masked(0x89, b"p"));
        bytes.extend(masked(0x00, b"b"));
        bytes.extend(masked(0x8A, b""));
        let (seen, decoder) = run([bytes.as_slice()], MAX);
        assert_eq!(seen, [Seen::Ping(b"p".to_vec()), Seen::Pong]);
        assert!(decoder.unwrap().is_mid_message());
        bytes.extend(masked(0x80, b"c"));
        assert_eq!(decoded(&bytes)[2], text("abc"));
    }

    #[test]
    fn text_is_utf8_also_across_fragments() {
        assert_eq!(violation(&masked(0x81, b"\xFF")), Violation::InvalidUtf8);
        assert_eq!(
            violation(&masked(0x81, b"\xED\xA0\x80")),
            Violation::InvalidUtf8
        );
        let emoji = "😀".as_bytes();
        for cut in 0..=emoji.len() {
            let mut bytes = masked(0x01, &emoji[..cut]);
            bytes.extend(masked(0x80, &emoji[cut..]));
            assert_eq!(decoded(&bytes), [text("😀")]);
        }
        // Cut off at the end, and refused as soon as it cannot become text any more.
        let mut bytes = masked(0x01, &emoji[..2]);
        bytes.extend(masked(0x80, b""));
        assert_eq!(violation(&bytes), Violation::InvalidUtf8);
        let mut bytes = masked(0x01, &emoji[..2]);
        bytes.extend(masked(0x00, b"a"));
        assert_eq!(violation(&bytes), Violation::InvalidUtf8);
        // Binary may be anything.
        assert_eq!(decoded(&masked(0x82, b"\xFF")), [Seen::Binary(vec![0xFF])]);
    }

    #[test]
    fn close_frames_are_checked() {
        let close =
            |code: u16, reason: &[u8]| masked(0x88, &[&code.to_be_bytes(), reason].concat());
        for code in [1000, 1003, 1007, 1011, 1014, 3000, 4999] {
            assert_eq!(decoded(&close(code, b"bye")), [Seen::Close(Some(code))]);
        }
        for code in [
            0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65_535,
        ] {
            assert_eq!(violation(&close(code, b"")), Violation::InvalidCloseCode);
        }
        assert_eq!(
            violation(&masked(0x88, b"\x03")),
            Violation::InvalidCloseCode
        );
        assert_eq!(violation(&close(1000, b"\xC3")), Violation::InvalidUtf8);
    }

    #[test]
    fn violations_have_close_codes() {
        assert_eq!(Violation::InvalidUtf8.close_code(), 1007);
        assert_eq!(Violation::TooLarge.close_code(), 1009);
        assert_eq!(Violation::TooManyFragments.close_code(), 1009);
        assert_eq!(Violation::Unmasked.close_code(), 1002);
    }

    #[test]
    fn a_declared_length_reserves_nothing() {
        let mut decoder = Decoder::new();
        let mut input = masked(0x02, &[1; 4]);
        assert!(decoder.decode(&mut input, usize::MAX).is_ok());
        let message = decoder.message.as_ref().unwrap();
        assert!(message.bytes.capacity() < 100);
    }

    fn message() -> impl Strategy<Value = Seen> {
        prop_oneof![
            "\\PC{0,80}".prop_map(Seen::Text),
            vec(any::<u8>(), 0..300).prop_map(Seen::Binary),
        ]
    }

    /// A message as frames, cut at `cuts`, with a ping after every fragment but the last.
    fn encoded(
        message: &Seen,
        cuts: &[prop::sample::Index],
        mask: [u8; 4],
    ) -> (Vec<u8>, Vec<Seen>) {
        let (opcode, payload) = match message {
            Seen::Text(text) => (0x1, text.as_bytes()),
            Seen::Binary(bytes) => (0x2, bytes.as_slice()),
            other => panic!("no data message: {other:?}"),
        };
        let mut ends: Vec<usize> = cuts
            .iter()
            .map(|cut| cut.index(payload.len() + 1))
            .collect();
        ends.push(payload.len());
        ends.sort_unstable();
        let (mut bytes, mut expected, mut start) = (Vec::new(), Vec::new(), 0);
        for (n, &end) in ends.iter().enumerate() {
            let is_last = n + 1 == ends.len();
            let opcode = if n == 0 { opcode } else { 0 };
            let fin = if is_last { FIN } else { 0 };
            bytes.extend(client_frame(opcode | fin, &payload[start..end], mask));
            if !is_last {
                bytes.extend(client_frame(0x89, &[n as u8], mask));
                expected.push(Seen::Ping(vec![n as u8]));
            }
            start = end;
        }
        expected.push(message.clone());
        (bytes, expected)
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_however_it_is_cut(
            messages in vec(
                (message(), vec(any::<prop::sample::Index>(), 0..4), any::<[u8; 4]>()),
                1..6,
            ),
            chunk_len in 1..400usize,
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (message, cuts, mask) in &messages {
                let (frames, events) = encoded(message, cuts, *mask);
                bytes.extend(frames);
                expected.extend(events);
            }
            let (seen, end) = run(bytes.chunks(chunk_len), MAX);
            prop_assert_eq!(seen, expected);
            prop_assert!(!end.unwrap().is_mid_message());
        }

        #[test]
        fn any_bytes_end_in_an_event_or_a_violation(
            bytes in vec(prop_oneof![any::<u8>(), Just(0x81), Just(0x80), Just(0x01)], 0..200),
            chunk_len in 1..50usize,
        ) {
            let whole = run([bytes.as_slice()], 64);
            let cut = run(bytes.chunks(chunk_len), 64);
            prop_assert_eq!(whole.0, cut.0);
            prop_assert_eq!(whole.1.err(), cut.1.err());
        }

        #[test]
        fn our_frames_say_what_they_carry(payload in vec(any::<u8>(), 0..70_000)) {
            let mut frame = Vec::new();
            write_frame(&mut frame, Opcode::Text, &payload);
            let (head, head_len) = head(Opcode::Text, payload.len());
            prop_assert_eq!(&frame[..head_len], &head[..head_len]);
            prop_assert_eq!(&frame[head_len..], &payload);
        }
    }
}
