//! What an Engine.IO packet of a client means, in either revision.

use super::engineio::{self, Revision};
use super::engineio_v3;

/// A packet of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    Message(&'a str),
    /// A binary message that came as text.
    Binary(Vec<u8>),
    /// To be answered with a pong; what came with it.
    Ping(&'a str),
    Pong,
    Close,
    Noop,
}

/// The packet breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a packet that a client may send")]
pub struct Unexpected;

/// Reads a text packet, its type in front.
///
/// # Errors
/// An empty packet, an unknown type, bad base64, or a type that only servers send in this revision. The session is then
/// to be closed.
pub fn incoming(packet: &str, revision: Revision) -> Result<Incoming<'_>, Unexpected> {
    let (kind, rest) = packet.split_at_checked(1).ok_or(Unexpected)?;
    Ok(match (kind, revision) {
        ("4", _) => Incoming::Message(rest),
        ("b", revision) => Incoming::Binary(binary(rest, revision)?),
        ("3", _) => Incoming::Pong,
        ("2", Revision::V3) => Incoming::Ping(rest),
        ("1", _) => Incoming::Close,
        ("6", _) => Incoming::Noop,
        _ => return Err(Unexpected),
    })
}

fn binary(text: &str, revision: Revision) -> Result<Vec<u8>, Unexpected> {
    let decoded = match revision {
        Revision::V3 => engineio_v3::decode_binary(text.as_bytes()),
        Revision::V4 => engineio::decode_binary(text.as_bytes()),
    };
    decoded.map_err(|_| Unexpected)
}

#[cfg(test)]
mod tests {
    use super::Revision::{V3, V4};
    use super::*;

    #[test]
    fn packets_of_both_revisions() {
        for revision in [V3, V4] {
            assert_eq!(incoming("42[]", revision), Ok(Incoming::Message("2[]")));
            assert_eq!(incoming("4", revision), Ok(Incoming::Message("")));
            assert_eq!(incoming("1", revision), Ok(Incoming::Close));
            assert_eq!(incoming("3", revision), Ok(Incoming::Pong));
            assert_eq!(incoming("6", revision), Ok(Incoming::Noop));
            for packet in ["", "0", "5", "7", "x", "é", "b!", "b"] {
                let expected = match (packet, revision) {
                    ("b", V4) => Ok(Incoming::Binary(vec![])),
                    _ => Err(Unexpected),
                };
                assert_eq!(incoming(packet, revision), expected, "{packet}");
            }
        }
    }

    #[test]
    fn only_clients_of_revision_3_ping() {
        assert_eq!(incoming("2", V3), Ok(Incoming::Ping("")));
        assert_eq!(incoming("2x", V3), Ok(Incoming::Ping("x")));
        assert_eq!(incoming("2", V4), Err(Unexpected));
    }

    #[test]
    fn base64_carries_its_type_in_revision_3_only() {
        assert_eq!(incoming("bYg==", V4), Ok(Incoming::Binary(b"b".to_vec())));
        assert_eq!(incoming("b4Yg==", V3), Ok(Incoming::Binary(b"b".to_vec())));
        assert_eq!(incoming("bYg==", V3), Err(Unexpected));
    }
}
