//! The first request: what is checked, in which order, and what is answered.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{self, Connection};
use crate::support::server::Server;
use crate::support::websocket::{CLOSE, WebSocket};
use crate::{ENGINE, assert_refused, polling_path, websocket_path};

#[tokio::test]
async fn each_bad_request_is_refused_with_its_code_in_the_order_of_the_checks() {
    let server = Server::start(&[]).await;
    let unknown = "AAAAAAAAAAAAAAAAAAAA";
    let cases = [
        // Each line breaks what it is refused for, and most break something that is checked later.
        ("GET", "EIO=4".to_string(), 0),
        ("GET", "EIO=4&transport=".into(), 0),
        ("GET", "EIO=4&transport=webtransport".into(), 0),
        ("POST", format!("EIO=3&transport=Polling&sid={unknown}"), 0),
        (
            "GET",
            format!("EIO=9&transport=polling&sid={unknown}&j=0"),
            1,
        ),
        ("POST", format!("transport=polling&sid={unknown}"), 1),
        ("GET", format!("EIO=4&transport=websocket&sid={unknown}"), 1),
        ("GET", "EIO=4&transport=polling&sid=../../etc".into(), 1),
        ("GET", "EIO=4&transport=polling&sid=__proto__".into(), 1),
        ("POST", "EIO=3&transport=polling".into(), 2),
        ("PUT", "EIO=4&transport=polling".into(), 2),
        ("DELETE", "EIO=4&transport=websocket".into(), 2),
        ("GET", "EIO=3&transport=websocket".into(), 3),
        ("GET", "EIO=4&transport=websocket".into(), 3),
        ("GET", "transport=polling".into(), 5),
        ("GET", "EIO=&transport=polling".into(), 5),
        ("GET", "EIO=2&transport=polling".into(), 5),
        ("GET", "EIO=5&transport=polling".into(), 5),
        ("GET", "EIO=04&transport=polling".into(), 5),
        ("GET", "EIO=4.0&transport=polling".into(), 5),
        ("GET", "EIO=bogus&transport=polling".into(), 5),
    ];
    for (method, query, code) in cases {
        let path = format!("/socket.io/?{query}");
        let headers = [("Origin", "https://a.example")];
        let answer = http::request(server.address, method, &path, &headers, b"").await;
        println!("{method} {path}");
        assert_refused(&answer, code, MESSAGES[usize::from(code)]);
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://a.example"));
    }
}

#[tokio::test]
async fn an_origin_of_illegal_characters_is_looked_at_after_the_transport_and_before_the_sid() {
    let server = Server::start(&[]).await;
    let headers = [("Origin", "https://\u{e9}.example")];
    for (query, code) in [("transport=no", 0), ("transport=polling&sid=no&EIO=3", 3)] {
        let path = format!("/socket.io/?{query}");
        let answer = http::request(server.address, "GET", &path, &headers, b"").await;
        assert_refused(&answer, code, MESSAGES[usize::from(code)]);
    }
}

#[tokio::test]
async fn a_head_request_begins_no_session() {
    let server = Server::start(&[]).await;
    let path = format!("{ENGINE}&transport=polling");
    let answer = http::request(server.address, "HEAD", &path, &[], b"").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, ""));
}

