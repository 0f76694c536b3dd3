//! Many at once: abrupt ends, half-open connections, floods of handshakes, and the limit of connections.

use std::time::Duration;

use crate::ENGINE;
use crate::support::client::Client;
use crate::support::http::{self, Connection};
use crate::support::server::Server;
use crate::support::websocket::WebSocket;
use crate::support::within_for;
use crate::{metric, metric_becomes};

#[tokio::test]
async fn after_1_500_abrupt_ends_nothing_is_left_and_others_noticed_nothing() {
    let server = Server::start(&[]).await;
    let mut bystander = Client::websocket(server.address).await;
    bystander.join("ann").await;
    let before = descriptors(&server);
    for round in 0..15 {
        let mut open = Vec::new();
        for n in 0..100 {
            let mut client = Client::open_websocket(server.address, "", &[])
                .await
                .unwrap();
            if n % 3 > 0 {
                client.connect("/").await;
            }
            if n % 3 > 1 {
                client.join("ann").await;
            }
            open.push(client);
        }
        for mut client in open {
            // Without a FIN: what a phone out of reach looks like when its address is taken by another.
            client
                .websocket_transport()
                .stream()
                .set_zero_linger()
                .unwrap();
        }
        bystander.join(&format!("round-{round}")).await;
    }
    metric_becomes(&server, "chat_websockets", 1).await;
    descriptors_return(&server, before).await;
}

#[tokio::test]
async fn half_open_connections_are_cut_and_cost_nobody_anything() {
    let server = Server::start(&[("HEADER_TIMEOUT_MS", "1000")]).await;
    let before = descriptors(&server);
    let mut half_open = Vec::new();
    for n in 0..400 {
        let mut connection = Connection::open(server.address).await;
        match n % 4 {
            0 => {}
            1 => connection.send_bytes(b"G").await,
            2 => {
                connection
                    .send_bytes(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n")
                    .await
            }
            _ => {
                connection
                    .send_bytes(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le")
                    .await
            }
        }
        half_open.push(connection);
    }
    let mut client = Client::polling(server.address).await;
    client.upgrade().await;
    client.join("ann").await;
    for mut connection in half_open {
        connection.closed().await;
    }
    drop(client);
    metric_becomes(&server, "chat_connections", 1).await;
    descriptors_return(&server, before).await;
}

#[tokio::test]
async fn three_thousand_handshakes_are_taken() {
    let server = Server::start(&[]).await;
    let mut bystander = Client::websocket(server.address).await;
    let path = format!("{ENGINE}&transport=polling");
    let mut connection = Connection::open(server.address).await;
    for n in 0..3_000 {
        connection.send("GET", &path, &[], b"").await;
        connection.response("GET").await.expect_status(200);
        if n % 500 == 0 {
            bystander.join(&format!("room-{n}")).await;
        }
    }
}

#[tokio::test]
async fn connections_are_taken_up_to_the_limit_and_again_when_one_has_gone() {
    let server = Server::start(&[("CONNECTIONS_MAX", "8")]).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Client::websocket(server.address).await);
    }
    // One more is dropped at once, without an answer.
    assert!(
        http::raw(server.address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .is_none()
    );
    for client in &mut open {
        client.join("ann").await;
    }
    // The admin listener has a limit of its own.
    http::get(server.admin, "/health/ready")
        .await
        .expect_status(200);
    drop(open.pop());
    metric_becomes(&server, "chat_websockets", 7).await;
    let again = async {
        loop {
            let path = format!("{ENGINE}&transport=websocket");
            let mut connection = Connection::open(server.address).await;
            if connection.try_send("GET", &path, &[], b"").await.is_ok()
                && connection.next_response("GET").await.is_ok()
            {
                return;
            }
        }
    };
    within_for(Duration::from_secs(10), "a place to become free", again).await;
}

/// Between two polls a session needs no connection: one connection could begin any number of them.
#[tokio::test]
async fn sessions_begin_by_polling_up_to_the_limit_and_again_when_one_has_gone() {
    let server = Server::start(&[("CONNECTIONS_MAX", "8")]).await;
    let mut connection = Connection::open(server.address).await;
    let begin = format!("{ENGINE}&transport=polling");
    let mut sids = Vec::new();
    for _ in 0..8 {
        connection.send("GET", &begin, &[], b"").await;
        let text = connection.response("GET").await.expect_status(200).text();
        let open: serde_json::Value = serde_json::from_str(&text[1..]).unwrap();
        sids.push(open["sid"].as_str().unwrap().to_owned());
    }
    connection.send("GET", &begin, &[], b"").await;
    connection.response("GET").await.expect_status(503);
    assert_eq!(metric(&server, "chat_sessions_refused_total").await, 1);
    // Those that have begun go on, and websockets have the connections' limit.
    let poll = format!("{begin}&sid={}", sids[0]);
    connection.send("POST", &poll, &[], b"40").await;
    connection.response("POST").await.expect_status(200);
    Client::websocket(server.address).await.join("ann").await;
    metric_becomes(&server, "chat_websockets", 0).await;
    let last = format!("{begin}&sid={}", sids[7]);
    connection.send("POST", &last, &[], b"1").await;
    connection.response("POST").await.expect_status(200);
    connection.send("GET", &begin, &[], b"").await;
    connection.response("GET").await.expect_status(200);
}

#[tokio::test]
async fn a_websocket_keeps_its_place_for_as_long_as_it_lives() {
    let server = Server::start(&[("CONNECTIONS_MAX", "1")]).await;
    let path = format!("{ENGINE}&transport=websocket");
    let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
    assert!(socket.text().await.starts_with("0{"));
    for _ in 0..5 {
        assert!(
            http::raw(server.address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .is_none()
        );
    }
    socket.send_text("40").await.unwrap();
    assert!(socket.text().await.starts_with("40{"));
}

fn descriptors(server: &Server) -> usize {
    let folder = format!("/proc/{}/fd", server.pid());
    std::fs::read_dir(folder).unwrap().count()
}

/// Waits until as many descriptors are open as before; the journal may have opened a file meanwhile.
async fn descriptors_return(server: &Server, before: usize) {
    let returned = async {
        while descriptors(server) > before + 2 {
            tokio::task::yield_now().await;
        }
    };
    within_for(
        Duration::from_secs(30),
        "the descriptors to be given back",
        returned,
    )
    .await;
}
