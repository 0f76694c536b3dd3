//! The chat's events on the wire: what a client's event asks for, and the frames the server answers with.

use std::io::Write;

use super::frame::Frame;
use super::recovery::Offset;
use super::socketio::{self, Payload};
use crate::chat::message::Message;
use crate::chat::rejection::Rejection;
use crate::json::{self, Member, NotJson, Raw, Value};

// === ClientEvent ===

/// An event as a client may send it, with its first argument.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    JoinRoom(Value<'a>),
    ChatMessage(Value<'a>),
    Typing(Value<'a>),
    StopTyping(Value<'a>),
    /// Any other name: ignored.
    Other,
}

impl<'a> ClientEvent<'a> {
    pub fn new(name: &str, argument: Value<'a>) -> Self {
        match name {
            "joinRoom" => Self::JoinRoom(argument),
            "chatMessage" => Self::ChatMessage(argument),
            "typing" => Self::Typing(argument),
            "stopTyping" => Self::StopTyping(argument),
            _ => Self::Other,
        }
    }
}

// === Typing ===

/// The three fields of a typing indicator, as they came. Of a field that comes twice the last one counts.
#[derive(Debug, Default)]
pub struct Typing<'a> {
    pub sender_id: Option<Raw<'a>>,
    pub receiver_id: Option<Raw<'a>>,
    pub conversation_id: Option<Raw<'a>>,
}

impl<'a> Typing<'a> {
    /// Reads the argument of a typing event; other fields are ignored.
    pub fn read(json: Value<'a>) -> Result<Self, NotJson> {
        let mut typing = Self::default();
        json.members(|Member { name, value }| {
            let name = name.decode().ok_or(NotJson)?;
            let field = match &*name {
                "sender_id" => &mut typing.sender_id,
                "receiver_id" => &mut typing.receiver_id,
                "conversation_id" => &mut typing.conversation_id,
                _ => return Ok(()),
            };
            *field = Some(value);
            Ok(())
        })?;
        Ok(typing)
    }
}

// === frames ===

/// `newMessage(message)` to a receiver.
pub fn new_message(message: &Message) -> Frame {
    message_event(b"42[\"newMessage\",", message)
}

/// `newMessage(message, offset)`: with the place behind it, for clients that come back after their connection broke.
pub fn new_message_at(message: &Message, offset: &Offset) -> Frame {
    Frame::text(64 + message.size() + 12 * offset.next.len(), |out| {
        out.extend_from_slice(b"42[\"newMessage\",");
        message.write(out);
        let written = write!(out, ",\"{offset}\"]");
        debug_assert!(written.is_ok(), "a Vec takes what it is given");
    })
}

/// `messageSent(message)` to the sender: the log has it.
pub fn message_sent(message: &Message) -> Frame {
    message_event(b"42[\"messageSent\",", message)
}

fn message_event(head: &[u8], message: &Message) -> Frame {
    Frame::text(head.len() + message.size() + 1, |out| {
        out.extend_from_slice(head);
        message.write(out);
        out.push(b']');
    })
}

/// The acknowledgement of a `chatMessage`: `{status:"ok", message}`.
pub fn ack_message(ack: &str, message: &Message) -> Frame {
    Frame::text(message.size() + ack.len() + 40, |out| {
        out.extend_from_slice(b"43");
        out.extend_from_slice(ack.as_bytes());
        out.extend_from_slice(b"[{\"status\":\"ok\",\"message\":");
        message.write(out);
        out.extend_from_slice(b"}]");
    })
}

/// The acknowledgement `{status:"ok"}`.
pub fn ack_ok(ack: &str) -> Frame {
    Frame::text(24 + ack.len(), |out| {
        let payload = Payload::from(&[r#"{"status":"ok"}"#]);
        socketio::write_ack(out, "/", ack, payload);
    })
}

/// `messageError({code, error, retryable, client_message_id?})`.
pub fn message_error(rejection: &Rejection, client_message_id: Option<&str>) -> Frame {
    Frame::text(160, |out| {
        out.extend_from_slice(b"42[\"messageError\",");
        rejection.write(out, client_message_id);
        out.push(b']');
    })
}

/// The acknowledgement of what was refused: the `messageError` object and `status:"error"`.
pub fn ack_error(ack: &str, rejection: &Rejection, client_message_id: Option<&str>) -> Frame {
    Frame::text(192, |out| {
        out.extend_from_slice(b"43");
        out.extend_from_slice(ack.as_bytes());
        out.extend_from_slice(b"[{\"status\":\"error\",");
        let object = out.len();
        rejection.write(out, client_message_id);
        out.remove(object); // its opening brace: the object above goes on
        out.push(b']');
    })
}

/// `typing` or `stopTyping` to a receiver.
pub fn typing(is_typing: bool, sender: &str, receiver: &str, conversation: &str) -> Frame {
    let head: &[u8] = if is_typing {
        b"42[\"typing\",{\"sender_id\":"
    } else {
        b"42[\"stopTyping\",{\"sender_id\":"
    };
    let bytes = 80 + sender.len() + receiver.len() + conversation.len();
    Frame::text(bytes, |out| {
        out.extend_from_slice(head);
        json::push_string(out, sender);
        out.extend_from_slice(b",\"receiver_id\":");
        json::push_string(out, receiver);
        out.extend_from_slice(b",\"conversation_id\":");
        json::push_string(out, conversation);
        out.extend_from_slice(b"}]");
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::id::{ConversationId, MessageId, Seq};

    fn text(frame: &Frame) -> &str {
        std::str::from_utf8(frame.packet()).unwrap()
    }

    #[test]
    fn events_are_known_by_name() {
        let one = Value::from("1");
        let event = |name| ClientEvent::new(name, one);
        assert_eq!(event("joinRoom"), ClientEvent::JoinRoom(one));
        assert_eq!(event("chatMessage"), ClientEvent::ChatMessage(one));
        assert_eq!(event("typing"), ClientEvent::Typing(one));
        assert_eq!(event("stopTyping"), ClientEvent::StopTyping(one));
        assert_eq!(event("newMessage"), ClientEvent::Other);
    }

    #[test]
    fn frames_are_socket_io_events_and_acks() {
        let message = Message {
            id: MessageId([7; 12]),
            conversation: ConversationId::new(Bytes::from_static(b"c")).unwrap(),
            seq: Seq(3),
            is_spam: false,
            body: Bytes::from_static(b"{\"_id\":\"x\""),
        };
        let json = r#"{"_id":"x","is_spam":false,"seq":3}"#;
        assert_eq!(
            text(&new_message(&message)),
            format!("42[\"newMessage\",{json}]")
        );
        assert_eq!(
            text(&message_sent(&message)),
            format!("42[\"messageSent\",{json}]")
        );
        assert_eq!(
            text(&ack_message("12", &message)),
            format!("4312[{{\"status\":\"ok\",\"message\":{json}}}]")
        );
        let offset = Offset::parse("1-1-4").unwrap();
        assert_eq!(
            text(&new_message_at(&message, &offset)),
            format!("42[\"newMessage\",{json},\"1-1-4\"]")
        );
        assert_eq!(text(&ack_ok("0")), r#"430[{"status":"ok"}]"#);
        let error = r#""code":"forbidden","error":"not allowed","retryable":false,"client_message_id":"c"}"#;
        assert_eq!(
            text(&message_error(&Rejection::Forbidden, Some("c"))),
            format!("42[\"messageError\",{{{error}]")
        );
        assert_eq!(
            text(&ack_error("1", &Rejection::Forbidden, Some("c"))),
            format!("431[{{\"status\":\"error\",{error}]")
        );
        assert_eq!(
            text(&typing(true, "a", "b", "c")),
            r#"42["typing",{"sender_id":"a","receiver_id":"b","conversation_id":"c"}]"#
        );
    }
}
