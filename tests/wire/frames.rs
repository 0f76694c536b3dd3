//! RFC 6455 on the wire: what must be refused, and what must not.

use crate::ENGINE;
use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::websocket::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT, WebSocket};

/// A request whose answer shows that the connection goes on.
const ASK: &str = "421[\"joinRoom\",\"ann\"]";
const ANSWER: &str = "431[{\"status\":\"ok\"}]";

#[tokio::test]
async fn a_frame_that_breaks_a_rule_ends_the_connection_with_1002() {
    let server = Server::start(&[]).await;
    let whole = Frame::text("42[\"chatMessage\",{}]");
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = whole.clone();
        change(&mut frame);
        frame.encode()
    };
    let mut long_form = vec![0x81, 0x80 | 126, 0, 5, 0, 0, 0, 0];
    long_form.extend_from_slice(b"42[0]");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unmasked", with(&|f| f.mask = None)),
        ("RSV1", with(&|f| f.rsv = 0x40)),
        ("RSV2", with(&|f| f.rsv = 0x20)),
        ("RSV3", with(&|f| f.rsv = 0x10)),
        ("opcode 3", with(&|f| f.opcode = 3)),
        ("opcode 7", with(&|f| f.opcode = 7)),
        ("opcode 11", with(&|f| f.opcode = 11)),
        ("opcode 15", with(&|f| f.opcode = 15)),
        ("long ping", Frame::new(PING, vec![0; 126]).encode()),
        ("long pong", Frame::new(PONG, vec![0; 126]).encode()),
        (
            "long close",
            Frame::new(CLOSE, close(1000, &"x".repeat(124))).encode(),
        ),
        ("ping in fragments", part(PING, false, b"x")),
        ("close in fragments", part(CLOSE, false, b"")),
        ("continuation of nothing", part(CONTINUATION, true, b"x")),
        (
            "open continuation of nothing",
            part(CONTINUATION, false, b"x"),
        ),
        (
            "text in a message",
            two(part(TEXT, false, b"4"), part(TEXT, true, b"2[\"a\"]")),
        ),
        (
            "open text in a message",
            two(part(TEXT, false, b"4"), part(TEXT, false, b"2")),
        ),
        (
            "binary in a message",
            two(part(TEXT, false, b"4"), part(BINARY, true, b"2")),
        ),
        ("close of one byte", Frame::new(CLOSE, vec![3]).encode()),
        ("close with 999", Frame::new(CLOSE, close(999, "")).encode()),
        (
            "close with 1004",
            Frame::new(CLOSE, close(1004, "")).encode(),
        ),
        (
            "close with 1005",
            Frame::new(CLOSE, close(1005, "")).encode(),
        ),
        (
            "close with 1006",
            Frame::new(CLOSE, close(1006, "")).encode(),
        ),
        (
            "close with 1015",
            Frame::new(CLOSE, close(1015, "")).encode(),
        ),
        (
            "close with 2999",
            Frame::new(CLOSE, close(2999, "")).encode(),
        ),
        (
            "close with 5000",
            Frame::new(CLOSE, close(5000, "")).encode(),
        ),
        ("a length longer than needed", long_form),
    ];
    for (what, bytes) in cases {
        assert_eq!(ended_by(&server, &bytes).await, Some(1002), "{what}");
    }
}

#[tokio::test]
async fn text_that_is_not_unicode_ends_the_connection_with_1007() {
    let server = Server::start(&[]).await;
    let mut reason = close(1000, "");
    reason.push(0xff);
    for (what, bytes) in [
        ("whole", Frame::new(TEXT, b"42[\"\xff\"]".to_vec()).encode()),
        (
            "surrogate",
            Frame::new(TEXT, b"42[\"\xed\xa0\x80\"]".to_vec()).encode(),
        ),
        (
            "overlong",
            Frame::new(TEXT, b"42[\"\xc0\xaf\"]".to_vec()).encode(),
        ),
        (
            "cut at the end",
            two(
                part(TEXT, false, b"42\xe2"),
                part(CONTINUATION, true, b"\x82"),
            ),
        ),
        (
            "in an open message",
            two(part(TEXT, false, b"4"), part(CONTINUATION, false, b"\xff")),
        ),
        ("reason of a close", Frame::new(CLOSE, reason).encode()),
    ] {
        assert_eq!(ended_by(&server, &bytes).await, Some(1007), "{what}");
    }
}

#[tokio::test]
async fn a_character_may_be_cut_by_fragments() {
    let server = Server::start(&[]).await;
    let mut socket = connected(&server).await;
    let text = "421[\"joinRoom\",\"é😀\"]".as_bytes();
    for (at, byte) in text.iter().enumerate() {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        let last = at == text.len() - 1;
        socket
            .send_bytes(&part(opcode, last, &[*byte]))
            .await
            .unwrap();
    }
    assert_eq!(socket.text().await, ANSWER);
}

