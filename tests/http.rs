//! HTTP as such: requests that are none, limits on heads, methods, CORS, and what stands on which port.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::net::SocketAddr;

use serde_json::json;

use support::client::Client;
use support::http::{self, Connection, Multipart, Response};
use support::server::Server;
use support::{history, within};

// === requests that are none, or two ===

#[tokio::test]
async fn a_request_has_exactly_one_host() {
    let server = Server::start(&[]).await;
    for head in [
        "GET /health HTTP/1.1",
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: b",
        "GET /health HTTP/1.1\r\nHost: a\r\nHost: a",
        "GET /health HTTP/1.1\r\nHost: a\r\nhost: b",
    ] {
        let answer = http::raw(server.address, format!("{head}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(answer.status, 400, "{head}");
        assert_eq!(answer.json()["error"]["code"], "invalid");
    }
    let old = http::raw(server.address, b"GET /health HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(old.status, 200);
}

#[tokio::test]
async fn ambiguous_framing_never_gives_a_second_answer() {
    let server = Server::start(&[]).await;
    let smuggled = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked";
    for (framing, body) in [
        ("Content-Length: 5\r\nContent-Length: 6", "hello"),
        ("Content-Length: +5", "hello"),
        ("Content-Length: 5,6", "hello"),
        ("Content-Length: -1", ""),
        ("Content-Length: 0x5", "hello"),
        ("Content-Length : 5", "hello"),
        ("Content-Length:\t5a", "hello"),
        ("Content-Length: 99999999999999999999", ""),
        ("Content-Length: ", ""),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked", "0\r\n\r\n"),
        (both, "0\r\n\r\n"),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "0\r\n\r\n",
        ),
        ("Transfer-Encoding: chunked", "fffffffffffffffff\r\n"),
        ("Transfer-Encoding: chunked", "-1\r\n\r\n"),
        ("X: a\r\n b: c\r\nContent-Length: 0", ""),
        ("Bad Name: x", ""),
        ("X: a\0b", ""),
        ("\r\nX: y", ""),
    ] {
        let mut connection = Connection::open(server.address).await;
        let path = "/api/chat/messages/ffffffffffffffffffffffff/reportSpam";
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{body}{smuggled}");
        connection.send_bytes(request.as_bytes()).await;
        let input = String::from_utf8_lossy(&connection.closed().await).into_owned();
        assert!(
            !input.contains("200 OK"),
            "{framing:?} let a second request in: {input}"
        );
        assert!(
            input.is_empty() || input.starts_with("HTTP/1.1 4"),
            "{framing:?}: {input}"
        );
    }
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_in_number() {
    let server = Server::start(&[]).await;
    let with_headers = |count: usize| {
        let headers: String = (1..count).map(|n| format!("X-{n}: y\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
    };
    let long_header = |bytes: usize| {
        format!(
            "GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
            "y".repeat(bytes)
        )
    };
    let long_url = |bytes: usize| {
        format!(
            "GET /health?{} HTTP/1.1\r\nHost: x\r\n\r\n",
            "y".repeat(bytes)
        )
    };
    for request in [with_headers(100), long_header(20_000), long_url(8_000)] {
        assert_eq!(
            http::raw(server.address, request.as_bytes())
                .await
                .unwrap()
                .status,
            200
        );
    }
    for request in [
        with_headers(101),
        with_headers(2_000),
        long_header(33 << 10),
        long_header(600_000),
        long_url(40_000),
        long_url(600_000),
    ] {
        let mut connection = Connection::open(server.address).await;
        // The server may close before it has read all.
        connection.try_send_bytes(request.as_bytes()).await.ok();
        let answer = within("an answer or the end", connection.next_response("GET")).await;
        let status = answer.map(|answer| answer.status);
        assert!(
            status.is_err() || matches!(status, Ok(400 | 414 | 431)),
            "{status:?}: {request:.60}"
        );
    }
    http::get(server.address, "/health")
        .await
        .expect_status(200);
}

#[tokio::test]
async fn a_head_that_does_not_end_and_a_connection_without_one_are_closed() {
    let server = Server::start(&[("HEADER_TIMEOUT_MS", "1000")]).await;
    let mut begun = Vec::new();
    for head in [
        "",
        "GET",
        "GET /health HTTP/1.1\r\nHost: x\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nX: y",
    ] {
        let mut connection = Connection::open(server.address).await;
        connection.send_bytes(head.as_bytes()).await;
        begun.push(connection);
    }
    for connection in &mut begun {
        connection.closed().await;
    }
    let mut idle = Connection::open(server.address).await;
    idle.send("GET", "/health", &[], b"").await;
    idle.response("GET").await.expect_status(200);
    assert!(
        idle.closed().await.is_empty(),
        "an idle connection is closed without a word"
    );
    let mut ann = Client::websocket(server.address).await;
    idle_until_closed(server.address).await;
    ann.join("still here").await;
}

async fn idle_until_closed(address: SocketAddr) {
    Connection::open(address).await.closed().await;
}

#[tokio::test]
async fn encoded_bodies_are_refused_and_methods_that_do_not_fit_are_told_which_do() {
    let server = Server::start(&[]).await;
    let path = "/api/chat/upload/talk";
    for encoding in ["gzip", "br", "deflate", "identity, gzip", "x"] {
        let headers = [
            ("Content-Encoding", encoding),
            ("Content-Type", Multipart::CONTENT_TYPE),
        ];
        let answer = http::request(server.address, "POST", path, &headers, b"x").await;
        assert_error(&answer, 415);
    }
    for (method, path, allow) in [
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("GET", path, "POST"),
        ("PUT", path, "POST"),
        ("POST", "/api/chat/messages/talk", "GET, HEAD"),
        ("DELETE", "/uploads/x", "GET, HEAD"),
        (
            "GET",
            "/api/chat/messages/ffffffffffffffffffffffff/reportSpam",
            "POST",
        ),
        ("PATCH", "/", "GET, HEAD"),
    ] {
        let answer = http::request(server.address, method, path, &[], b"").await;
        assert_error(&answer, 405);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    for path in [
        "/x",
        "/api",
        "/api/chat",
        "/api/chat/messages",
        "/api/chat/messages/",
        "/api/chat/messages/a/b",
        "/api/chat/messages/a/b/reportSpam",
        "//",
        "/health/",
        "/health/x",
        "/uploads",
        "/uploads/",
        "/Health",
        "/metrics",
        "/health/ready",
        "/quote-events",
        "/.env",
        "/data/journal",
        "/api/chat/upload/",
        "/api/chat/upload/a/b",
    ] {
        assert_error(&http::get(server.address, path).await, 404);
    }
    for path in ["/", "/chat", "/uploads/x", "/socket.io/"] {
        let answer = http::get(server.admin, path).await;
        assert_eq!(answer.status, 404, "{path} on the admin listener");
    }
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let server = Server::start(&[]).await;
    for path in ["/", "/health", "/api/chat/messages/talk", "/nothing"] {
        let whole = http::get(server.address, path).await;
        let mut connection = Connection::open(server.address).await;
        connection.send("HEAD", path, &[], b"").await;
        let head = connection.response("HEAD").await;
        assert_eq!(head.status, whole.status, "{path}");
        assert_eq!(
            head.header("content-type"),
            whole.header("content-type"),
            "{path}"
        );
        assert_eq!(
            head.header("content-length"),
            whole.header("content-length"),
            "{path}"
        );
        connection.send("GET", "/health", &[], b"").await;
        connection.response("GET").await.expect_status(200);
    }
}

// === CORS ===

#[tokio::test]
async fn without_a_list_any_origin_may_read_and_only_old_clients_with_credentials() {
    let server = Server::start(&[]).await;
    for path in [
        "/health",
        "/nothing",
        "/api/chat/messages/talk?limit=0",
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=4&transport=nonsense",
        "/socket.io/?EIO=3&transport=polling",
        "/socket.io/?EIO=3&transport=nonsense",
        "/health?EIO=3",
        "/uploads/missing",
    ] {
        let answer = with_origin(server.address, "GET", path, "https://any.example").await;
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://any.example"), "{path}");
        let vary = answer.header("vary").unwrap_or_default();
        assert!(vary.contains("origin"), "{path}: {vary}");
        // Clients 1.x and 2.x always send cookies, so without this their pages cannot connect from another origin.
        let credentials = answer.header("access-control-allow-credentials");
        let is_old = path.contains("EIO=3") && path.starts_with("/socket.io/");
        assert_eq!(credentials, is_old.then_some("true"), "{path}");
    }
    let headers = [
        ("Origin", "https://any.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,x-y"),
    ];
    let answer = http::request(
        server.address,
        "OPTIONS",
        "/api/chat/upload/talk",
        &headers,
        b"",
    )
    .await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://any.example"));
    assert!(
        answer
            .header("access-control-allow-methods")
            .unwrap()
            .contains("POST")
    );
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("content-type,x-y")
    );
}

#[tokio::test]
async fn with_a_list_only_its_origins_may_read_and_connect() {
    let ours = "https://chat.example";
    let server =
        Server::start(&[("CORS_ORIGINS", "https://chat.example,http://localhost:8080")]).await;
    let polling = "/socket.io/?EIO=4&transport=polling";
    for path in [
        "/health",
        "/nothing",
        polling,
        "/socket.io/?EIO=4&transport=nonsense",
    ] {
        for origin in [ours, "http://localhost:8080"] {
            let answer = with_origin(server.address, "GET", path, origin).await;
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some(origin),
                "{path}"
            );
            assert_eq!(
                answer.header("access-control-allow-credentials"),
                Some("true")
            );
            assert!(varies(&answer), "{path}");
        }
    }
    let preflight = [("Access-Control-Request-Method", "POST")];
    for origin in [
        "https://evil.example",
        "null",
        "https://chat.example.evil.example",
        "http://chat.example",
        "https://CHAT.example:444",
    ] {
        for (method, path) in [
            ("GET", "/health"),
            ("GET", "/nothing"),
            ("GET", polling),
            ("OPTIONS", "/api/chat/upload/x"),
        ] {
            let headers = [&[("Origin", origin)], preflight.as_slice()].concat();
            let answer = http::request(server.address, method, path, &headers, b"").await;
            let leaked = answer
                .headers
                .iter()
                .find(|(name, _)| name.starts_with("access-control-"));
            assert_eq!(leaked, None, "{origin} {method} {path}");
            assert!(
                path != polling || answer.status >= 400,
                "{origin} has a session"
            );
        }
        let refused = Client::open_websocket(server.address, "", &[("Origin", origin)]).await;
        assert!(refused.unwrap_err().status >= 400);
    }
    Client::open_websocket(server.address, "", &[("Origin", ours)])
        .await
        .unwrap();
    Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
}

fn varies(answer: &Response) -> bool {
    let vary = answer.headers.iter().filter(|(name, _)| name == "vary");
    vary.clone()
        .any(|(_, value)| value.to_ascii_lowercase().contains("origin"))
}

async fn with_origin(address: SocketAddr, method: &str, path: &str, origin: &str) -> Response {
    http::request(address, method, path, &[("Origin", origin)], b"").await
}

// === what operators see ===

#[tokio::test]
async fn metrics_move_and_name_nobody() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    ann.join("secret-user").await;
    let data = json!({"sender_id": "secret-user", "receiver_id": "secret-user", "conversation_id": "secret-talk", "text_content": "secret"});
    ann.emit_with_ack("chatMessage", data).await;
    ann.event_named("newMessage").await;
    ann.emit_with_ack("chatMessage", json!({})).await;
    history::whole(server.address, "secret-talk").await;
    http::get(server.address, "/secret-path")
        .await
        .expect_status(404);
    let answer = http::get(server.admin, "/metrics").await.expect_status(200);
    let text = answer.text();
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    for line in [
        "chat_messages_accepted_total 1",
        "chat_messages_refused_total{code=\"invalid\"} 1",
        "chat_websockets 1",
        "chat_messages_delivered_total 1",
        "chat_pushes_total 1",
        "chat_rooms 1",
        "chat_lane_messages 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let ready = http::get(server.admin, "/health/ready")
        .await
        .expect_status(200)
        .json();
    for name in ["log", "store", "uploads", "server"] {
        assert_eq!(ready[name], "ok", "{ready}");
    }
    let health = http::get(server.address, "/health")
        .await
        .expect_status(200)
        .json();
    assert_eq!(health["status"], "ok");
}

#[tokio::test]
async fn errors_and_the_log_hold_nothing_that_clients_sent_raw() {
    let server = Server::start(&[("LOG_LEVEL", "debug")]).await;
    for path in [
        "/api/chat/messages/x?before=zz%0Aforged",
        "/uploads/..%2f%1b[31m",
        "/%1b]0;x%07",
        "/api/chat/messages/%ff",
    ] {
        let answer = http::get(server.address, path).await;
        let text = answer.text();
        assert!((400..500).contains(&answer.status));
        for word in [
            "src/", ".rs", "/root", "/tmp", "os error", "serde", "panicked", "forged",
        ] {
            assert!(!text.contains(word), "{text}");
        }
    }
    assert!(!server.output().contains('\u{1b}') || !server.output().contains("\u{1b}]0;x"));
}

fn assert_error(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(
        answer.json()["error"]["code"].is_string() && answer.json()["error"]["message"].is_string()
    );
}
