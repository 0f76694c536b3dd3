//! Socket.IO packets in MessagePack, as clients with socket.io-msgpack-parser write them: the whole
//! packet in one binary message, binary arguments where they belong.
//!
//! Both ways lead over the form that [`super::socketio`] has: JSON with placeholders, and the
//! attachments beside it, so that whoever handles packets need not know how they came. Neither way
//! recurses. Depth, attachments and bytes are bounded.

pub mod read;
pub mod write;

use rmp::Marker;
use thiserror::Error;

use super::socketio::ParseError;

/// Whether a client whose first message is this one, and binary, speaks MessagePack: it starts with
/// a map. Clients with the JSON parser start with text.
pub fn is_packet(message: &[u8]) -> bool {
    let marker = message.first().copied().map(Marker::from_u8);
    matches!(
        marker,
        Some(Marker::FixMap(_) | Marker::Map16 | Marker::Map32)
    )
}

/// Why a packet cannot be read, or cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MsgpackError {
    #[error("it ends too early")]
    Truncated,
    #[error("something stands behind the packet")]
    Trailing,
    #[error("a value that JSON cannot have")]
    Unsupported,
    #[error("a string is not UTF-8")]
    InvalidUtf8,
    #[error("it is no packet")]
    Shape,
    #[error("nested too deeply")]
    TooDeep,
    #[error("too many bytes")]
    TooLarge,
    #[error("more attachments than allowed, or other ones than announced")]
    Attachments,
    /// About its JSON form.
    #[error(transparent)]
    Packet(#[from] ParseError),
}

/// Arrays and maps inside one another, as deep as serde_json follows.
pub const DEPTH_MAX: usize = 127;