#[tokio::test]
async fn control_frames_are_answered_inside_a_fragmented_message() {
    let server = Server::start(&[]).await;
    let mut socket = connected(&server).await;
    let (start, rest) = ASK.as_bytes().split_at(7);
    socket.send_bytes(&part(TEXT, false, start)).await.unwrap();
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        socket.send(&Frame::new(PING, payload)).await.unwrap();
        let pong = socket.frame().await.unwrap();
        assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, payload));
        assert!(pong.fin && pong.mask.is_none() && pong.rsv == 0);
    }
    socket
        .send(&Frame::new(PONG, b"nobody asked".to_vec()))
        .await
        .unwrap();
    socket
        .send_bytes(&part(CONTINUATION, false, b""))
        .await
        .unwrap();
    socket
        .send_bytes(&part(CONTINUATION, true, rest))
        .await
        .unwrap();
    assert_eq!(socket.text().await, ANSWER);
}

#[tokio::test]
async fn a_message_may_have_1_024_fragments_and_not_one_more() {
    let server = Server::start(&[]).await;
    for (count, good) in [(1_024, true), (1_025, false)] {
        let mut socket = connected(&server).await;
        let mut bytes = part(TEXT, false, ASK.as_bytes());
        for n in 2..=count {
            bytes.extend_from_slice(&part(CONTINUATION, n == count, b""));
        }
        socket.send_bytes(&bytes).await.unwrap();
        if good {
            assert_eq!(socket.text().await, ANSWER);
        } else {
            let code = socket.closed().await;
            assert!(matches!(code, Some(1002 | 1008 | 1009)), "{code:?}");
        }
    }
}

#[tokio::test]
async fn fragments_count_together_against_the_limit() {
    let server = Server::start(&[("MAX_PAYLOAD", "1000")]).await;
    for (sizes, good) in [
        (&[500, 500][..], true),
        (&[1000, 0], true),
        (&[999, 1, 0], true),
        (&[500, 501], false),
        (&[1000, 1], false),
        (&[1001], false),
    ] {
        let mut socket = connected(&server).await;
        let total: usize = sizes.iter().sum();
        let mut message = b"42[\"nothing\",\"".to_vec();
        message.resize(total - 2, b'x');
        message.extend_from_slice(b"\"]");
        let mut rest = message.as_slice();
        for (at, size) in sizes.iter().enumerate() {
            let (fragment, behind) = rest.split_at(*size);
            rest = behind;
            let opcode = if at == 0 { TEXT } else { CONTINUATION };
            let last = at == sizes.len() - 1;
            socket.send_bytes(&part(opcode, last, fragment)).await.ok();
        }
        if good {
            socket.send_text(ASK).await.unwrap();
            assert_eq!(socket.text().await, ANSWER, "{sizes:?}");
        } else {
            assert_eq!(socket.closed().await, Some(1009), "{sizes:?}");
        }
    }
}

