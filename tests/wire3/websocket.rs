//! Websockets of revision 3: one packet a message, binary ones with their type in front.

use crate::support::echo::Echo;
use crate::support::http;
use crate::support::websocket::{self, Frame, WebSocket};
use crate::{BARE, expect, websocket as opened};

#[tokio::test]
async fn a_binary_message_has_the_number_of_its_type_in_front() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = opened(echo.address, BARE).await;
    for message in [&[4][..], &[4, 0, 255], &[4; 200], &[4; 70_000]] {
        comes_back(&mut socket, message).await;
    }
}

#[tokio::test]
async fn revision_4_has_no_type_in_front() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = opened(echo.address, "/engine.io/?EIO=4&b64=1").await;
    for message in [&[][..], &[4], &[0, 255]] {
        comes_back(&mut socket, message).await;
    }
}

#[tokio::test]
async fn a_websocket_with_b64_gets_base64_and_may_send_either() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = opened(echo.address, &format!("{BARE}&b64=1")).await;
    send(&mut socket, &[4, 1, 2, 3]).await;
    socket.send_text("b4AQIDBA==").await.unwrap();
    socket.send_text("4€😀").await.unwrap();
    expect(&mut socket, &["b4AQID", "b4AQIDBA==", "4€😀"]).await;
}

#[tokio::test]
async fn base64_in_a_text_is_taken_without_b64_too() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = opened(echo.address, BARE).await;
    socket.send_text("b4AQID").await.unwrap();
    assert_eq!(socket.frame().await.unwrap().payload, [4, 1, 2, 3]);
}

#[tokio::test]
async fn what_is_no_packet_ends_the_connection() {
    let echo = Echo::start(&[]);
    for message in [
        Frame::text(""),
        Frame::text("0"),
        Frame::text("5"),
        Frame::text("7"),
        Frame::text("x"),
        Frame::text("bAQID"),
        Frame::text("b3AQID"),
        Frame::text("b4*"),
        Frame::text("b"),
        Frame::new(websocket::BINARY, b"".to_vec()),
        Frame::new(websocket::BINARY, b"4a".to_vec()),
        Frame::new(websocket::BINARY, vec![2]),
        Frame::new(websocket::BINARY, vec![0, 1]),
    ] {
        let (mut socket, sid) = opened(echo.address, BARE).await;
        socket.send(&message).await.unwrap();
        assert_eq!(socket.closed().await, Some(1000), "{message:?}");
        let path = format!("{BARE}&transport=polling&sid={sid}");
        http::get(echo.address, &path).await.expect_status(400);
    }
}

#[tokio::test]
async fn a_client_that_says_goodbye_is_closed_at_once() {
    let echo = Echo::start(&[]);
    for start in [BARE, "/engine.io/?EIO=4"] {
        let (mut socket, _) = opened(echo.address, start).await;
        socket.send_text("4a").await.unwrap();
        expect(&mut socket, &["4a"]).await;
        socket.send_text("1").await.unwrap();
        assert_eq!(socket.closed().await, Some(1000));
    }
}

#[tokio::test]
async fn noops_and_answers_to_no_ping_are_survived() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = opened(echo.address, BARE).await;
    for packet in ["6", "3", "3probe", "4"] {
        socket.send_text(packet).await.unwrap();
    }
    expect(&mut socket, &["4"]).await;
}

async fn send(socket: &mut WebSocket, message: &[u8]) {
    let frame = Frame::new(websocket::BINARY, message.to_vec());
    socket.send(&frame).await.unwrap();
}

async fn comes_back(socket: &mut WebSocket, message: &[u8]) {
    send(socket, message).await;
    let back = socket.frame().await.unwrap();
    assert_eq!(
        (back.opcode, &back.payload[..]),
        (websocket::BINARY, message)
    );
}
