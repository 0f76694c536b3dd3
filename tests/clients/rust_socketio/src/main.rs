//! rust_socketio 0.6, unchanged, over every transport, against the socket layer without the chat (examples/echo.rs):
//! ECHO_URL names it.
//!
//! One line per check; exit code 1 when one fails; the last line counts them. What this client cannot do, whatever the
//! server, is not asked of it: it answers no questions, sends bytes alone and asks no acknowledgement for them, splits
//! what it receives at 0x1e on a websocket too, and does not return after a goodbye by polling.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rust_socketio::client::Client;
use rust_socketio::{ClientBuilder, Payload, TransportType};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const BURST: u64 = 500;
const TEXT: &str = "héllo 👩‍👩‍👧 € \u{2028} \0 \u{1e} 4:x \"\\n\" \u{202b}שלום\u{202c} \u{10ffff}";

const MODES: [(&str, TransportType); 4] = [
    ("websocket", TransportType::Websocket),
    ("upgrade", TransportType::WebsocketUpgrade),
    ("any", TransportType::Any),
    // Last: after a goodbye by polling this client's thread never rests.
    ("polling", TransportType::Polling),
];

const CHECKS: [(&str, fn(&Mode)); 9] = [
    (
        "it connects by the transport asked for, and the server knows it",
        connects,
    ),
    ("events of every kind of arguments come back", arguments),
    ("text with emoji comes back in an acknowledgement", text),
    ("bytes come back", bytes),
    ("a question of the server arrives", asked),
    (
        "bursts of 500 events both ways stay whole and in order",
        bursts,
    ),
    (
        "a second namespace has its own payload and events",
        second_namespace,
    ),
    (
        "a refused namespace shows as an error with message and data",
        refused,
    ),
    (
        "after the server closes the connection the client returns",
        kicked,
    ),
];

fn main() {
    let (mut passed, mut failed) = (0, 0);
    for (mode, transport) in MODES {
        for (name, check) in CHECKS {
            let mode = Mode {
                name: mode,
                transport: transport.clone(),
            };
            let done = catch_unwind(AssertUnwindSafe(|| check(&mode))).is_ok();
            let word = if done { "ok  " } else { "FAIL" };
            println!("{word} rust_socketio 0.6.0 {}: {name}", mode.name);
            *if done { &mut passed } else { &mut failed } += 1;
        }
    }
    println!("{passed} passed, {failed} failed");
    // Its threads never end.
    std::process::exit(i32::from(failed > 0));
}

struct Mode {
    name: &'static str,
    transport: TransportType,
}

// === The checks ===

fn connects(mode: &Mode) {
    let user = User::connect(mode, "/");
    assert_eq!(user.next("auth"), [json!({"token": "x & é 👍"})]);
    let me = user.call("whoami", json!(null))[0].clone();
    let transport = match mode.name {
        "polling" => "polling",
        _ => "websocket",
    };
    assert_eq!(
        (&me["transport"], &me["eio"]),
        (&json!(transport), &json!(4))
    );
    assert_eq!(me["query"]["tenant"], "a & b");
}

fn arguments(mode: &Mode) {
    let user = User::connect(mode, "/");
    for args in [
        vec![json!(TEXT)],
        vec![
            json!(1),
            json!(-1.5),
            json!(true),
            json!(null),
            json!(""),
            json!([]),
            json!({}),
        ],
        vec![json!({"list": [{"deep": TEXT}]}), json!("last")],
    ] {
        user.client.emit("message", args.clone()).unwrap();
        assert_eq!(user.next("message-back"), args);
    }
}

fn text(mode: &Mode) {
    let user = User::connect(mode, "/");
    let sent = json!({"text": TEXT, "list": [1, TEXT]});
    assert_eq!(user.call("message-with-ack", sent.clone()), [sent]);
}

fn bytes(mode: &Mode) {
    let user = User::connect(mode, "/");
    let large = "👍".repeat(17_500).into_bytes();
    for bytes in [vec![0, 1, 2, 0x62, 0xfe, 0xff], large] {
        let sent = Payload::from(bytes);
        user.client.emit("message", sent.clone()).unwrap();
        assert_eq!(user.next_raw("message-back"), sent);
    }
}

fn asked(mode: &Mode) {
    let user = User::connect(mode, "/");
    let unheard = |_: Payload, _| {};
    user.client
        .emit_with_ack("ask", json!(null), PATIENCE, unheard)
        .unwrap();
    assert_eq!(user.next("question"), [json!(1)]);
    assert_eq!(user.call("message-with-ack", json!(1)), [json!(1)]);
}

