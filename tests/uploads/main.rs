//! Uploads: what a form may be, what becomes of its file and message, and that nothing is left of a refused one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "../support/mod.rs"]
mod support;

mod broken;
mod refused;
mod taken;

use std::net::SocketAddr;

use serde_json::Value;

use support::http::{Connection, Multipart, Response};
use support::server::Server;
use support::{history, within};

pub const PATH: &str = "/api/chat/upload/talk";
pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR-not-really-a-picture";

pub fn people() -> Multipart {
    people_named("ann", "bob")
}

pub fn people_named(sender: &str, receiver: &str) -> Multipart {
    Multipart::new()
        .field("sender_id", sender)
        .field("receiver_id", receiver)
}

pub fn file(form: Multipart, bytes: &[u8]) -> Multipart {
    form.file("attachment", "a.txt", "text/plain", bytes)
}

pub async fn post_chunked(address: SocketAddr, body: &[u8]) -> Response {
    let mut connection = Connection::open(address).await;
    let mut chunked = Vec::new();
    for chunk in body.chunks(1000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let headers = [
        ("Content-Type", Multipart::CONTENT_TYPE),
        ("Transfer-Encoding", "chunked"),
    ];
    connection.send("POST", PATH, &headers, &chunked).await;
    connection.response("POST").await
}

/// All names in the upload folder, unfinished files too.
pub fn files(server: &Server) -> Vec<String> {
    let entries = std::fs::read_dir(server.uploads()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub async fn until_files(server: &Server, count: usize) {
    let there = async {
        while files(server).len() != count {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("{count} files"), there).await;
}

/// Waits until exactly so many files are left, and checks that as many messages are.
pub async fn settled(server: &Server, count: usize) {
    until_files(server, count).await;
    let messages: Vec<Value> = history::whole(server.address, "talk").await;
    assert_eq!(messages.len(), count, "{messages:#?}");
    assert_eq!(files(server).len(), count);
}

pub fn assert_error(answer: &Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text());
    assert!(answer.json()["error"]["message"].is_string());
}
