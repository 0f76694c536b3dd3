//! The heartbeat of revision 3, which is the client's: pings are answered, and silence ends the session.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::echo::Echo;
use crate::support::server::Server;
use crate::support::websocket::{BINARY, Frame};
use crate::{BARE, FAST, Poll, SOCKETS, assert_refused, expect, websocket};

/// Interval and timeout together.
const SILENCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_ping_is_answered_without_its_data_unless_it_probes() {
    let server = Server::start(&[]).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let (mut socket, _) = websocket(server.address, SOCKETS).await;
    expect(&mut socket, &["40"]).await;
    for (ping, pong, payload) in [
        ("2", "3", "1:3"),
        ("2hello", "3", "1:3"),
        ("2probe", "3probe", "6:3probe"),
        ("2probes", "3", "1:3"),
        ("2€", "3", "1:3"),
    ] {
        poll.send(crate::payload(&[ping])).await;
        assert_eq!(poll.text().await, payload);
        socket.send_text(ping).await.unwrap();
        expect(&mut socket, &[pong]).await;
    }
}

#[tokio::test]
async fn a_silent_client_is_closed_when_interval_and_timeout_have_passed() {
    let server = Server::start(&FAST).await;
    let before = Instant::now();
    let (mut socket, _) = websocket(server.address, SOCKETS).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let opened = Instant::now();
    let told = async {
        // Not pinged: that is the client's part.
        expect(&mut socket, &["40"]).await;
        assert_eq!(socket.closed().await, Some(1000));
        assert!(before.elapsed() >= SILENCE, "closed too early");
    };
    let refused = async {
        // This is the protocol's own deadline, and a request right after it must see it.
        tokio::time::sleep_until(opened + SILENCE).await;
        assert_refused(&poll.get().await, 1, "Session ID unknown");
    };
    tokio::join!(told, refused);
}

#[tokio::test]
async fn a_held_poll_of_a_silent_client_is_told_the_end() {
    let server = Server::start(&FAST).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    assert_eq!(poll.text().await, "1:1");
}

#[tokio::test]
async fn a_client_that_pings_stays() {
    let server = Server::start(&FAST).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let (mut socket, _) = websocket(server.address, SOCKETS).await;
    expect(&mut socket, &["40"]).await;
    // The protocol's own interval, which is what clients wait for.
    let mut interval = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..5 {
        interval.tick().await;
        poll.send("1:2").await;
        assert_eq!(poll.text().await, "1:3");
        socket.send_text("2").await.unwrap();
        expect(&mut socket, &["3"]).await;
    }
    assert!(poll.is_known().await);
}

#[tokio::test]
async fn whatever_a_client_sends_shows_that_it_is_there() {
    let echo = Echo::start(&["--ping-interval-ms", "300", "--ping-timeout-ms", "200"]);
    let poll = Poll::bare(echo.address).await;
    let (mut socket, _) = websocket(echo.address, BARE).await;
    let mut interval = tokio::time::interval(Duration::from_millis(300));
    for n in 0..5 {
        interval.tick().await;
        poll.send("2:4a").await;
        assert_eq!(poll.text().await, "2:4a");
        match n % 2 {
            0 => socket.send_text("6").await.unwrap(),
            _ => {
                let message = Frame::new(BINARY, vec![4, 1]);
                socket.send(&message).await.unwrap();
                assert_eq!(
                    socket.frame().await,
                    Some(Frame {
                        mask: None,
                        ..message
                    })
                );
            }
        }
    }
    assert!(poll.is_known().await);
    // Silent from here on.
    assert_eq!(socket.closed().await, Some(1000));
    poll.forgotten().await;
}

#[tokio::test]
async fn the_heartbeat_goes_on_across_the_upgrade_and_is_neither_lost_nor_doubled() {
    let server = Server::start(&FAST).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    poll.send("1:2").await;
    assert_eq!(poll.text().await, "1:3");
    let mut socket = poll.probe("").await;
    socket.send_text("5").await.unwrap();
    let mut interval = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..4 {
        interval.tick().await;
        socket.send_text("2").await.unwrap();
        expect(&mut socket, &["3"]).await;
    }
    // Silent from here on.
    let silent = Instant::now();
    assert_eq!(socket.closed().await, Some(1000));
    assert!(silent.elapsed() <= SILENCE + crate::support::DEADLINE / 2);
    assert!(!poll.is_known().await);
}

#[tokio::test]
async fn a_probe_does_not_keep_a_silent_session() {
    let server = Server::start(&FAST).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let mut socket = poll.probe("").await;
    poll.forgotten().await;
    socket.send_text("5").await.ok();
    socket.closed().await;
    assert!(!poll.is_known().await);
}
