//! The store stalls, or is killed and comes back: the chat goes on, and history is whole or says that it is not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::away::{Ferret, is_ready, seconds};
use crate::support::client::Client;
use crate::support::http::{Connection, Response};
use crate::support::server::Server;
use crate::support::services::{borrowed, mongo_at, unique};
use crate::support::{history, metrics, within_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_paused_store_the_chat_goes_on_and_history_is_whole_or_unavailable() {
    let Some(ferret) = Ferret::start() else {
        return;
    };
    let mut chat = Chat::start(&ferret).await;
    for name in ["mongo", "postgres"] {
        chat.goes_on_while(|| ferret.pause(name), || ferret.resume(name))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_killed_store_the_chat_goes_on_and_history_is_whole_or_unavailable() {
    let Some(ferret) = Ferret::start() else {
        return;
    };
    let mut chat = Chat::start(&ferret).await;
    chat.goes_on_while(|| ferret.kill("mongo"), || ferret.restart())
        .await;
    let both = || {
        ferret.kill("mongo");
        ferret.kill("postgres");
    };
    chat.goes_on_while(both, || ferret.restart()).await;
}

/// Ann writes to Bob.
struct Chat {
    server: Server,
    ann: Client,
    bob: Client,
    /// All that was acknowledged, in order.
    sent: Vec<Value>,
}

impl Chat {
    async fn start(ferret: &Ferret) -> Chat {
        let server = Server::start(&borrowed(&mongo_at(&ferret.uri, &unique()))).await;
        let ann = Client::websocket(server.address).await;
        let mut bob = Client::websocket(server.address).await;
        bob.join("bob").await;
        Chat {
            server,
            ann,
            bob,
            sent: Vec::new(),
        }
    }

    async fn goes_on_while(&mut self, fault: impl Fn(), end: impl Fn()) {
        self.write(20).await;
        self.archived().await;
        let stored = self.sent.len();
        fault();
        self.write(30).await;
        metrics::becomes(self.server.admin, LAG, |lag| lag >= 30.0).await;
        self.a_resend_is_not_taken_for_new(stored - 1).await;
        // The newest are all in the tail; whatever needs the store cannot be told.
        let newest = self.get("/api/chat/messages/talk?limit=30").await;
        assert_eq!(newest.expect_status(200).json(), json!(self.sent[stored..]));
        let answers = tokio::join!(
            self.get("/api/chat/messages/talk?limit=200"),
            self.get("/api/chat/messages/another"),
            self.report(&self.sent[stored]),
            self.report(&self.sent[0]),
        );
        for answer in <[Response; 4]>::from(answers) {
            unavailable(&answer);
        }
        metrics::becomes(self.server.admin, AGE, |age| age >= 2.0).await;
        tokio::time::sleep(seconds("FAULT_STORE_SECONDS", 0)).await;
        end();
        self.archived().await;
        metrics::becomes(self.server.admin, AGE, |age| age == 0.0).await;
        is_ready(&self.server).await;
        let told = history::whole(self.server.address, "talk").await;
        let reported = json!(true);
        for (told, sent) in told.iter().zip(&mut self.sent) {
            // A report that was not answered in time may have been taken.
            if told["is_spam"] == reported {
                sent["is_spam"] = reported.clone();
            }
        }
        assert_eq!(told, self.sent);
        for place in [0, stored] {
            let answer = self.report(&self.sent[place]).await;
            self.sent[place]["is_spam"] = reported.clone();
            assert_eq!(answer.expect_status(200).json(), self.sent[place]);
        }
        let told = history::whole(self.server.address, "talk").await;
        assert_eq!(told, self.sent);
    }

    /// Half of them named by the client, which has the server look whether they were sent before.
    async fn write(&mut self, count: usize) {
        for n in 0..count {
            let text = format!("message {}", self.sent.len());
            let mut data = draft(&text);
            if n % 2 == 0 {
                data["client_message_id"] = json!(text);
            }
            let answer = self.ann.emit_with_ack("chatMessage", data).await;
            assert_eq!(answer["status"], "ok", "{answer}");
            let shown = self.bob.event_named("newMessage").await;
            assert_eq!(shown, answer["message"]);
            self.sent.push(shown);
        }
    }

    /// `n` or the one before it was named. It is in the store alone, so all that can be said is that it was sent.
    async fn a_resend_is_not_taken_for_new(&mut self, n: usize) {
        let first = &self.sent[n - 1];
        let mut data = draft(first["text_content"].as_str().unwrap());
        data["client_message_id"] = first["client_message_id"].clone();
        assert!(data["client_message_id"].is_string());
        let answer = self.ann.emit_with_ack("chatMessage", data).await;
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }

    async fn archived(&self) {
        metrics::becomes(self.server.admin, LAG, |lag| lag == 0.0).await;
    }

    async fn get(&self, path: &str) -> Response {
        request(self.server.address, "GET", path).await
    }

    async fn report(&self, message: &Value) -> Response {
        let path = format!("/api/chat/messages/{}/reportSpam", history::id(message));
        request(self.server.address, "POST", &path).await
    }
}

fn draft(text: &str) -> Value {
    json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob", "text_content": text})
}

fn unavailable(response: &Response) {
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(response.header("retry-after").is_some());
    assert_eq!(response.json()["error"]["code"], "unavailable");
}

/// With time for a store that does not answer to be given up.
async fn request(address: SocketAddr, method: &str, path: &str) -> Response {
    let mut connection = Connection::open(address).await;
    connection.send(method, path, &[], b"").await;
    let answer = connection.next_response(method);
    within_for(Duration::from_secs(20), path, answer)
        .await
        .expect("an answer")
}

const LAG: &str = "chat_archive_lag_records";
const AGE: &str = "chat_archive_watermark_age_seconds";