#[tokio::test]
async fn a_length_over_the_limit_ends_the_connection_without_its_bytes() {
    let server = Server::start(&[]).await;
    for length in [1_000_001u64, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let mut bytes = vec![0x82, 0xff];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let code = ended_by(&server, &bytes).await;
        assert!(matches!(code, Some(1009 | 1002)), "{length}: {code:?}");
    }
    // As the rest of a fragmented message too.
    let mut bytes = part(TEXT, false, &[b'4'; 500_000]);
    bytes.extend_from_slice(&[0x80, 0xff]);
    bytes.extend_from_slice(&500_001u64.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    assert_eq!(ended_by(&server, &bytes).await, Some(1009));
}

#[tokio::test]
async fn frames_in_chunks_of_one_byte_are_read() {
    let server = Server::start(&[]).await;
    let mut socket = connected(&server).await;
    let long = format!("42[\"nothing\",\"{}\"]", "x".repeat(300));
    for frame in [
        Frame::text(&long),
        Frame::new(PING, b"p".to_vec()),
        Frame::text(ASK),
    ] {
        for byte in frame.encode() {
            socket.send_bytes(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(socket.frame().await.unwrap().opcode, PONG);
    assert_eq!(socket.text().await, ANSWER);
}

#[tokio::test]
async fn many_frames_in_one_segment_are_answered_in_order() {
    let server = Server::start(&[]).await;
    let mut socket = connected(&server).await;
    let mut bytes = Vec::new();
    for n in 0..2_000 {
        bytes.extend_from_slice(&Frame::text(&format!("42{n}[\"joinRoom\",\"u\"]")).encode());
    }
    socket.send_bytes(&bytes).await.unwrap();
    for n in 0..2_000 {
        assert_eq!(socket.text().await, format!("43{n}[{{\"status\":\"ok\"}}]"));
    }
}

#[tokio::test]
async fn the_first_frames_may_come_with_the_handshake() {
    let server = Server::start(&[]).await;
    let mut connection = crate::support::http::Connection::open(server.address).await;
    let mut bytes = format!(
        "GET {ENGINE}&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    for text in ["40", ASK] {
        bytes.extend_from_slice(&Frame::text(text).encode());
    }
    // The last frame is cut.
    let cut = bytes.len() - 3;
    connection.send_bytes(&bytes[..cut]).await;
    connection.response("GET").await.expect_status(101);
    connection.send_bytes(&bytes[cut..]).await;
    let mut input = Vec::new();
    let (mut stream, read_ahead) = connection.into_parts();
    input.extend_from_slice(&read_ahead);
    let answered = async {
        while memchr::memmem::find(&input, ANSWER.as_bytes()).is_none() {
            let read = tokio::io::AsyncReadExt::read_buf(&mut stream, &mut input).await;
            assert!(read.unwrap() > 0, "the end instead of an answer");
        }
    };
    crate::support::within("the answer to frames sent with the handshake", answered).await;
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_then_the_end() {
    let server = Server::start(&[]).await;
    for (payload, code) in [
        (close(1000, "bye"), 1000),
        (close(1001, ""), 1001),
        (close(3000, "ü"), 3000),
        (close(4999, ""), 4999),
        (Vec::new(), 1000),
    ] {
        let mut bytes = Frame::new(CLOSE, payload).encode();
        // What follows a close is not looked at.
        bytes.extend_from_slice(&Frame::text(ASK).encode());
        let mut socket = connected(&server).await;
        socket.send_bytes(&bytes).await.unwrap();
        let answer = socket.frame().await.expect("a close frame");
        assert_eq!(answer.opcode, CLOSE);
        assert!(matches!(answer.close_code(), None | Some(1000..)));
        assert_eq!(answer.close_code().unwrap_or(1000), code);
        assert_eq!(socket.frame().await, None);
    }
}

#[tokio::test]
async fn an_empty_text_and_an_attachment_nobody_announced_end_the_connection() {
    let server = Server::start(&[]).await;
    for frame in [
        Frame::text(""),
        Frame::new(BINARY, Vec::new()),
        Frame::new(BINARY, b"4".to_vec()),
    ] {
        assert_eq!(
            ended_by(&server, &frame.encode()).await,
            Some(1000),
            "{frame:?}"
        );
    }
}

#[tokio::test]
async fn an_empty_attachment_is_one() {
    let server = Server::start(&[]).await;
    let mut socket = connected(&server).await;
    let event = "451-1[\"joinRoom\",{\"_placeholder\":true,\"num\":0}]";
    socket.send_text(event).await.unwrap();
    socket.send(&Frame::new(BINARY, Vec::new())).await.unwrap();
    assert!(socket.text().await.starts_with("431[{\"status\":\"error\""));
}

#[tokio::test]
async fn nothing_of_a_message_that_is_refused_is_done() {
    let server = Server::start(&[]).await;
    let mut witness = Client::websocket(server.address).await;
    witness.join("bob").await;
    let mut socket = connected(&server).await;
    let message = format!("42[\"chatMessage\",{}]", crate::draft("eve", "bob", "no"));
    let mut bytes = part(TEXT, false, message.as_bytes());
    bytes.extend_from_slice(&part(TEXT, true, message.as_bytes()));
    bytes.extend_from_slice(&Frame::text(&message).encode());
    socket.send_bytes(&bytes).await.unwrap();
    assert_eq!(socket.closed().await, Some(1002));
    let asked = witness.emit_with_ack("chatMessage", crate::draft("bob", "bob", "yes"));
    assert_eq!(asked.await["status"], "ok");
    assert_eq!(
        witness.event_named("newMessage").await["text_content"],
        "yes"
    );
}

async fn connected(server: &Server) -> WebSocket {
    let path = format!("{ENGINE}&transport=websocket");
    let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
    socket.send_text("40").await.unwrap();
    socket.text().await;
    assert!(socket.text().await.starts_with("40{"));
    socket
}

/// The code with which a connection ends upon these bytes.
async fn ended_by(server: &Server, bytes: &[u8]) -> Option<u16> {
    let mut socket = connected(server).await;
    socket.send_bytes(bytes).await.ok();
    socket.closed().await
}

fn part(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    let frame = Frame {
        fin,
        ..Frame::new(opcode, payload)
    };
    frame.encode()
}

fn two(mut first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    first.extend_from_slice(&second);
    first
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}
