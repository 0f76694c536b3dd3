//! Clients that come back after their connection broke: they get their session whole, or a fresh one.

mod owed;
mod restarts;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::packet::{Event, Incoming};
use crate::support::server::Server;
use crate::{draft, metric, metric_becomes};

const ON: (&str, &str) = ("RECOVERY_MS", "120000");

/// A client that does what the official one does: it remembers `sid`, `pid` and the last offset.
struct Fan {
    client: Client,
    id: Value,
    pid: Value,
    offset: Value,
}

impl Fan {
    async fn connect(address: SocketAddr, auth: &Value) -> Fan {
        let client = Client::open_websocket(address, "", &[]).await.unwrap();
        Self::on(client, auth).await
    }

    async fn on(mut client: Client, auth: &Value) -> Fan {
        let answer = client.connect_with("/", auth).await.unwrap();
        Fan {
            client,
            id: answer["sid"].clone(),
            pid: answer["pid"].clone(),
            offset: Value::Null,
        }
    }

    /// As [`Fan::connect`], beside others that claim the session: one of them may end the connection before the answer.
    async fn claim(address: SocketAddr, auth: &Value) -> Option<Fan> {
        let mut client = Client::open_websocket(address, "", &[]).await.unwrap();
        client.try_send_packet(&format!("40{auth}")).await;
        loop {
            if let Incoming::Connected { payload, .. } = client.next().await? {
                return Some(Fan {
                    client,
                    id: payload["sid"].clone(),
                    pid: payload["pid"].clone(),
                    offset: Value::Null,
                });
            }
        }
    }

    /// A fresh session in a user's room.
    async fn new(server: &Server, user: &str) -> Fan {
        let mut fan = Self::connect(server.address, &Value::Null).await;
        fan.client.join(user).await;
        fan
    }

    fn auth(&self) -> Value {
        json!({"pid": self.pid, "offset": self.offset})
    }

    /// Comes back; whether it got its session.
    async fn back(&self, server: &Server) -> (Fan, bool) {
        self.back_with(server, &self.auth()).await
    }

    async fn back_with(&self, server: &Server, auth: &Value) -> (Fan, bool) {
        let mut fan = Self::connect(server.address, auth).await;
        let recovered = fan.pid == self.pid;
        assert_eq!(recovered, fan.id == self.id, "both or none");
        if recovered {
            fan.offset = self.offset.clone();
        }
        (fan, recovered)
    }

    fn note(&mut self, event: &Event) -> String {
        assert_eq!(event.name, "newMessage");
        assert_eq!(event.args.len(), 2, "{event:?}");
        assert!(event.args[1].is_string(), "{event:?}");
        self.offset = event.args[1].clone();
        event.data()["text_content"].as_str().unwrap().to_owned()
    }

    /// The text of the next message.
    async fn read(&mut self) -> String {
        let event = self.client.event().await;
        self.note(&event)
    }

    /// The texts of all messages so far.
    async fn read_all(&mut self) -> Vec<String> {
        let events = self.client.events_until_now().await;
        events.iter().map(|event| self.note(event)).collect()
    }
}

/// Sends messages to a user and waits until each has been shown.
struct Sender {
    client: Client,
    seen: Client,
    to: &'static str,
}

impl Sender {
    async fn new(server: &Server, to: &'static str) -> Sender {
        let mut seen = Client::websocket(server.address).await;
        seen.join(to).await;
        let client = Client::websocket(server.address).await;
        Sender { client, seen, to }
    }

    async fn send(&mut self, text: &str) {
        self.client
            .emit("chatMessage", draft("ann", self.to, text))
            .await;
        let shown = self.seen.event_named("newMessage").await;
        assert_eq!(shown["text_content"], text);
    }
}

async fn outcomes(server: &Server, outcome: &str) -> i64 {
    metric(
        server,
        &format!("chat_recoveries_total{{outcome=\"{outcome}\"}}"),
    )
    .await
}

#[tokio::test]
async fn recovery_is_off_unless_it_is_asked_for() {
    let server = Server::start(&[]).await;
    let mut client = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    let auth = json!({"pid": "AAAAAAAAAAAAAAAAAAAA", "offset": "1-1-0"});
    let answer = client.connect_with("/", &auth).await.unwrap();
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    client.join("bob").await;
    client.emit("chatMessage", draft("ann", "bob", "hi")).await;
    for _ in ["messageSent", "newMessage"] {
        let event = client.event().await;
        assert_eq!(event.args.len(), 1, "{event:?}");
    }
}

