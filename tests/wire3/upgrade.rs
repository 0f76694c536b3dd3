//! From polling to websocket in revision 3.

use crate::support::echo::Echo;
use crate::support::http;
use crate::support::server::Server;
use crate::support::websocket::{self, Frame, WebSocket};
use crate::{BARE, OCTETS, Poll, SOCKETS, assert_refused, expect};

#[tokio::test]
async fn a_held_poll_is_let_go_and_so_is_each_that_follows() {
    let echo = Echo::start(&[]);
    // Without an upgrade timeout of the server's in the way, and none of the grace's.
    let poll = Poll::bare(echo.address).await;
    let mut get = poll.hold().await;
    let mut socket = poll.probe("").await;
    assert_eq!(get.response("GET").await.text(), "1:6");
    for _ in 0..3 {
        assert_eq!(poll.text().await, "1:6");
    }
    socket.send_text("5").await.unwrap();
    socket.send_text("4a").await.unwrap();
    expect(&mut socket, &["4a"]).await;
}

#[tokio::test]
async fn what_is_posted_during_the_probe_comes_after_the_switch_and_in_order() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let mut socket = poll.probe("").await;
    poll.send("2:412:424:4€4a").await;
    poll.post_as(OCTETS, b"\x01\x03\xff\x04\x01\x02\x00\x02\xff45")
        .await
        .expect_status(200);
    socket.send_text("5").await.unwrap();
    socket.send_text("46").await.unwrap();
    expect(&mut socket, &["41", "42", "4€4a"]).await;
    assert_eq!(binary(&mut socket).await, [4, 1, 2]);
    expect(&mut socket, &["45", "46"]).await;
}

#[tokio::test]
async fn a_poll_during_the_probe_takes_what_waits() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let mut socket = poll.probe("").await;
    poll.send("2:41").await;
    assert_eq!(poll.text().await, "2:41");
    poll.send("2:42").await;
    socket.send_text("5").await.unwrap();
    expect(&mut socket, &["42"]).await;
}

#[tokio::test]
async fn a_burst_across_the_switch_is_neither_lost_nor_reordered() {
    let echo = Echo::start(&[]);
    for round in 0..20 {
        let poll = Poll::bare(echo.address).await;
        let packets: Vec<_> = (0..40).map(|n| format!("4{n}")).collect();
        let texts: Vec<_> = packets.iter().map(String::as_str).collect();
        let (before, after) = texts.split_at(round * 2);
        if !before.is_empty() {
            poll.send(crate::payload(before)).await;
        }
        let mut socket = poll.probe("").await;
        socket.send_text("5").await.unwrap();
        for text in after {
            socket.send_text(text).await.unwrap();
        }
        expect(&mut socket, &texts).await;
    }
}

#[tokio::test]
async fn after_the_switch_the_old_transport_is_refused_and_further_sockets_are_closed() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let mut socket = poll.probe("").await;
    socket.send_text("5").await.unwrap();
    socket.send_text("4a").await.unwrap();
    expect(&mut socket, &["4a"]).await;
    assert_refused(&poll.get().await, 3, "Bad request");
    assert_refused(&poll.post("2:4b").await, 3, "Bad request");
    let path = poll.path().replace("polling", "websocket");
    let mut second = WebSocket::open(echo.address, &path, &[]).await.unwrap();
    second.closed().await;
    socket.send_text("4c").await.unwrap();
    expect(&mut socket, &["4c"]).await;
}

#[tokio::test]
async fn base64_is_decided_anew_for_the_websocket() {
    let echo = Echo::start(&[]);
    for (polling, websocket, is_base64) in [
        ("", "", false),
        ("&b64=1", "", false),
        ("", "&b64=1", true),
        ("&b64=1", "&b64=1", true),
    ] {
        let (mut poll, _) = Poll::open(echo.address, &format!("{BARE}{polling}")).await;
        poll.start = BARE.into();
        let mut socket = poll.probe(websocket).await;
        socket.send_text("5").await.unwrap();
        let message = Frame::new(websocket::BINARY, vec![4, 1, 2, 3]);
        socket.send(&message).await.unwrap();
        match is_base64 {
            true => expect(&mut socket, &["b4AQID"]).await,
            false => assert_eq!(binary(&mut socket).await, [4, 1, 2, 3]),
        }
    }
}

#[tokio::test]
async fn a_failed_probe_leaves_polling_as_it_was() {
    let echo = Echo::start(&[]);
    for packet in ["2", "2wrong", "4a", "", "1"] {
        let poll = Poll::bare(echo.address).await;
        let path = poll.path().replace("polling", "websocket");
        let mut socket = WebSocket::open(echo.address, &path, &[]).await.unwrap();
        socket.send_text(packet).await.unwrap();
        socket.closed().await;
        poll.send("2:4a").await;
        assert_eq!(poll.text().await, "2:4a");
    }
    let poll = Poll::bare(echo.address).await;
    let mut socket = poll.probe("").await;
    let close = Frame::new(websocket::CLOSE, b"".to_vec());
    socket.send(&close).await.unwrap();
    socket.closed().await;
    poll.send("2:4a").await;
    assert_eq!(poll.text().await, "2:4a");
    // Held again: what the server brings is no noop.
    let mut get = poll.hold().await;
    poll.send("2:4b").await;
    assert_eq!(get.response("GET").await.text(), "2:4b");
    let mut socket = poll.probe("").await;
    socket.send_text("5").await.unwrap();
    socket.send_text("4c").await.unwrap();
    expect(&mut socket, &["4c"]).await;
}

#[tokio::test]
async fn a_probe_that_takes_too_long_is_closed_and_polling_goes_on() {
    let server = Server::start(&[("UPGRADE_TIMEOUT_MS", "100")]).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let mut socket = poll.probe("").await;
    socket.closed().await;
    poll.send("1:2").await;
    assert_eq!(poll.text().await, "1:3");
}

#[tokio::test]
async fn a_switch_without_a_probe_is_taken() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    poll.send("2:41").await;
    let path = poll.path().replace("polling", "websocket");
    let mut socket = WebSocket::open(echo.address, &path, &[]).await.unwrap();
    socket.send_text("5").await.unwrap();
    socket.send_text("42").await.unwrap();
    expect(&mut socket, &["41", "42"]).await;
}

#[tokio::test]
async fn a_websocket_for_a_session_that_is_unknown_is_refused() {
    let echo = Echo::start(&[]);
    let path = format!("{BARE}&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA");
    let refused = WebSocket::open(echo.address, &path, &[]).await;
    assert_eq!(refused.unwrap_err().text(), "Session ID unknown");
    let path = format!("{BARE}&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA");
    let refused = http::get(echo.address, &path).await;
    assert_refused(&refused, 1, "Session ID unknown");
}

/// The next frame, which must be binary.
async fn binary(socket: &mut WebSocket) -> Vec<u8> {
    let frame = socket.frame().await.expect("a binary message");
    assert_eq!(frame.opcode, websocket::BINARY, "{frame:?}");
    frame.payload
}
