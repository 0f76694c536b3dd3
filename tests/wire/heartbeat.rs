//! Pings, pongs and deadlines, at 300 ms and 200 ms.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::Client;
use crate::support::packet::Packet;
use crate::support::server::Server;
use crate::support::{http, within};
use crate::{FAST, assert_refused, forgotten, is_known, polling_path};

/// Both deadlines together.
const DEADLINE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_client_that_answers_stays() {
    let server = Server::start(&FAST).await;
    let mut socket = Client::websocket(server.address).await;
    let mut polling = Client::polling(server.address).await;
    for client in [&mut socket, &mut polling] {
        client.answers_pings = false;
    }
    for _ in 0..4 {
        for client in [&mut socket, &mut polling] {
            assert_eq!(client.packet().await, ping());
            client.send_packet("3").await;
        }
    }
    socket.answers_pings = true;
    socket.join("ann").await;
    assert!(is_known(server.address, polling.sid()).await);
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_closed_when_both_deadlines_have_passed() {
    let server = Server::start(&FAST).await;
    let before = Instant::now();
    let mut socket = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    let polling = Client::open_polling(server.address, "", &[]).await.unwrap();
    let opened = Instant::now();
    socket.answers_pings = false;
    let told = async {
        assert_eq!(socket.packet().await, ping());
        assert_eq!(socket.packet().await, None);
        assert!(before.elapsed() >= DEADLINE, "closed too early");
    };
    let refused = async {
        // This is the protocol's own deadline, and a request right after it must see it.
        tokio::time::sleep_until(opened + DEADLINE).await;
        let answer = http::get(server.address, &polling_path(polling.sid())).await;
        assert_refused(&answer, 1, "Session ID unknown");
    };
    tokio::join!(told, refused);
}

#[tokio::test]
async fn a_held_poll_of_a_silent_client_is_told_the_end() {
    let server = Server::start(&FAST).await;
    let mut client = Client::open_polling(server.address, "", &[]).await.unwrap();
    let polling = client.polling_transport();
    assert_eq!(polling.get().await.text(), "2");
    assert_eq!(polling.get().await.text(), "1");
}

#[tokio::test]
async fn a_new_sessions_first_ping_leaves_it_the_time_to_answer() {
    for _ in 0..3 {
        // The first session of a server that has been idle: nothing else makes it look at its deadlines.
        let server =
            Server::start(&[("PING_INTERVAL_MS", "250"), ("PING_TIMEOUT_MS", "200")]).await;
        let mut client = Client::open_websocket(server.address, "", &[])
            .await
            .unwrap();
        client.answers_pings = false;
        for _ in 0..3 {
            assert_eq!(client.packet().await, ping());
            client.send_packet("3").await;
        }
    }
}

#[tokio::test]
async fn a_clients_own_ping_ends_its_session() {
    let server = Server::start(&[]).await;
    let mut socket = Client::websocket(server.address).await;
    socket.send_packet("2").await;
    assert_eq!(socket.websocket_transport().closed().await, Some(1000));
    let mut polling = Client::polling(server.address).await;
    polling.send_packet("2").await;
    forgotten(server.address, polling.sid()).await;
}

#[tokio::test]
async fn pongs_that_nobody_asked_for_are_harmless() {
    let server = Server::start(&[]).await;
    let mut socket = Client::websocket(server.address).await;
    let mut polling = Client::polling(server.address).await;
    for client in [&mut socket, &mut polling] {
        for pong in ["3", "3", "3probe"] {
            client.send_packet(pong).await;
        }
        client.join("ann").await;
    }
}

#[tokio::test]
async fn an_early_pong_does_not_answer_a_later_ping() {
    let server = Server::start(&FAST).await;
    let mut client = Client::websocket(server.address).await;
    client.answers_pings = false;
    client.send_packet("3").await;
    assert_eq!(client.packet().await, ping());
    assert_eq!(client.packet().await, None);
}

#[tokio::test]
async fn a_client_that_never_connects_to_a_namespace_is_closed() {
    // Long enough for a busy machine to connect in.
    let server = Server::start(&[("CONNECT_TIMEOUT_MS", "2000")]).await;
    let mut connected = Client::websocket(server.address).await;
    let mut socket = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    let polling = Client::open_polling(server.address, "", &[]).await.unwrap();
    // A refused namespace is none.
    socket.send_packet("40/none,").await;
    assert_eq!(
        socket.packet().await,
        Some(Packet::Text(
            "44/none,{\"message\":\"Invalid namespace\"}".into()
        ))
    );
    assert_eq!(
        within("the end of a silent client", socket.next_packet()).await,
        None
    );
    forgotten(server.address, polling.sid()).await;
    connected.join("ann").await;
    // Leaving does not start the time again.
    connected.send_packet("41").await;
    connected.connect("/").await;
}

fn ping() -> Option<Packet> {
    Some(Packet::Text("2".into()))
}