#[tokio::test]
async fn who_comes_back_gets_what_was_missed_once_in_order_and_then_what_is_new() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let mut bob = Fan::new(&server, "bob").await;
    let mut eve = Fan::new(&server, "eve").await;
    ann.send("0").await;
    assert_eq!(bob.read().await, "0");
    let (auth, id, pid) = (bob.auth(), bob.id.clone(), bob.pid.clone());
    drop(bob);
    metric_becomes(&server, "chat_websockets", 3).await;
    for n in 1..=20 {
        ann.send(&n.to_string()).await;
    }
    let mut bob = Fan::connect(server.address, &auth).await;
    assert_eq!((&bob.id, &bob.pid), (&id, &pid), "the same session");
    ann.send("21").await;
    for n in 1..=21 {
        assert_eq!(bob.read().await, n.to_string());
    }
    assert_eq!(bob.read_all().await, [""; 0]);
    assert_eq!(eve.read_all().await, [""; 0], "others are sent nothing");
    assert_eq!(outcomes(&server, "recovered").await, 1);
    assert_eq!(metric(&server, "chat_recovery_replayed_total").await, 20);
    // In the middle of the replay is a place like any other.
    let (mut again, recovered) = bob.back(&server).await;
    assert!(recovered);
    ann.send("22").await;
    assert_eq!(again.read_all().await, ["22"]);
}

#[tokio::test]
async fn polling_clients_come_back_too() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let client = Client::open_polling(server.address, "", &[]).await.unwrap();
    let mut bob = Fan::on(client, &Value::Null).await;
    bob.client.join("bob").await;
    ann.send("0").await;
    assert_eq!(bob.read().await, "0");
    for n in 1..=40 {
        ann.send(&n.to_string()).await;
    }
    let client = Client::open_polling(server.address, "", &[]).await.unwrap();
    let mut back = Fan::on(client, &bob.auth()).await;
    assert_eq!(back.pid, bob.pid);
    for n in 1..=40 {
        assert_eq!(back.read().await, n.to_string());
    }
}

#[tokio::test]
async fn who_had_got_no_message_comes_back_to_all_since_the_session_began() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    ann.send("before").await;
    let bob = Fan::new(&server, "bob").await;
    ann.send("first").await;
    let (mut back, recovered) = bob.back_with(&server, &json!({"pid": bob.pid})).await;
    assert!(recovered);
    assert_eq!(back.read_all().await, ["first"]);
}

#[tokio::test]
async fn an_offset_of_the_session_before_brings_nothing_of_it() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let mut old = Fan::new(&server, "bob").await;
    ann.send("old").await;
    old.read().await;
    ann.send("between").await;
    let mut fresh = Fan::new(&server, "bob").await;
    ann.send("new").await;
    fresh.offset = old.offset.clone();
    let (mut back, recovered) = fresh.back(&server).await;
    assert!(recovered);
    assert_eq!(back.read_all().await, ["new"]);
}

#[tokio::test]
async fn the_older_connection_is_closed_before_the_session_goes_on() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let mut ghost = Fan::new(&server, "bob").await;
    ann.send("0").await;
    ghost.read().await;
    let (mut bob, recovered) = ghost.back(&server).await;
    assert!(recovered);
    assert_eq!(ghost.client.closed().await, []);
    ann.send("1").await;
    assert_eq!(bob.read_all().await, ["1"]);
    let replaced = "chat_sessions_closed_total{reason=\"replaced\"}";
    assert_eq!(metric(&server, replaced).await, 1);
}

#[tokio::test]
async fn two_that_claim_one_session_at_once_do_not_both_get_it() {
    let server = Server::start(&[ON]).await;
    let mut winners = 0;
    for _ in 0..20 {
        let bob = Fan::new(&server, "bob").await;
        let auth = bob.auth();
        let claims = (0..4).map(|_| Fan::claim(server.address, &auth));
        let fans = futures_util::future::join_all(claims).await;
        let mut fans: Vec<Fan> = fans.into_iter().flatten().collect();
        fans.retain(|fan| fan.pid == bob.pid);
        // Each may have had it in turn; only the last one's connection is open.
        let mut open = 0;
        for fan in &mut fans {
            fan.client.try_send_packet("40/no-such-namespace,").await;
            while let Some(incoming) = fan.client.next().await {
                if matches!(incoming, Incoming::Refused { .. }) {
                    open += 1;
                    break;
                }
            }
        }
        assert!(open <= 1, "{open} connections of one session");
        winners += open;
    }
    assert!(winners > 0, "nobody ever got it");
}

