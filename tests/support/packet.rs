//! Engine.IO 4 and Socket.IO 5 packets, as the client side reads and writes them.

use serde_json::Value;

/// An Engine.IO packet: its text with the type digit in front, or an attachment's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Text(String),
    Binary(Vec<u8>),
}

/// What a Socket.IO packet from the server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    Connected {
        namespace: String,
        payload: Value,
    },
    Refused {
        namespace: String,
        payload: Value,
    },
    Disconnected {
        namespace: String,
    },
    Event(Event),
    Ack {
        namespace: String,
        id: u64,
        args: Vec<Value>,
    },
}

/// An event with its arguments; binary ones are placeholders into `attachments`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub namespace: String,
    pub name: String,
    pub args: Vec<Value>,
    pub ack: Option<u64>,
    pub attachments: Vec<Vec<u8>>,
}

impl Event {
    /// The first argument, or null.
    pub fn data(&self) -> &Value {
        self.args.first().unwrap_or(&Value::Null)
    }
}

/// A Socket.IO packet's text, taken apart; the number of attachments that must follow.
pub fn parse(text: &str) -> (Incoming, usize) {
    let mut rest = text;
    let kind = take_digits(&mut rest, 1);
    let mut attachments = 0;
    if matches!(kind, Some(5 | 6)) {
        attachments = take_digits(&mut rest, 3).unwrap_or(0) as usize;
        rest = rest.strip_prefix('-').unwrap_or_else(|| unreadable(text));
    }
    let mut namespace = "/".to_string();
    if rest.starts_with('/') {
        let (name, after) = rest.split_once(',').unwrap_or((rest, ""));
        (namespace, rest) = (name.to_string(), after);
    }
    let id = take_digits(&mut rest, 19);
    let payload = match rest {
        "" => Value::Null,
        json => serde_json::from_str(json).unwrap_or_else(|_| unreadable(text)),
    };
    let incoming = match (kind, payload) {
        (Some(0), payload) => Incoming::Connected { namespace, payload },
        (Some(1), _) => Incoming::Disconnected { namespace },
        (Some(2 | 5), Value::Array(args)) => Incoming::Event(event(namespace, args, id)),
        (Some(3 | 6), Value::Array(args)) => Incoming::Ack {
            namespace,
            id: id.unwrap_or_else(|| unreadable(text)),
            args,
        },
        (Some(4), payload) => Incoming::Refused { namespace, payload },
        _ => unreadable(text),
    };
    (incoming, attachments)
}

/// The text of an EVENT packet, ready to send: `42`, namespace, ack id, JSON.
pub fn event_text(namespace: &str, ack: Option<u64>, name: &str, args: &[Value]) -> String {
    let mut array = vec![Value::from(name)];
    array.extend_from_slice(args);
    let ack = ack.map(|id| id.to_string()).unwrap_or_default();
    format!("42{}{ack}{}", prefix(namespace), Value::from(array))
}

/// How a namespace stands in a packet: nothing for `/`.
pub fn prefix(namespace: &str) -> String {
    match namespace {
        "/" => String::new(),
        other => format!("{other},"),
    }
}

fn event(namespace: String, mut args: Vec<Value>, ack: Option<u64>) -> Event {
    let name = match args.first() {
        Some(Value::String(name)) => name.clone(),
        _ => panic!("an event without a name: {args:?}"),
    };
    args.remove(0);
    Event {
        namespace,
        name,
        args,
        ack,
        attachments: Vec::new(),
    }
}

fn take_digits(rest: &mut &str, max: usize) -> Option<u64> {
    let digits = rest
        .bytes()
        .take(max)
        .take_while(u8::is_ascii_digit)
        .count();
    let (number, after) = rest.split_at(digits);
    *rest = after;
    number.parse().ok()
}

fn unreadable<T>(text: &str) -> T {
    panic!("unreadable Socket.IO packet from the server: {text:?}")
}