fn bursts(mode: &Mode) {
    let user = User::connect(mode, "/");
    for _ in 0..2 {
        user.client.emit("burst", json!(BURST)).unwrap();
        for i in 0..BURST {
            user.client.emit("message", json!(i)).unwrap();
        }
        for event in ["n", "message-back"] {
            for i in 0..BURST {
                assert_eq!(user.next(event), [json!(i)]);
            }
        }
    }
}

fn second_namespace(mode: &Mode) {
    for namespace in ["/custom", "/dyn-4711"] {
        let user = User::connect(mode, namespace);
        assert_eq!(user.next("auth"), [json!({"token": "x & é 👍"})]);
        assert_eq!(user.call("message-with-ack", json!(TEXT)), [json!(TEXT)]);
        user.client.emit("kickns", json!(null)).unwrap();
        user.next_raw("close");
    }
}

fn refused(mode: &Mode) {
    let said = |namespace| match &*User::start(mode, namespace).next("error") {
        [Value::String(said)] => said.split_once(": ").unwrap().1.parse::<Value>().unwrap(),
        other => panic!("{other:?}"),
    };
    let denied = json!({"message": "Not authorized", "data": {"code": 42}});
    assert_eq!(said("/deny"), denied);
    assert_eq!(said("/no-such"), json!({"message": "Invalid namespace"}));
}

fn kicked(mode: &Mode) {
    let mut user = User::connect(mode, "/");
    user.next("auth");
    let before = user.call("whoami", json!(null))[0]["id"].clone();
    user.client.emit("kick", json!(null)).unwrap();
    if mode.name == "polling" {
        user = User::connect(mode, "/");
    } else {
        user.next_raw("open");
    }
    user.next("auth");
    assert_ne!(user.call("whoami", json!(null))[0]["id"], before);
}

// === User ===

/// A client with one inbox for each event.
struct User {
    client: Client,
    inboxes: Vec<(&'static str, Receiver<Payload>)>,
}

impl User {
    /// In the namespace: an event before CONNECT is answered would be one too early for the reference.
    fn connect(mode: &Mode, namespace: &str) -> User {
        let user = User::start(mode, namespace);
        user.next_raw("open");
        user
    }

    fn start(mode: &Mode, namespace: &str) -> User {
        let url = std::env::var("ECHO_URL").unwrap_or("http://127.0.0.1:3000".into());
        let mut builder = ClientBuilder::new(format!("{url}?tenant=a%20%26%20b"))
            .namespace(namespace)
            .transport_type(mode.transport.clone())
            .auth(json!({"token": "x & é 👍"}))
            .reconnect_delay(10, 50);
        let mut inboxes = Vec::new();
        for event in [
            "open",
            "error",
            "close",
            "auth",
            "message-back",
            "n",
            "question",
        ] {
            let (heard, inbox): (Sender<Payload>, _) = channel();
            // Nobody listens any more once the check is over.
            builder = builder.on(event, move |payload, _| drop(heard.send(payload)));
            inboxes.push((event, inbox));
        }
        let client = builder.connect().expect("a connection");
        User { client, inboxes }
    }

    fn next_raw(&self, event: &str) -> Payload {
        let inbox = self.inboxes.iter().find(|(name, _)| *name == event);
        let heard = inbox.unwrap().1.recv_timeout(PATIENCE);
        heard.unwrap_or_else(|_| panic!("no {event}"))
    }

    fn next(&self, event: &str) -> Vec<Value> {
        values(self.next_raw(event))
    }

    /// The arguments of the acknowledgement, which this client hands over as one list.
    fn call(&self, event: &str, argument: Value) -> Vec<Value> {
        let (heard, answer) = channel();
        let on_ack = move |payload: Payload, _| drop(heard.send(payload));
        self.client
            .emit_with_ack(event, argument, PATIENCE, on_ack)
            .unwrap();
        let answer = answer.recv_timeout(PATIENCE);
        match &*values(answer.unwrap_or_else(|_| panic!("no answer to {event}"))) {
            [Value::Array(args)] => args.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn values(payload: Payload) -> Vec<Value> {
    match payload {
        Payload::Text(values) => values,
        other => panic!("no JSON: {other:?}"),
    }
}
