//! The JSON array of a client's event. A file that is no array is taken as the argument of a `chatMessage`.
//!
//! What becomes a draft is sealed as JSON that says what the client said, can be read back from the log, and is the
//! same draft when it is sent again; what is refused is refused in readable words.

use std::borrow::Cow;
use std::collections::HashMap;

use chat_svc::chat::draft::{self, Draft, Refused};
use chat_svc::chat::id::{ID_BYTES_MAX, MessageId, Seq};
use chat_svc::chat::message::{Message, Sealed};
use chat_svc::json::{Raw, Value as Argument};
use chat_svc::protocol::event::{self, ClientEvent, Typing};
use chat_svc::protocol::frame::Frame;
use chat_svc::protocol::socketio;
use serde_json::Value;
use serde_json::value::RawValue;

const ID: MessageId = MessageId([0xA7; 12]);
const UNIX_MS: u64 = 1_785_585_600_123;

pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let Ok(event) = socketio::event(text) else {
        return chat_message(text.into());
    };
    match ClientEvent::new(&event.name, event.first()) {
        ClientEvent::ChatMessage(json) => chat_message(json),
        ClientEvent::JoinRoom(json) => {
            if let Ok(Some(user)) = draft::id_from_json(json.get(), "user id") {
                assert!((1..=ID_BYTES_MAX).contains(&user.len()));
            }
        }
        ClientEvent::Typing(json) | ClientEvent::StopTyping(json) => typing(json),
        ClientEvent::Other => {}
    }
}

fn chat_message(json: Argument<'_>) {
    let sealed = |draft: Draft<'_>| draft.seal(ID, UNIX_MS).value;
    let (in_one_pass, in_two) = (Draft::read(json), Draft::parse(json.get()));
    assert_eq!(in_one_pass.map(sealed), in_two.map(sealed));
    match Draft::read(json) {
        Ok(draft) => accepted(json.get(), &draft),
        Err(refused) => refusal(&refused),
    }
}

fn accepted(json: &str, draft: &Draft<'_>) {
    let sealed = draft.seal(ID, UNIX_MS);
    let value: Value = serde_json::from_slice(&sealed.value).expect("a sealed message is JSON");
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    for name in ["sender_id", "receiver_id", "conversation_id"] {
        assert!(field(name).is_some_and(|id| (1..=ID_BYTES_MAX).contains(&id.len())));
    }
    assert_eq!(field("_id"), Some(&*ID.to_string()));
    assert_eq!(field("conversation_id"), Some(sealed.conversation.as_str()));
    assert_eq!(field("client_message_id"), draft.client_message_id());
    assert_eq!(sealed.may_be_resent, draft.client_message_id().is_some());
    assert_eq!(field("text_content"), Some(&*text(json)));
    let to: Vec<String> =
        serde_json::from_slice(&sealed.recipients).expect("recipients are a JSON array");
    assert_eq!(to.first().map(String::as_str), field("receiver_id"));
    again(draft, &sealed);
    on_the_wire(&sealed, &value);
}

/// The text as a parser of single values reads it; of a repeated field the last one counts.
fn text(json: &str) -> String {
    let fields: HashMap<String, &RawValue> =
        serde_json::from_str(json).expect("a draft comes from an object");
    let text = fields.get("text_content").map(|text| text.get());
    let text: Option<String> =
        serde_json::from_str(text.unwrap_or("null")).expect("a text is a string or null");
    text.unwrap_or_default()
}

/// A message sent as it was received is the same message.
fn again(draft: &Draft<'_>, sealed: &Sealed) {
    let json = str::from_utf8(&sealed.value).expect("JSON is text");
    let again = Draft::parse(json).expect("what was sealed can be sent");
    assert_eq!(again.derived_id(), draft.derived_id());
    assert_eq!(again.seal(ID, UNIX_MS).value, sealed.value);
}

fn on_the_wire(sealed: &Sealed, value: &Value) {
    let key = sealed.conversation.as_bytes();
    let seq = Seq::new(1, 7);
    let message = Message::from_log(key, &sealed.value, seq).expect("the log gives it back");
    assert_eq!(message, sealed.at(seq));
    let mut expected = value.clone();
    expected["seq"] = seq.0.into();
    let [argument] = &*arguments(&event::new_message(&message)) else {
        unreachable!("newMessage has one argument")
    };
    assert_eq!(argument, &expected);
    let [acknowledged] = &*arguments(&event::ack_message("12", &message)) else {
        unreachable!("an ack has one argument")
    };
    assert_eq!(acknowledged["message"], expected);
}

fn refusal(refused: &Refused) {
    let id = refused.client_message_id.as_deref();
    assert!(id.is_none_or(|id| (1..=ID_BYTES_MAX).contains(&id.len())));
    let error = arguments(&event::message_error(&refused.rejection, id));
    let ack = arguments(&event::ack_error("0", &refused.rejection, id));
    for object in [&error[0], &ack[0]] {
        assert_eq!(object["code"], refused.rejection.code());
        assert_eq!(object["client_message_id"].as_str(), id);
    }
}

fn typing(json: Argument<'_>) {
    let Ok(typing) = Typing::read(json) else {
        return;
    };
    let ids = [typing.sender_id, typing.receiver_id, typing.conversation_id];
    let [Some(sender), Some(receiver), Some(conversation)] = ids.map(id) else {
        return;
    };
    let [relayed] = &*arguments(&event::typing(true, &sender, &receiver, &conversation)) else {
        unreachable!("typing has one argument")
    };
    assert_eq!(relayed.as_object().map(serde_json::Map::len), Some(3));
}

fn id(json: Option<Raw<'_>>) -> Option<Cow<'_, str>> {
    draft::id_from_json(json?, "an id").ok()?
}

/// The arguments of an event or ack of ours, the event's name left out.
fn arguments(frame: &Frame) -> Vec<Value> {
    let text = str::from_utf8(frame.packet()).expect("a packet is text");
    let packet = text.strip_prefix('4').expect("it is a message");
    let packet = socketio::parse(packet).expect("our packets can be read");
    let data = packet.data.expect("it has arguments");
    let args = match packet.kind {
        socketio::Kind::Event => socketio::event(data).map(|event| event.args),
        _ => socketio::ack_args(data),
    };
    let args = args.expect("our arguments can be read");
    let parse = |arg: &str| serde_json::from_str(arg).expect("an argument is JSON");
    args.into_iter().map(parse).collect()
}
