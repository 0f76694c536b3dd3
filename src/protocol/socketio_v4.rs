//! Socket.IO revision 4, over Engine.IO revision 3, where it differs from revision 5.
//!
//! Packets are read by [`super::socketio::parse`], and events and acks written by its functions: they
//! are the same, attachments included. Different are how a namespace is joined and refused, and what
//! a socket is called. Which packet may come when is not known here: the server joins `/` unasked,
//! and a CONNECT for it is an error.

use super::engineio::Sid;
use super::socketio::{Kind, write_start};
use crate::json;

/// Appends the message that tells a client it is in a namespace; for `/`, unasked. It has no data,
/// and the namespace has no query.
pub fn write_connect(out: &mut Vec<u8>, namespace: &str) {
    write_start(out, Kind::Connect, None, namespace);
}

/// Appends the message that refuses a namespace: `data`, raw JSON, or else the message as a string.
pub fn write_error(out: &mut Vec<u8>, namespace: &str, message: &str, data: Option<&str>) {
    write_start(out, Kind::ConnectError, None, namespace);
    match data {
        Some(data) => out.extend_from_slice(data.as_bytes()),
        None => json::push_string(out, message),
    }
}

/// What a socket is called. Clients make the name up themselves, from the session's id, so here it
/// tells the session's secret: it must not be shown to others.
pub fn socket_id(namespace: &str, sid: Sid) -> String {
    match namespace {
        "/" => sid.to_string(),
        _ => format!("{namespace}#{sid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::engineio::SID_BYTES;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_namespace_is_joined_without_data() {
        assert_eq!(written(|out| write_connect(out, "/")), "40");
        assert_eq!(written(|out| write_connect(out, "/ns")), "40/ns,");
    }

    #[test]
    fn a_refusal_is_its_data_or_a_string() {
        assert_eq!(
            written(|out| write_error(out, "/ns", "Invalid namespace", None)),
            r#"44/ns,"Invalid namespace""#
        );
        assert_eq!(
            written(|out| write_error(out, "/", "no", Some(r#"{"a":1}"#))),
            r#"44{"a":1}"#
        );
        assert_eq!(
            written(|out| write_error(out, "/", "\"\n", None)),
            r#"44"\"\n""#
        );
    }

    #[test]
    fn a_socket_is_called_after_the_session() {
        let sid = Sid::new([0; SID_BYTES]);
        assert_eq!(socket_id("/", sid), "AAAAAAAAAAAAAAAAAAAA");
        assert_eq!(socket_id("/ns", sid), "/ns#AAAAAAAAAAAAAAAAAAAA");
    }
}
