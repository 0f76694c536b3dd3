//! Clients that do not read, or not enough: they cost their bound, then their connection, and nobody else anything.

use serde_json::json;

use crate::support::client::Client;
use crate::support::http;
use crate::support::server::Server;
use crate::support::websocket::Frame;
use crate::support::within_for;
use crate::{FAST, draft, forgotten, metric, metric_becomes};

/// The smallest that the service takes, so that little has to be sent.
const OUTBOX: (&str, &str) = ("OUTBOX_BYTES_MAX", "65536");

#[tokio::test]
async fn a_websocket_that_does_not_read_is_closed_and_the_others_hear_all() {
    let server = Server::start(&[OUTBOX]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut quick = Client::websocket(server.address).await;
    quick.join("bob").await;
    // Not read from here on.
    let mut stalled = Client::websocket(server.address).await;
    stalled.join("bob").await;
    let before = resident_kib(&server);
    let text = "x".repeat(8_000);
    let mut sent = 0;
    // Beyond its bound the system's own buffers fill first, whose size is the system's affair.
    while metric(&server, "chat_sessions_closed_total{reason=\"slow\"}").await == 0 {
        for _ in 0..100 {
            let answer = ann.emit_with_ack("chatMessage", draft("ann", "bob", &text));
            let id = answer.await["message"]["_id"].clone();
            ann.event_named("messageSent").await;
            assert_eq!(quick.event_named("newMessage").await["_id"], id);
            sent += 1;
        }
        assert!(sent < 20_000, "never closed");
    }
    // Its descriptor too, although it reads nothing.
    metric_becomes(&server, "chat_websockets", 2).await;
    metric_becomes(&server, "chat_rooms", 1).await;
    let grown = resident_kib(&server).saturating_sub(before);
    println!("{sent} messages, {grown} KiB grown");
    // What was sent is in the log's tail and caches at most once, and a few times in passing.
    assert!(grown < 200 << 10, "{grown} KiB after {sent} messages");
    stalled.closed().await;
    quick.join("still here").await;
}

#[tokio::test]
async fn a_polling_client_that_stays_away_is_closed_with_its_bound() {
    let server = Server::start(&[OUTBOX]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    bob.join("bob").await;
    let text = "x".repeat(8_000);
    for _ in 0..10 {
        ann.emit_with_ack("chatMessage", draft("ann", "bob", &text))
            .await;
    }
    forgotten(server.address, bob.sid()).await;
    metric_becomes(&server, "chat_sessions_closed_total{reason=\"slow\"}", 1).await;
}

#[tokio::test]
async fn a_polling_client_that_comes_in_time_gets_all_of_it() {
    let server = Server::start(&[OUTBOX]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    bob.join("bob").await;
    let text = "x".repeat(8_000);
    for _ in 0..5 {
        for _ in 0..6 {
            ann.emit_with_ack("chatMessage", draft("ann", "bob", &text))
                .await;
        }
        for _ in 0..6 {
            bob.event_named("newMessage").await;
        }
    }
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_closed_with_bounded_memory() {
    let server = Server::start(&[OUTBOX]).await;
    let mut stalled = Client::websocket(server.address).await;
    let before = resident_kib(&server);
    let ask = "42123456789[\"joinRoom\",{}]";
    let flood = async {
        // Answers are larger than questions; pongs go another way and are bounded too.
        while stalled.try_send_packet(ask).await {
            let ping =
                crate::support::websocket::Frame::new(crate::support::websocket::PING, [b'p'; 125]);
            if stalled.websocket_transport().send(&ping).await.is_err() {
                break;
            }
        }
    };
    // Either it is closed, or it is not read any more: then its own writing stops.
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(5), flood).await;
    println!("closed: {}", stopped.is_ok());
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 20 << 10, "{grown} KiB");
    let mut other = Client::websocket(server.address).await;
    other.join("ann").await;
}

#[tokio::test]
async fn typing_is_dropped_under_pressure_and_messages_are_not() {
    let server = Server::start(&[OUTBOX]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    bob.join("bob").await;
    let typing = json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob"});
    for _ in 0..2_000 {
        ann.emit("typing", typing.clone()).await;
    }
    for n in 0..50 {
        ann.emit_with_ack("chatMessage", draft("ann", "bob", &n.to_string()))
            .await;
    }
    let dropped = metric(&server, "chat_typing_dropped_total").await;
    assert!(dropped > 1_000, "{dropped}");
    for n in 0..50 {
        assert_eq!(
            bob.event_named("newMessage").await["text_content"],
            n.to_string()
        );
    }
}

#[tokio::test]
async fn a_request_that_stands_still_is_cut() {
    let server = Server::start(&[
        ("BODY_IDLE_TIMEOUT_MS", "200"),
        ("HEADER_TIMEOUT_MS", "200"),
    ])
    .await;
    let client = Client::polling(server.address).await;
    let path = crate::polling_path(client.sid());
    let mut body = http::Connection::open(server.address).await;
    body.send("POST", &path, &[("Content-Length", "100")], b"42[")
        .await;
    let answer = within_for(
        crate::support::DEADLINE,
        "an answer or the end",
        body.next_response("POST"),
    );
    if let Ok(answer) = answer.await {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
    let mut head = http::Connection::open(server.address).await;
    head.send_bytes(b"GET /socket.io/?EIO=4 HTTP/1.1\r\nHost:")
        .await;
    head.closed().await;
}

#[tokio::test]
async fn messages_of_the_largest_size_reach_a_client_that_reads() {
    // The default bound has room for one such message only; a client may be owed four at a time.
    let server = Server::start(&[("OUTBOX_BYTES_MAX", "4194304")]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    ann.join("ann").await;
    let text = "x".repeat(999_000);
    for _ in 0..5 {
        // Its receipt, its acknowledgement and itself: three times the size, to one socket.
        let answer = ann
            .emit_with_ack("chatMessage", draft("ann", "ann", &text))
            .await;
        assert_eq!(answer["status"], "ok");
        ann.event_named("messageSent").await;
        ann.event_named("newMessage").await;
        for _ in 0..3 {
            ann.emit("chatMessage", draft("ann", "bob", &text)).await;
        }
        for _ in 0..3 {
            ann.event_named("messageSent").await;
            bob.event_named("newMessage").await;
        }
    }
}

#[tokio::test]
async fn a_message_that_is_never_finished_ends_with_the_heartbeat() {
    let server = Server::start(&FAST).await;
    let mut client = Client::websocket(server.address).await;
    let open = Frame {
        fin: false,
        ..Frame::text("42[")
    };
    let socket = client.websocket_transport();
    socket.send(&open).await.unwrap();
    // A pong cannot come inside of it: it would be a message in a message.
    assert_eq!(socket.closed().await, Some(1000));
    let mut client = Client::websocket(server.address).await;
    let socket = client.websocket_transport();
    socket
        .send_bytes(&Frame::text("42[").encode()[..7])
        .await
        .unwrap();
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn a_stalled_client_that_misses_its_heartbeat_is_let_go() {
    let server = Server::start(&FAST).await;
    let mut ann = Client::websocket(server.address).await;
    let mut stalled = Client::websocket(server.address).await;
    stalled.join("bob").await;
    let text = "x".repeat(100_000);
    // More than the system's buffers take, less than the outbox's bound: only the heartbeat can tell.
    while metric(&server, "chat_websockets").await > 1 {
        ann.emit_with_ack("chatMessage", draft("ann", "bob", &text))
            .await;
    }
    metric_becomes(&server, "chat_connections", 2).await;
}

#[tokio::test]
async fn half_a_million_packets_in_one_post_delay_nobody() {
    let server = Server::start(&[]).await;
    let mut other = Client::websocket(server.address).await;
    let mut client = Client::polling(server.address).await;
    let body = b"3\x1e".repeat(499_999);
    let flood = async {
        client
            .polling_transport()
            .post(&body[..999_997])
            .await
            .expect_status(200);
    };
    let served = async {
        for n in 0..100 {
            other.join(&format!("room-{n}")).await;
        }
    };
    tokio::join!(flood, served);
    client.join("ann").await;
}

/// Resident memory, as the system counts it.
fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .expect("VmRSS")
}
