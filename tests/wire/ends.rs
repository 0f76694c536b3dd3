//! How sessions end, as the operator reads it: each end is counted once, under its reason.

use crate::support::client::Client;
use crate::support::http::Connection;
use crate::support::server::Server;
use crate::support::websocket::{CLOSE, Frame};
use crate::{FAST, metric, metric_becomes, polling_path};

#[tokio::test]
async fn each_end_is_counted_under_its_reason() {
    let server = Server::start(&[("MAX_PAYLOAD", "1000")]).await;
    // Goodbyes: as a packet on either transport, as a frame, and as the end of the connection.
    for goodbye in [Some(Frame::text("1")), Some(Frame::new(CLOSE, [])), None] {
        let mut client = Client::websocket(server.address).await;
        if let Some(frame) = goodbye {
            client.websocket_transport().send(&frame).await.unwrap();
        }
    }
    let mut client = Client::polling(server.address).await;
    client.send_packet("1").await;
    let mut client = Client::polling(server.address).await;
    let mut get = Connection::open(server.address).await;
    get.send("GET", &polling_path(client.sid()), &[], b"").await;
    // Held, as the answer to a request behind it on the wire shows: one whose end comes with it is never begun.
    client.send_packet("6").await;
    drop(get);
    becomes(&server, "transport_close", 5).await;

    for packet in ["8", "", "42{}"] {
        let mut client = Client::websocket(server.address).await;
        client.send_packet(packet).await;
        let mut client = Client::polling(server.address).await;
        client.send_packet(packet).await;
    }
    // A frame that breaks the rules.
    let mut client = Client::websocket(server.address).await;
    let unmasked = Frame {
        mask: None,
        ..Frame::text("3")
    };
    client.websocket_transport().send(&unmasked).await.unwrap();
    becomes(&server, "parse_error", 7).await;

    let mut client = Client::websocket(server.address).await;
    client.send_packet(&"4".repeat(1001)).await;
    becomes(&server, "too_large", 1).await;

    let mut client = Client::polling(server.address).await;
    let mut get = Connection::open(server.address).await;
    get.send("GET", &polling_path(client.sid()), &[], b"").await;
    client.polling_transport().get().await;
    becomes(&server, "overlap", 1).await;

    let client = Client::polling(server.address).await;
    let mut post = Connection::open(server.address).await;
    let headers = [("Content-Length", "10"), ("Expect", "100-continue")];
    post.send("POST", &polling_path(client.sid()), &headers, b"")
        .await;
    // Begun, as this shows. It has no body, as the answer to a HEAD.
    post.response("HEAD").await.expect_status(100);
    drop(post);
    becomes(&server, "transport_error", 1).await;
    for (reason, count) in [("transport_close", 5), ("parse_error", 7), ("too_large", 1)] {
        assert_eq!(metric(&server, &name(reason)).await, count, "{reason}");
    }
}

#[tokio::test]
async fn who_is_silent_or_asks_for_no_namespace_is_counted_as_such() {
    let [interval, timeout] = FAST;
    let server = Server::start(&[interval, timeout, ("CONNECT_TIMEOUT_MS", "100")]).await;
    let _silent = Client::websocket(server.address).await;
    becomes(&server, "ping_timeout", 1).await;
    let _nowhere = Client::open_websocket(server.address, "", &[]).await;
    let _nowhere = Client::open_polling(server.address, "", &[]).await;
    becomes(&server, "connect_timeout", 2).await;
    assert_eq!(metric(&server, &name("ping_timeout")).await, 1);
}

async fn becomes(server: &Server, reason: &str, count: i64) {
    metric_becomes(server, &name(reason), count).await;
}

fn name(reason: &str) -> String {
    format!("chat_sessions_closed_total{{reason=\"{reason}\"}}")
}
