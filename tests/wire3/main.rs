//! The wire beside revision 4 with JSON, scenario by scenario: Engine.IO 3 and Socket.IO 4, JSONP, MessagePack, and the
//! options that change what stands on the wire. Against the real binary, and against the echo example where a
//! message is to come back. What stands here is what stands on the wire.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "../support/mod.rs"]
mod support;

mod binary;
mod compression;
mod cors;
mod handshake;
mod heartbeat;
mod jsonp;
mod msgpack;
mod namespaces;
mod options;
mod polling;
mod upgrade;
mod websocket;

use std::net::SocketAddr;

use serde_json::json;

use support::http::{self, Connection, Response};
use support::websocket::WebSocket;
use support::within;

/// Path and query that requests of revision 3 begin with: of Socket.IO, and of bare Engine.IO.
const SOCKETS: &str = "/socket.io/?EIO=3";
const BARE: &str = "/engine.io/?EIO=3";

/// Short heartbeats: what the protocol's own suites use.
const FAST: [(&str, &str); 2] = [("PING_INTERVAL_MS", "300"), ("PING_TIMEOUT_MS", "200")];

const OCTETS: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=UTF-8";

/// A polling session, request by request, each on a connection of its own.
struct Poll {
    address: SocketAddr,
    /// Path and query without transport and sid.
    start: String,
    sid: String,
}

impl Poll {
    /// Handshakes: the session, and the answer with the `open` packet.
    async fn open(address: SocketAddr, start: &str) -> (Poll, Response) {
        let path = format!("{start}&transport=polling");
        let answer = http::get(address, &path).await.expect_status(200);
        let poll = Poll {
            address,
            start: start.to_string(),
            sid: sid(&answer.text()),
        };
        (poll, answer)
    }

    /// One of bare Engine.IO.
    async fn bare(address: SocketAddr) -> Poll {
        Poll::open(address, BARE).await.0
    }

    fn path(&self) -> String {
        format!("{}&transport=polling&sid={}", self.start, self.sid)
    }

    async fn get(&self) -> Response {
        http::get(self.address, &self.path()).await
    }

    /// The body of a GET that has something to bring.
    async fn text(&self) -> String {
        self.get().await.expect_status(200).text()
    }

    /// A GET that is out, and most likely held: another request was answered after it was sent.
    async fn hold(&self) -> Connection {
        let mut get = Connection::open(self.address).await;
        get.send("GET", &self.path(), &[], b"").await;
        assert!(self.is_known().await);
        get
    }

    async fn post(&self, body: impl AsRef<[u8]>) -> Response {
        self.post_as("text/plain;charset=UTF-8", body).await
    }

    async fn post_as(&self, content_type: &str, body: impl AsRef<[u8]>) -> Response {
        let headers = [("Content-Type", content_type)];
        http::request(self.address, "POST", &self.path(), &headers, body.as_ref()).await
    }

    /// Posts what is taken, whatever becomes of it.
    async fn send(&self, body: impl AsRef<[u8]>) {
        let answer = self.post(body).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.header("content-type"), Some("text/html"));
    }

    /// Whether the server knows the session, asked in a way that does nothing to it.
    async fn is_known(&self) -> bool {
        let answer = http::request(self.address, "PUT", &self.path(), &[], b"").await;
        match answer.status {
            500 => true,
            _ => {
                assert_refused(&answer, 1, "Session ID unknown");
                false
            }
        }
    }

    async fn forgotten(&self) {
        let gone = async { while self.is_known().await {} };
        within("the server to forget a session", gone).await;
    }

    /// A socket that has probed; `query` is added to its own.
    async fn probe(&self, query: &str) -> WebSocket {
        let path = format!("{}&transport=websocket&sid={}{query}", self.start, self.sid);
        let opened = WebSocket::open(self.address, &path, &[]).await;
        let mut socket = opened.expect("a probing socket");
        socket.send_text("2probe").await.unwrap();
        assert_eq!(socket.text().await, "3probe");
        socket
    }
}

/// A websocket of its own session, past the `open` packet; and that session's id.
async fn websocket(address: SocketAddr, start: &str) -> (WebSocket, String) {
    let path = format!("{start}&transport=websocket");
    let mut socket = WebSocket::open(address, &path, &[]).await.unwrap();
    let open = socket.text().await;
    assert!(open.starts_with("0{"), "{open}");
    (socket, sid(&open))
}

/// The next texts on a websocket.
async fn expect(socket: &mut WebSocket, packets: &[&str]) {
    for packet in packets {
        assert_eq!(socket.text().await, *packet);
    }
}

/// The id in an `open` packet, whatever it is wrapped in.
fn sid(open: &str) -> String {
    let (_, behind) = open.split_once("sid").expect("an open packet");
    let start = behind.trim_start_matches(['\\', '"', ':']);
    start[..20].to_string()
}

/// A text payload of revision 3: each packet behind its length in UTF-16 code units.
fn payload(packets: &[&str]) -> String {
    let framed = |packet: &&str| format!("{}:{packet}", packet.encode_utf16().count());
    packets.iter().map(framed).collect()
}

fn assert_refused(answer: &Response, code: u8, message: &str) {
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json(), json!({"code": code, "message": message}));
}