#[tokio::test]
async fn a_websocket_handshake_is_refused_with_the_bare_message() {
    let server = Server::start(&[]).await;
    for (query, code) in [
        ("EIO=4&transport=no", 0),
        ("EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA", 1),
        ("EIO=5&transport=websocket", 5),
        ("transport=websocket", 5),
    ] {
        let path = format!("/socket.io/?{query}");
        let answer = WebSocket::open(server.address, &path, &[]).await.err();
        let answer = answer.expect("a refusal");
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.text(), MESSAGES[code], "{query}");
        assert_eq!(answer.header("content-type"), Some("text/html"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn opening_by_polling_answers_the_five_keys_and_is_not_to_be_kept() {
    let server = Server::start(&[("MAX_PAYLOAD", "12345"), ("PING_TIMEOUT_MS", "4321")]).await;
    let path = format!("{ENGINE}&transport=polling&t=x1&token=of-the-app");
    let answer = http::get(server.address, &path).await.expect_status(200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=UTF-8")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let text = answer.text();
    let mut open: Value = serde_json::from_str(text.strip_prefix('0').unwrap()).unwrap();
    let sid = open["sid"].take();
    assert_secret(sid.as_str().unwrap());
    let expected = json!({
        "sid": null, "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 4_321, "maxPayload": 12_345,
    });
    assert_eq!(open, expected);
}

#[tokio::test]
async fn opening_by_websocket_offers_no_upgrade() {
    let server = Server::start(&[]).await;
    let mut client = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    assert_secret(client.sid());
    client.open["sid"].take();
    let expected = json!({
        "sid": null, "upgrades": [], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 1_000_000,
    });
    assert_eq!(client.open, expected);
}

#[tokio::test]
async fn the_public_id_does_not_tell_the_secret_one() {
    let server = Server::start(&[]).await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let mut client = Client::open_polling(server.address, "", &[]).await.unwrap();
        let id = client.connect("/").await;
        let id = id["sid"].as_str().unwrap();
        assert_secret(id);
        // No counter either: neither the beginning nor the end of two of them is the same.
        for text in [client.sid(), id] {
            assert!(seen.insert(text[..8].to_string()), "{text}");
            assert!(seen.insert(text[12..].to_string()), "{text}");
        }
    }
}

#[tokio::test]
async fn the_path_is_a_prefix_with_its_slash() {
    let server = Server::start(&[]).await;
    for (path, status) in [
        ("/socket.io/?EIO=4&transport=polling", 200),
        ("/socket.io/anything/else?transport=polling&EIO=4", 200),
        ("/socket.io?EIO=4&transport=polling", 404),
        ("/socket.iox/?EIO=4&transport=polling", 404),
        ("/x/socket.io/?EIO=4&transport=polling", 404),
    ] {
        http::get(server.address, path).await.expect_status(status);
    }
    let server = Server::start(&[("SOCKET_PATH", "/chat/live/")]).await;
    for (path, status) in [("/chat/live/", 200), ("/socket.io/", 404)] {
        let path = format!("{path}?EIO=4&transport=polling");
        http::get(server.address, &path).await.expect_status(status);
    }
}

#[tokio::test]
async fn listed_origins_are_reflected_with_credentials_and_others_get_nothing() {
    let server = Server::start(&[("CORS_ORIGINS", "https://a.example,http://b.example")]).await;
    let polling = format!("{ENGINE}&transport=polling");
    let websocket = format!("{ENGINE}&transport=websocket");
    for (origin, good) in [
        ("http://b.example", true),
        ("https://b.example", false),
        ("null", false),
    ] {
        let headers = [("Origin", origin)];
        let answer = http::request(server.address, "GET", &polling, &headers, b"").await;
        let allowed = answer.header("access-control-allow-origin");
        let opened = WebSocket::open(server.address, &websocket, &headers).await;
        if good {
            assert_eq!((answer.status, allowed), (200, Some(origin)));
            let credentials = answer.header("access-control-allow-credentials");
            assert_eq!(credentials, Some("true"));
            assert!(opened.is_ok());
        } else {
            assert_eq!((answer.status, allowed), (403, None), "{origin}");
            assert_eq!(answer.json(), json!({"code": 4, "message": "Forbidden"}));
            let refusal = opened.unwrap_err();
            assert_eq!(
                (refusal.status, refusal.text().as_str()),
                (400, "Forbidden")
            );
        }
    }
    http::get(server.address, &polling).await.expect_status(200);
}

#[tokio::test]
async fn a_preflight_is_answered_before_anything_is_checked() {
    let server = Server::start(&[]).await;
    let headers = [
        ("Origin", "https://a.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-token"),
    ];
    let path = format!("{ENGINE}&transport=polling");
    let answer = http::request(server.address, "OPTIONS", &path, &headers, b"").await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://a.example"));
    let allowed = answer.header("access-control-allow-headers");
    assert_eq!(allowed, Some("x-token"));
}

#[tokio::test]
async fn a_websocket_handshake_is_read_as_the_standard_has_it() {
    let server = Server::start(&[]).await;
    let path = format!("{ENGINE}&transport=websocket");
    for headers in [
        &[
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "WebSocket"),
        ][..],
        &[("Connection", "upgrade"), ("Upgrade", "h2c, websocket")],
        &[("Connection", "keep-alive"), ("connection", "UPGRADE")],
        &[("Sec-WebSocket-Extensions", "permessage-deflate")],
        &[("Sec-WebSocket-Protocol", "chat, superchat")],
    ] {
        let opened = WebSocket::open(server.address, &path, headers).await;
        let mut socket = opened.unwrap_or_else(|answer| panic!("{headers:?}: {answer:?}"));
        assert!(socket.text().await.starts_with("0{"));
    }
    for (headers, status) in [
        (&[("Sec-WebSocket-Version", "12")][..], 426),
        (&[("Sec-WebSocket-Version", "")], 426),
        (&[("Sec-WebSocket-Key", "")], 400),
        (&[("Sec-WebSocket-Key", "c2hvcnQ=")], 400),
        (&[("Connection", "keep-alive")], 400),
        (&[("Upgrade", "websockets")], 400),
    ] {
        let answer = WebSocket::open(server.address, &path, headers).await;
        let answer = answer.expect_err("a refusal");
        assert_eq!(answer.status, status, "{headers:?}");
        let version = answer.header("sec-websocket-version");
        assert_eq!(version, (status == 426).then_some("13"));
    }
}

#[tokio::test]
async fn a_websocket_is_accepted_with_its_key_the_first_protocol_and_no_extension() {
    let server = Server::start(&[]).await;
    for (offered, chosen) in [
        (None, None),
        (Some("chat"), Some("chat")),
        (Some(" chat.v2 ,superchat"), Some("chat.v2")),
        (Some("a b"), None),
        (Some(",chat"), None),
        (Some("\u{e9}"), None),
    ] {
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            // The standard's own example.
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            (
                "Sec-WebSocket-Extensions",
                "permessage-deflate; client_max_window_bits",
            ),
        ];
        headers.extend(offered.map(|offered| ("Sec-WebSocket-Protocol", offered)));
        let path = format!("{ENGINE}&transport=websocket");
        let mut connection = Connection::open(server.address).await;
        connection.send("GET", &path, &headers, b"").await;
        let answer = connection.response("GET").await.expect_status(101);
        let accepted = answer.header("sec-websocket-accept");
        assert_eq!(accepted, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(
            answer.header("sec-websocket-protocol"),
            chosen,
            "{offered:?}"
        );
        assert_eq!(answer.header("sec-websocket-extensions"), None);
    }
}

#[tokio::test]
async fn the_first_packet_of_a_websocket_leaves_in_the_write_of_the_handshakes_answer() {
    let server = Server::start(&[]).await;
    let mut connection = Connection::open(server.address).await;
    let handshake = format!(
        "GET {ENGINE}&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    connection.send_bytes(handshake.as_bytes()).await;
    connection.response("GET").await.expect_status(101);
    let (stream, mut packet) = connection.into_parts();
    // Without waiting: what came with the answer's head is there already.
    let (mut stream, mut rest) = (stream.into_std().unwrap(), [0; 1024]);
    let read = std::io::Read::read(&mut stream, &mut rest).unwrap_or(0);
    packet.extend_from_slice(&rest[..read]);
    let packet = String::from_utf8_lossy(&packet);
    assert!(packet.contains("0{\"sid\":"), "{packet:?}");
}

#[tokio::test]
async fn only_a_get_of_http_1_1_becomes_a_websocket() {
    let server = Server::start(&[]).await;
    let client = Client::polling(server.address).await;
    let head = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for start in [
        format!(
            "POST {} HTTP/1.1\r\nContent-Length: 0\r\n",
            websocket_path(client.sid())
        ),
        format!("GET {} HTTP/1.0\r\n", websocket_path(client.sid())),
        format!("GET {ENGINE}&transport=websocket HTTP/1.0\r\n"),
    ] {
        let answer = http::raw(server.address, format!("{start}{head}\r\n").as_bytes()).await;
        assert_eq!(answer.map(|answer| answer.status), Some(400), "{start}");
    }
    // Without a key at all.
    let mut connection = Connection::open(server.address).await;
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
    ];
    let path = format!("{ENGINE}&transport=websocket");
    connection.send("GET", &path, &headers, b"").await;
    connection.response("GET").await.expect_status(400);
}

#[tokio::test]
async fn a_session_born_on_a_websocket_has_no_other_side() {
    let server = Server::start(&[]).await;
    let mut owner = Client::websocket(server.address).await;
    let polling = polling_path(owner.sid());
    for method in ["GET", "POST", "PUT"] {
        let answer = http::request(server.address, method, &polling, &[], b"1").await;
        assert_refused(&answer, 3, "Bad request");
    }
    let second = WebSocket::open(server.address, &websocket_path(owner.sid()), &[]).await;
    let frame = second.expect("it opens").frame().await;
    assert_eq!(frame.expect("a close frame").opcode, CLOSE);
    owner.join("ann").await;
}

/// By code.
const MESSAGES: [&str; 6] = [
    "Transport unknown",
    "Session ID unknown",
    "Bad handshake method",
    "Bad request",
    "Forbidden",
    "Unsupported protocol version",
];

fn assert_secret(id: &str) {
    let is_url_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    assert!(id.len() == 20 && id.chars().all(is_url_safe), "{id}");
}
