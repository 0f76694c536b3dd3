//! The first request of a client of revision 3, and which revisions there are.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http;
use crate::support::server::Server;
use crate::support::websocket::WebSocket;
use crate::{Poll, SOCKETS, TEXT, assert_refused, payload, sid, websocket};

#[tokio::test]
async fn the_open_packet_and_an_unasked_connect_come_in_one_answer() {
    let server = Server::start(&[]).await;
    let (poll, answer) = Poll::open(server.address, SOCKETS).await;
    assert_eq!(answer.header("content-type"), Some(TEXT));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
    let text = answer.text();
    let (units, rest) = text.split_once(':').unwrap();
    let open = rest
        .strip_suffix("2:40")
        .expect("`40` behind the open packet");
    assert_eq!(units, open.len().to_string());
    let mut open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    assert_eq!(open["sid"].take(), poll.sid);
    let expected = json!({
        "sid": null, "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 1_000_000,
    });
    assert_eq!(open, expected);
}

#[tokio::test]
async fn a_websocket_gets_the_open_packet_without_upgrades_and_an_unasked_connect() {
    let server = Server::start(&[]).await;
    let path = format!("{SOCKETS}&transport=websocket");
    let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
    let open = socket.text().await;
    assert!(open.contains(r#""upgrades":[],"#), "{open}");
    assert_eq!(socket.text().await, "40");
}

#[tokio::test]
async fn a_revision_4_client_is_not_connected_unasked() {
    let server = Server::start(&[]).await;
    let (_, answer) = Poll::open(server.address, "/socket.io/?EIO=4").await;
    assert!(answer.text().ends_with('}'), "{}", answer.text());
    let mut client = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    assert_eq!(client.connect("/").await["sid"].as_str().unwrap().len(), 20);
}

#[tokio::test]
async fn revisions_are_exactly_three_and_four() {
    let server = Server::start(&[]).await;
    for eio in [
        "",
        "EIO",
        "EIO=",
        "EIO=2",
        "EIO=5",
        "EIO=44",
        "EIO=33",
        "EIO=03",
        "EIO=3.0",
        "EIO=bogus",
        "EIO=%203",
        "eio=4",
    ] {
        let path = format!("/socket.io/?{eio}&transport=polling");
        let answer = http::get(server.address, &path).await;
        assert_refused(&answer, 5, "Unsupported protocol version");
        let path = format!("/socket.io/?{eio}&transport=websocket");
        let answer = WebSocket::open(server.address, &path, &[]).await;
        let answer = answer.expect_err(eio);
        assert_eq!(answer.status, 400);
        assert_eq!(answer.text(), "Unsupported protocol version");
    }
    for eio in ["3", "4"] {
        let path = format!("/socket.io/?transport=polling&EIO={eio}&t=x");
        http::get(server.address, &path).await.expect_status(200);
    }
}

#[tokio::test]
async fn revision_3_can_be_switched_off() {
    let server = Server::start(&[("ALLOW_EIO3", "false")]).await;
    let path = format!("{SOCKETS}&transport=polling");
    let answer = http::get(server.address, &path).await;
    assert_refused(&answer, 5, "Unsupported protocol version");
    let path = format!("{SOCKETS}&transport=websocket");
    let answer = WebSocket::open(server.address, &path, &[])
        .await
        .unwrap_err();
    assert_eq!(answer.text(), "Unsupported protocol version");
    Client::polling(server.address).await.join("ann").await;
}

#[tokio::test]
async fn the_revision_of_the_handshake_counts_and_not_that_of_later_requests() {
    let server = Server::start(&[]).await;
    let (mut poll, _) = Poll::open(server.address, SOCKETS).await;
    for start in ["/socket.io/?EIO=4", "/socket.io/?", "/socket.io/?EIO=9"] {
        poll.start = start.into();
        poll.send(payload(&["421[\"joinRoom\",\"ann\"]"])).await;
        assert_eq!(poll.text().await, payload(&["431[{\"status\":\"ok\"}]"]));
    }
}

#[tokio::test]
async fn both_revisions_chat_with_each_other() {
    let server = Server::start(&[]).await;
    let (mut old, id) = websocket(server.address, SOCKETS).await;
    assert_eq!(id.len(), 20);
    assert_eq!(old.text().await, "40");
    old.send_text("421[\"joinRoom\",\"old\"]").await.unwrap();
    assert_eq!(old.text().await, "431[{\"status\":\"ok\"}]");
    let mut new = Client::polling(server.address).await;
    let draft = json!({
        "conversation_id": "c", "sender_id": "new", "receiver_id": "old", "text_content": "hello €😀",
    });
    new.emit_with_ack("chatMessage", draft).await;
    let heard = old.text().await;
    let message = heard.strip_prefix("42").expect("an event");
    let message: Value = serde_json::from_str(message).unwrap();
    assert_eq!(message[0], "newMessage");
    assert_eq!(message[1]["text_content"], "hello €😀");
}

#[tokio::test]
async fn websocket_handshakes_of_two_sessions_have_nothing_in_common() {
    let server = Server::start(&[]).await;
    let (_, first) = Poll::open(server.address, SOCKETS).await;
    let (_, second) = Poll::open(server.address, SOCKETS).await;
    let (first, second) = (sid(&first.text()), sid(&second.text()));
    assert_ne!(first[..8], second[..8]);
    assert_ne!(first[12..], second[12..]);
}

#[tokio::test]
async fn a_transport_and_its_headers_belong_together() {
    let server = Server::start(&[]).await;
    for start in [SOCKETS, "/socket.io/?EIO=4"] {
        let (poll, _) = Poll::open(server.address, start).await;
        for path in [format!("{start}&transport=polling"), poll.path()] {
            let answer = WebSocket::open(server.address, &path, &[]).await;
            let answer = answer.expect_err("a refusal");
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (400, "Bad request")
            );
        }
        let path = format!("{start}&transport=websocket");
        assert_refused(&http::get(server.address, &path).await, 3, "Bad request");
        assert!(poll.is_known().await);
    }
}
