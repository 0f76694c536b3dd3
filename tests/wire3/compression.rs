//! Polling answers are compressed from 1024 bytes, with gzip or deflate, for clients that can read them.

use std::io::Read;

use flate2::read::{GzDecoder, ZlibDecoder};
use serde_json::json;

use crate::support::client::Client;
use crate::support::http::{self, Response};
use crate::support::server::Server;
use crate::support::websocket::WebSocket;
use crate::{Poll, SOCKETS, payload};

const SOCKETS_4: &str = "/socket.io/?EIO=4";

/// Ann sends and Bob polls.
struct Talk {
    ann: Client,
    bob: Poll,
    /// Bytes of an answer with a message of one byte.
    smallest: usize,
}

impl Talk {
    async fn new(server: &Server, start: &str) -> Talk {
        let mut ann = Client::websocket(server.address).await;
        ann.join("ann").await;
        let (bob, _) = Poll::open(server.address, start).await;
        let join = "420[\"joinRoom\",\"bob\"]";
        match start {
            SOCKETS => bob.send(payload(&[join])).await,
            _ => bob.send(format!("40\u{1e}{join}")).await,
        }
        assert!(bob.text().await.contains("430["));
        let mut talk = Talk {
            ann,
            bob,
            smallest: 1,
        };
        talk.smallest = talk.hear(1, "").await.text().len();
        talk
    }

    /// An answer of so many bytes, before it is compressed, fetched with this `Accept-Encoding`.
    async fn hear(&mut self, bytes: usize, accepted: &str) -> Response {
        let text = "x".repeat(bytes - self.smallest + 1);
        let draft = json!({
            "conversation_id": "c", "sender_id": "ann", "receiver_id": "bob", "text_content": text,
        });
        self.ann.emit_with_ack("chatMessage", draft).await;
        let headers = match accepted {
            "" => &[][..],
            _ => &[("Accept-Encoding", accepted)],
        };
        http::request(self.bob.address, "GET", &self.bob.path(), headers, b"").await
    }
}

fn assert_plain(answer: &Response, bytes: usize) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.body.len(), bytes);
    let length = bytes.to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
}

fn assert_compressed(answer: &Response, encoding: &str, bytes: usize) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-encoding"), Some(encoding));
    assert!(
        answer
            .header("vary")
            .unwrap_or_default()
            .contains("accept-encoding")
    );
    let mut text = String::new();
    let mut body = &answer.body[..];
    match encoding {
        "gzip" => GzDecoder::new(&mut body).read_to_string(&mut text),
        _ => ZlibDecoder::new(&mut body).read_to_string(&mut text),
    }
    .unwrap();
    assert_eq!(text.len(), bytes);
    assert!(
        text.contains("\"newMessage\"") && text.ends_with(']'),
        "{text}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn answers_from_1024_bytes_are_compressed_and_smaller_ones_are_not() {
    let server = Server::start(&[]).await;
    let mut talk = Talk::new(&server, SOCKETS_4).await;
    for (accepted, encoding) in [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("br, zstd, deflate;q=0.5", "deflate"),
    ] {
        assert_plain(&talk.hear(1023, accepted).await, 1023);
        assert_compressed(&talk.hear(1024, accepted).await, encoding, 1024);
        assert_compressed(&talk.hear(20_000, accepted).await, encoding, 20_000);
    }
}

#[tokio::test]
async fn answers_of_revision_3_are_compressed_too() {
    let server = Server::start(&[]).await;
    let mut talk = Talk::new(&server, SOCKETS).await;
    assert_compressed(&talk.hear(3000, "gzip").await, "gzip", 3001);
}

#[tokio::test]
async fn a_client_that_cannot_read_them_gets_plain_answers() {
    let server = Server::start(&[]).await;
    let mut talk = Talk::new(&server, SOCKETS_4).await;
    // The last two forbid even that: an answer is better than none, since its packets are gone with it.
    for accepted in [
        "",
        "br",
        "identity",
        "gzip;q=0",
        "br, identity;q=0",
        "*;q=0",
    ] {
        println!("{accepted}");
        assert_plain(&talk.hear(5000, accepted).await, 5000);
    }
}

#[tokio::test]
async fn compression_can_be_switched_off() {
    let server = Server::start(&[("HTTP_COMPRESSION", "false")]).await;
    let mut talk = Talk::new(&server, SOCKETS_4).await;
    assert_plain(&talk.hear(5000, "gzip, deflate").await, 5000);
}

#[tokio::test]
async fn what_has_no_body_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let script = "/* client */".repeat(200);
    std::fs::write(folder.path().join("socket.io.js"), &script).unwrap();
    let client = folder.path().to_str().unwrap();
    let server = Server::start(&[("SERVE_CLIENT", client)]).await;
    let gzip = ("Accept-Encoding", "gzip");
    let path = "/socket.io/socket.io.js";
    let answer = http::request(server.address, "GET", path, &[gzip], b"").await;
    let mut text = String::new();
    GzDecoder::new(&answer.body[..])
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, script);
    let tag = answer.header("etag").expect("a tag").to_string();
    let headers = [gzip, ("If-None-Match", tag.as_str())];
    let known = http::request(server.address, "GET", path, &headers, b"").await;
    assert_eq!(
        (known.status, known.header("content-encoding")),
        (304, None)
    );
    http::request(server.address, "HEAD", path, &[gzip], b"")
        .await
        .expect_status(200);
    // A websocket's handshake, in whatever the client says that it reads.
    for accepted in ["gzip, deflate, br", "*;q=0"] {
        let path = format!("{SOCKETS_4}&transport=websocket");
        let headers = [("Accept-Encoding", accepted)];
        let mut socket = WebSocket::open(server.address, &path, &headers)
            .await
            .unwrap();
        assert!(socket.text().await.starts_with("0{"));
    }
}
