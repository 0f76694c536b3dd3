//! An outgoing Engine.IO packet, encoded once for all who get it: WebSocket head and packet in one
//! piece of memory.
//!
//! Frames from a server are not masked, so the same bytes go to every WebSocket, and without the
//! head to every polling client. Nothing is encoded per recipient; a clone shares the bytes.

use std::cell::Cell;
use std::sync::Arc;

use super::websocket::{self, HEAD_BYTES_MAX, Opcode};

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A thread's buffer that a large packet has made larger than this is given back.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// A packet ready to be sent on either transport. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Head and packet: one allocation, its count of references in front.
    bytes: Arc<[u8]>,
    head_len: u8,
    is_binary: bool,
}

impl Frame {
    /// A text packet. `write` appends it, valid UTF-8 with its Engine.IO type in front, to a buffer
    /// that has room for `capacity` more bytes and already holds the head's room: it only ever
    /// appends.
    pub fn text(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::encode(Opcode::Text, capacity, write)
    }

    /// A text packet that is there already.
    pub fn text_from(packet: &[u8]) -> Self {
        Self::text(packet.len(), |out| out.extend_from_slice(packet))
    }

    /// A binary message (an attachment), raw.
    pub fn binary(payload: &[u8]) -> Self {
        Self::encode(Opcode::Binary, payload.len(), |out| {
            out.extend_from_slice(payload)
        })
    }

    /// The packet `2`: the server's heartbeat.
    pub fn ping() -> Self {
        Self::fixed(b"\x81\x012")
    }

    /// The packet `3`.
    pub fn pong() -> Self {
        Self::fixed(b"\x81\x013")
    }

    /// The packet `3probe`: the answer to an upgrade's probe.
    pub fn probe_pong() -> Self {
        Self::fixed(b"\x81\x063probe")
    }

    /// The packet `6`: releases a held poll.
    pub fn noop() -> Self {
        Self::fixed(b"\x81\x016")
    }

    /// The packet `1`.
    pub fn close() -> Self {
        Self::fixed(b"\x81\x011")
    }

    pub fn is_binary(&self) -> bool {
        self.is_binary
    }

    /// What goes on a WebSocket: head and packet.
    pub fn websocket(&self) -> &[u8] {
        &self.bytes
    }

    /// The packet without the head; of a binary message, its raw bytes.
    pub fn packet(&self) -> &[u8] {
        &self.bytes[usize::from(self.head_len)..]
    }

    /// Bytes of head and packet: what limits on queued bytes count. Never 0.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a frame has a head, so it is never empty"
    )]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Written into a buffer of the thread and copied from there, so that a frame is one allocation of just its size.
    /// The head's length is known only after the packet's: room for the longest one is left in front.
    fn encode(opcode: Opcode, capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buffer = BUFFER.take();
        buffer.clear();
        buffer.reserve(HEAD_BYTES_MAX + capacity);
        buffer.resize(HEAD_BYTES_MAX, 0);
        write(&mut buffer);
        assert!(
            buffer.len() >= HEAD_BYTES_MAX,
            "a packet's writer only appends"
        );
        let (head, head_len) = websocket::head(opcode, buffer.len() - HEAD_BYTES_MAX);
        let start = HEAD_BYTES_MAX - head_len;
        buffer[start..HEAD_BYTES_MAX].copy_from_slice(&head[..head_len]);
        let bytes = Arc::from(&buffer[start..]);
        if buffer.capacity() <= BUFFER_BYTES_MAX {
            BUFFER.set(buffer);
        }
        Self {
            bytes,
            head_len: head_len as u8,
            is_binary: opcode == Opcode::Binary,
        }
    }

    /// A short text packet with its head, as it stands in the program.
    fn fixed(bytes: &'static [u8]) -> Self {
        Self {
            bytes: Arc::from(bytes),
            head_len: 2,
            is_binary: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_small_and_shares_its_bytes() {
        assert!(size_of::<Frame>() <= 24);
        let frame = Frame::text_from(b"42[\"a\"]");
        assert_eq!(
            frame.clone().websocket().as_ptr(),
            frame.websocket().as_ptr()
        );
    }

    #[test]
    fn the_head_stands_right_before_the_packet() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let packet = vec![b'x'; len];
            for (frame, opcode) in [
                (Frame::text_from(&packet), Opcode::Text),
                (Frame::binary(&packet), Opcode::Binary),
            ] {
                let mut expected = Vec::new();
                websocket::write_frame(&mut expected, opcode, &packet);
                assert_eq!(frame.websocket(), expected);
                assert_eq!(frame.packet(), packet);
                assert_eq!(frame.len(), expected.len());
                assert_eq!(frame.is_binary(), opcode == Opcode::Binary);
            }
        }
    }

    #[test]
    fn the_expected_capacity_is_only_a_hint() {
        let frame = Frame::text(1, |out| out.extend_from_slice(&[b'y'; 300]));
        assert_eq!(frame.packet(), [b'y'; 300]);
    }

    #[test]
    fn a_frame_may_be_made_while_another_is() {
        let mut inner = None;
        let outer = Frame::text(1, |out| {
            out.push(b'a');
            inner = Some(Frame::text_from(b"inner"));
            out.push(b'b');
        });
        assert_eq!(outer.packet(), b"ab");
        assert_eq!(inner.unwrap().packet(), b"inner");
    }

    #[test]
    fn fixed_frames_are_what_encoding_gives() {
        for (fixed, packet) in [
            (Frame::ping(), "2"),
            (Frame::pong(), "3"),
            (Frame::probe_pong(), "3probe"),
            (Frame::noop(), "6"),
            (Frame::close(), "1"),
        ] {
            assert_eq!(fixed, Frame::text_from(packet.as_bytes()));
            assert_eq!(fixed.packet(), packet.as_bytes());
        }
    }
}
