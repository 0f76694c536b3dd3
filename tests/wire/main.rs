//! The wire, scenario by scenario: Engine.IO 4 and Socket.IO 5 as clients and attackers speak them, against the real
//! binary. What stands here is what stands on the wire.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "../support/mod.rs"]
mod support;

mod chat;
mod drain;
mod ends;
mod frames;
mod handshake;
mod heartbeat;
mod polling;
mod recovery;
mod slow;
mod socketio;
mod storms;
mod upgrade;

use std::net::SocketAddr;

use serde_json::{Value, json};

use support::http::{self, Response};
use support::server::Server;
use support::within;

/// Path and query that every request of revision 4 begins with.
const ENGINE: &str = "/socket.io/?EIO=4";

/// Short heartbeats: what the protocol's own suites use.
const FAST: [(&str, &str); 2] = [("PING_INTERVAL_MS", "300"), ("PING_TIMEOUT_MS", "200")];

fn polling_path(sid: &str) -> String {
    format!("{ENGINE}&transport=polling&sid={sid}")
}

fn websocket_path(sid: &str) -> String {
    format!("{ENGINE}&transport=websocket&sid={sid}")
}

fn assert_refused(answer: &Response, code: u8, message: &str) {
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json(), json!({"code": code, "message": message}));
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "{kind}");
}

/// Whether the server knows a polling session, asked in a way that does nothing to it.
async fn is_known(address: SocketAddr, sid: &str) -> bool {
    let answer = http::request(address, "PUT", &polling_path(sid), &[], b"").await;
    match answer.status {
        500 => true,
        _ => {
            assert_refused(&answer, 1, "Session ID unknown");
            false
        }
    }
}

/// Waits until the server has let go of a polling session.
async fn forgotten(address: SocketAddr, sid: &str) {
    let gone = async { while is_known(address, sid).await {} };
    within("the server to forget a session", gone).await;
}

/// One number of the server's metrics; 0 for one that is counted by a label and was never counted.
async fn metric(server: &Server, name: &str) -> i64 {
    let text = http::get(server.admin, "/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().parse().ok());
    match number {
        None if name.ends_with('}') => 0,
        number => number.unwrap_or_else(|| panic!("no metric {name}")),
    }
}

/// Waits until a metric is what it should be.
async fn metric_becomes(server: &Server, name: &str, expected: i64) {
    let becomes = async { while metric(server, name).await != expected {} };
    within(&format!("{name} to become {expected}"), becomes).await;
}

fn draft(sender: &str, receiver: &str, text: &str) -> Value {
    json!({
        "conversation_id": "talk",
        "sender_id": sender,
        "receiver_id": receiver,
        "text_content": text,
    })
}