#[tokio::test]
async fn what_is_no_session_of_this_log_is_a_fresh_session() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    ann.send("0").await;
    let pid = "AAAAAAAAAAAAAAAAAAAA";
    for auth in [
        json!({"pid": pid}),
        json!({"pid": "x", "offset": "1-1-0"}),
        json!({"pid": 5}),
        json!({"offset": "1-1-0"}),
    ] {
        let fan = Fan::connect(server.address, &auth).await;
        assert!(fan.pid.is_string() && fan.pid != pid, "{auth}");
    }
    for offset in [
        json!("1-1-ffff"),
        json!("1-2-1"),
        json!("2-1-1"),
        json!("1-1-1.1"),
        json!("1-1-ffffffffffffffff"),
        json!("garbage"),
        json!(""),
        json!(7),
        json!({"a": 1}),
    ] {
        let bob = Fan::new(&server, "bob").await;
        let auth = json!({"pid": bob.pid, "offset": offset});
        let (mut back, recovered) = bob.back_with(&server, &auth).await;
        assert!(!recovered, "{offset}");
        assert_eq!(back.read_all().await, [""; 0], "in no room");
        let (_, recovered) = bob.back(&server).await;
        assert!(!recovered, "a session is asked for once");
    }
    assert_eq!(outcomes(&server, "offset").await, 9);
}

#[tokio::test]
async fn after_the_window_the_session_is_gone() {
    let server = Server::start(&[("RECOVERY_MS", "1")]).await;
    let bob = Fan::new(&server, "bob").await;
    let auth = bob.auth();
    let pid = bob.pid.clone();
    drop(bob);
    metric_becomes(&server, "chat_websockets", 0).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let back = Fan::connect(server.address, &auth).await;
    assert_ne!(back.pid, pid);
    assert_eq!(outcomes(&server, "unknown").await, 1);
}

#[tokio::test]
async fn when_what_was_missed_is_not_kept_any_more_the_session_is_fresh() {
    let server = Server::start(&[ON, ("RECOVERY_MESSAGES_BYTES_MAX", "4096")]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let bob = Fan::new(&server, "bob").await;
    ann.send("missed").await;
    for _ in 0..4 {
        ann.send(&"x".repeat(1000)).await;
    }
    let (mut back, recovered) = bob.back(&server).await;
    assert!(!recovered);
    assert_eq!(back.read_all().await, [""; 0]);
    assert_eq!(outcomes(&server, "gone").await, 1);
    assert!(metric(&server, "chat_recovery_messages_bytes").await <= 4096);
}

#[tokio::test]
async fn who_has_missed_more_than_half_an_outbox_begins_anew() {
    let server = Server::start(&[ON, ("OUTBOX_BYTES_MAX", "65536")]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let bob = Fan::new(&server, "bob").await;
    for _ in 0..3 {
        ann.send(&"x".repeat(9_000)).await;
    }
    let (mut back, recovered) = bob.back(&server).await;
    assert!(recovered);
    assert_eq!(back.read_all().await.len(), 3);
    let (again, recovered) = back.back_with(&server, &json!({"pid": bob.pid})).await;
    assert!(recovered, "three may be sent again");
    ann.send(&"x".repeat(9_000)).await;
    let (_, recovered) = again.back_with(&server, &json!({"pid": bob.pid})).await;
    assert!(!recovered, "four may not");
    assert_eq!(outcomes(&server, "too_much").await, 1);
}

#[tokio::test]
async fn of_the_sessions_kept_the_oldest_is_given_up_first() {
    let server = Server::start(&[ON, ("RECOVERY_SESSIONS_BYTES_MAX", "1024")]).await;
    let kept = "chat_recovery_sessions_bytes";
    let mut left = Vec::new();
    for n in 1..=5 {
        let fan = Fan::connect(server.address, &Value::Null).await;
        left.push((fan.auth(), fan.pid.clone()));
        drop(fan);
        metric_becomes(&server, "chat_websockets", 0).await;
        metric_becomes(&server, kept, 256 * n.min(4)).await;
        let dropped = metric(&server, "chat_recovery_sessions_dropped_total").await;
        assert_eq!(dropped, i64::from(n == 5));
    }
    let mut back = Vec::new();
    for (n, (auth, pid)) in left.into_iter().enumerate() {
        back.push(Fan::connect(server.address, &auth).await);
        assert_eq!(back[n].pid == pid, n > 0, "session {n}");
    }
    assert_eq!(metric(&server, kept).await, 0);
}

#[tokio::test]
async fn a_resend_is_not_replayed_a_second_time() {
    let server = Server::start(&[ON]).await;
    let mut ann = Sender::new(&server, "bob").await;
    let bob = Fan::new(&server, "bob").await;
    let mut named = draft("ann", "bob", "once");
    named["client_message_id"] = json!("m1");
    for _ in 0..3 {
        let answer = ann.client.emit_with_ack("chatMessage", named.clone()).await;
        assert_eq!(answer["status"], "ok");
    }
    ann.seen.event_named("newMessage").await;
    ann.send("last").await;
    let (mut back, recovered) = bob.back(&server).await;
    assert!(recovered);
    assert_eq!(back.read_all().await, ["once", "last"]);
}
