//! The options that change what is served: transports, upgrades, the cookie, the client's files.

use serde_json::Value;

use crate::support::client::Client;
use crate::support::http;
use crate::support::server::Server;
use crate::support::websocket::WebSocket;
use crate::{Poll, SOCKETS, assert_refused};

const SOCKETS_4: &str = "/socket.io/?EIO=4";

#[tokio::test]
async fn websocket_may_be_the_only_transport() {
    let server = Server::start(&[("TRANSPORTS", "websocket")]).await;
    for start in [SOCKETS, SOCKETS_4] {
        let path = format!("{start}&transport=polling");
        assert_refused(
            &http::get(server.address, &path).await,
            0,
            "Transport unknown",
        );
    }
    let mut client = Client::websocket(server.address).await;
    assert_eq!(client.open["upgrades"], Value::Array(vec![]));
    client.join("ann").await;
}

#[tokio::test]
async fn polling_may_be_the_only_transport() {
    let server = Server::start(&[("TRANSPORTS", "polling")]).await;
    let mut client = Client::polling(server.address).await;
    assert_eq!(client.open["upgrades"], Value::Array(vec![]));
    for query in ["".to_string(), format!("&sid={}", client.sid())] {
        let path = format!("{SOCKETS_4}&transport=websocket{query}");
        let refused = WebSocket::open(server.address, &path, &[])
            .await
            .unwrap_err();
        assert_eq!(
            (refused.status, refused.text().as_str()),
            (400, "Transport unknown")
        );
    }
    client.join("ann").await;
}

#[tokio::test]
async fn upgrades_may_be_refused_with_both_transports_on() {
    let server = Server::start(&[("ALLOW_UPGRADES", "false")]).await;
    let mut client = Client::polling(server.address).await;
    assert_eq!(client.open["upgrades"], Value::Array(vec![]));
    let path = format!("{SOCKETS_4}&transport=websocket&sid={}", client.sid());
    let refused = WebSocket::open(server.address, &path, &[])
        .await
        .unwrap_err();
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (400, "Bad request")
    );
    client.join("ann").await;
    Client::websocket(server.address).await.join("bob").await;
}

#[tokio::test]
async fn the_cookie_is_on_the_first_polling_answer_and_nowhere_else() {
    let server = Server::start(&[("COOKIE", "io")]).await;
    for start in [SOCKETS, SOCKETS_4] {
        let (poll, answer) = Poll::open(server.address, start).await;
        let cookie = format!("io={}; Path=/; HttpOnly; SameSite=Lax", poll.sid);
        let cookies: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie")
            .collect();
        assert_eq!(cookies, [&("set-cookie".to_string(), cookie)]);
        let second = if start == SOCKETS { "1:2" } else { "40" };
        let posted = poll.post(second).await.expect_status(200);
        let polled = poll.get().await.expect_status(200);
        for answer in [posted, polled] {
            assert_eq!(answer.header("set-cookie"), None);
        }
        let path = format!("{start}&transport=polling&sid=x");
        assert_eq!(
            http::get(server.address, &path).await.header("set-cookie"),
            None
        );
    }
    // Nor on a websocket's handshake, whose head is not kept by the client of these tests.
    let head = format!(
        "GET {SOCKETS_4}&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answer = http::raw(server.address, head.as_bytes()).await.unwrap();
    assert_eq!((answer.status, answer.header("set-cookie")), (101, None));
}

#[tokio::test]
async fn the_clients_files_are_served_below_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let script = "/* client */".repeat(200);
    std::fs::write(folder.path().join("socket.io.js"), &script).unwrap();
    std::fs::write(folder.path().join("socket.io.min.js.map"), "{}").unwrap();
    std::fs::write(folder.path().join("secret.js"), "no").unwrap();
    let client = folder.path().to_str().unwrap();
    let server = Server::start(&[("SERVE_CLIENT", client)]).await;
    let path = "/socket.io/socket.io.js";
    let answer = http::get(server.address, path).await.expect_status(200);
    assert_eq!(answer.text(), script);
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("text/javascript; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=0"));
    let tag = answer.header("etag").expect("a tag").to_string();
    let map = http::get(server.address, "/socket.io/socket.io.min.js.map?v=1").await;
    assert_eq!(map.header("content-type"), Some("application/json"));
    for (tags, status) in [(tag.as_str(), 304), ("\"other\"", 200), ("*", 304)] {
        let headers = [("If-None-Match", tags)];
        let answer = http::request(server.address, "GET", path, &headers, b"").await;
        assert_eq!(
            (answer.status, answer.header("etag")),
            (status, Some(tag.as_str()))
        );
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    let head = http::request(server.address, "HEAD", path, &[], b"").await;
    assert_eq!(head.status, 200);
    let length = script.len().to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    // All else is the handshake's affair.
    for path in [
        "/socket.io/secret.js",
        "/socket.io/socket.io.min.js",
        "/socket.io/../socket.io.js",
        "/socket.io/socket.io.js/",
        "/socket.io/%73ocket.io.js",
    ] {
        assert_refused(
            &http::get(server.address, path).await,
            0,
            "Transport unknown",
        );
    }
    let posted = http::request(server.address, "POST", path, &[], b"").await;
    assert_refused(&posted, 0, "Transport unknown");
}

#[tokio::test]
async fn no_files_are_served_unless_a_folder_is_named() {
    let server = Server::start(&[]).await;
    let answer = http::get(server.address, "/socket.io/socket.io.js").await;
    assert_refused(&answer, 0, "Transport unknown");
}
