//! Clients with socket.io-msgpack-parser: a packet is a map in one binary message, and so are the answers.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::Poll;
use crate::support::echo::Echo;
use crate::support::websocket::{self, Frame, WebSocket};

const SOCKETS_4: &str = "/socket.io/?EIO=4";

// === writing it ===

fn text(text: &str) -> Vec<u8> {
    let head = match text.len() {
        n @ 0..=31 => vec![0xa0 | n as u8],
        n @ 32..=255 => vec![0xd9, n as u8],
        n @ 256..=0xffff => [&[0xda][..], &(n as u16).to_be_bytes()].concat(),
        n => [&[0xdb][..], &(n as u32).to_be_bytes()].concat(),
    };
    [&head, text.as_bytes()].concat()
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    [&[0xc4, bytes.len() as u8], bytes].concat()
}

/// In the long form, which is how the server writes what is inside of a packet.
fn array(parts: &[Vec<u8>]) -> Vec<u8> {
    let head = (parts.len() as u32).to_be_bytes();
    [&[0xdd][..], &head, &parts.concat()].concat()
}

/// In the long form, too.
fn object(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let head = (members.len() as u32).to_be_bytes();
    [&[0xdf][..], &head, &parts_of(members)].concat()
}

/// In the short form: a packet.
fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    [&[0x80 | members.len() as u8][..], &parts_of(members)].concat()
}

fn parts_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let part = |(key, value): &(&str, Vec<u8>)| [text(key), value.clone()].concat();
    members.iter().flat_map(part).collect()
}

fn connect(namespace: &str) -> Vec<u8> {
    map(&[("type", vec![0]), ("nsp", text(namespace))])
}

/// An event or, as type 3, an acknowledgement.
fn packet(kind: u8, id: Option<u8>, data: &[Vec<u8>]) -> Vec<u8> {
    let mut members = vec![("type", vec![kind]), ("nsp", text("/"))];
    members.extend(id.map(|id| ("id", vec![id])));
    members.push(("data", array(data)));
    map(&members)
}

// === sending it ===

async fn send(socket: &mut WebSocket, message: &[u8]) {
    let frame = Frame::new(websocket::BINARY, message.to_vec());
    // The server may have closed before.
    socket.send(&frame).await.ok();
}

async fn expect(socket: &mut WebSocket, message: &[u8]) {
    let frame = socket.frame().await.expect("a packet");
    assert_eq!(frame.opcode, websocket::BINARY, "{frame:?}");
    assert_eq!(frame.payload, message);
}

/// A websocket that has shown what it speaks, past its greeting.
async fn greeted(echo: &Echo) -> WebSocket {
    let (mut socket, _) = crate::websocket(echo.address, SOCKETS_4).await;
    send(&mut socket, &connect("/")).await;
    let joined = socket.frame().await.unwrap().payload;
    let (head, sid) = joined.split_at(joined.len() - 20);
    let expected = map(&[
        ("type", vec![0]),
        ("nsp", text("/")),
        (
            "data",
            object(&[("sid", text(str::from_utf8(sid).unwrap()))]),
        ),
    ]);
    assert_eq!(joined, expected, "{head:?}");
    expect(&mut socket, &packet(2, None, &[text("auth"), object(&[])])).await;
    socket
}

#[tokio::test]
async fn events_and_answers_go_both_ways() {
    let echo = Echo::start(&[]);
    let mut socket = greeted(&echo).await;
    let args = [text("€😀\u{1}"), vec![0xc0], vec![0xc3], array(&[vec![5]])];
    let event = |name: &str| [&[text(name)], &args[..]].concat();
    send(&mut socket, &packet(2, None, &event("message"))).await;
    expect(&mut socket, &packet(2, None, &event("message-back"))).await;
    send(&mut socket, &packet(2, Some(0), &event("message-with-ack"))).await;
    expect(&mut socket, &packet(3, Some(0), &args)).await;
    send(&mut socket, &packet(2, Some(9), &[text("ask")])).await;
    expect(
        &mut socket,
        &packet(2, Some(1), &[text("question"), vec![1]]),
    )
    .await;
    send(
        &mut socket,
        &packet(3, Some(1), &[text("yes"), binary(b"b")]),
    )
    .await;
    expect(
        &mut socket,
        &packet(3, Some(9), &[text("yes"), binary(b"b")]),
    )
    .await;
}

#[tokio::test]
async fn binary_stays_where_it_is() {
    let echo = Echo::start(&[]);
    let mut socket = greeted(&echo).await;
    let args = [
        binary(b"one"),
        object(&[("deep", array(&[binary(b""), binary(b"\xff\0")]))]),
    ];
    let event = |name: &str| [&[text(name)], &args[..]].concat();
    send(&mut socket, &packet(2, None, &event("message"))).await;
    expect(&mut socket, &packet(2, None, &event("message-back"))).await;
    // Ten of them and no more.
    let ten = vec![binary(b"x"); 10];
    let event = |some: &[Vec<u8>]| [&[text("message-with-ack")], some].concat();
    send(&mut socket, &packet(2, Some(7), &event(&ten))).await;
    expect(&mut socket, &packet(3, Some(7), &ten)).await;
    send(
        &mut socket,
        &packet(2, Some(7), &event(&vec![binary(b"x"); 11])),
    )
    .await;
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn what_packets_do_not_have_is_passed_over() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = crate::websocket(echo.address, SOCKETS_4).await;
    // As the client writes it: options, and an id that is undefined.
    let connect = map(&[
        ("type", vec![0]),
        ("data", object(&[("token", text("x"))])),
        ("options", object(&[("compress", vec![0xc3])])),
        ("id", vec![0xd4, 0, 0]),
        ("nsp", text("/custom")),
    ]);
    send(&mut socket, &connect).await;
    socket.frame().await.expect("the answer to CONNECT");
    let greeting = map(&[
        ("type", vec![2]),
        ("nsp", text("/custom")),
        (
            "data",
            array(&[text("auth"), object(&[("token", text("x"))])]),
        ),
    ]);
    expect(&mut socket, &greeting).await;
}

#[tokio::test]
async fn each_form_of_a_value_is_read() {
    let echo = Echo::start(&[]);
    let mut socket = greeted(&echo).await;
    for (form, back) in [
        (vec![0x92, 1, 2], array(&[vec![1], vec![2]])),
        (vec![0xdc, 0, 1, 1], array(&[vec![1]])),
        (vec![0x81, 0xa1, b'a', 1], object(&[("a", vec![1])])),
        (vec![0xde, 0, 1, 0xa1, b'a', 1], object(&[("a", vec![1])])),
        (vec![0xd9, 1, b'a'], text("a")),
        (vec![0xda, 0, 1, b'a'], text("a")),
        (vec![0xdb, 0, 0, 0, 1, b'a'], text("a")),
        (vec![0xc5, 0, 1, 7], binary(&[7])),
        (vec![0xc6, 0, 0, 0, 1, 7], binary(&[7])),
        (vec![0xcc, 7], vec![7]),
        (vec![0xcf, 0, 0, 0, 0, 0, 0, 1, 0], vec![0xcd, 1, 0]),
        (vec![0xe0], vec![0xe0]),
        (
            vec![0xd3, 255, 255, 255, 255, 255, 255, 255, 255],
            vec![0xff],
        ),
        (vec![0xc2], vec![0xc2]),
    ] {
        println!("{form:02x?}");
        send(
            &mut socket,
            &packet(2, Some(1), &[text("message-with-ack"), form]),
        )
        .await;
        expect(&mut socket, &packet(3, Some(1), &[back])).await;
    }
}

#[tokio::test]
async fn refusals_and_goodbyes_are_packets_too() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = crate::websocket(echo.address, SOCKETS_4).await;
    send(&mut socket, &connect("/deny")).await;
    let refusal = map(&[
        ("type", vec![4]),
        ("nsp", text("/deny")),
        (
            "data",
            object(&[
                ("message", text("Not authorized")),
                ("data", object(&[("code", vec![42])])),
            ]),
        ),
    ]);
    expect(&mut socket, &refusal).await;
    let mut socket = greeted(&echo).await;
    send(&mut socket, &packet(2, None, &[text("kickns")])).await;
    expect(&mut socket, &map(&[("type", vec![1]), ("nsp", text("/"))])).await;
}

#[tokio::test]
async fn polling_carries_it_as_base64_and_the_upgrade_as_it_is() {
    let echo = Echo::start(&[]);
    let (poll, _) = Poll::open(echo.address, SOCKETS_4).await;
    let base64 = |bytes: &[u8]| format!("b{}", BASE64_STANDARD.encode(bytes));
    poll.send(base64(&connect("/"))).await;
    let greeting = packet(2, None, &[text("auth"), object(&[])]);
    let answer = poll.text().await;
    let (joined, second) = answer.split_once('\u{1e}').unwrap();
    assert_eq!(second, base64(&greeting));
    assert!(joined.starts_with('b'));
    let asked = packet(2, Some(7), &[text("message-with-ack"), binary(b"\0")]);
    let answered = packet(3, Some(7), &[binary(b"\0")]);
    poll.send(base64(&asked)).await;
    assert_eq!(poll.text().await, base64(&answered));
    let mut socket = poll.probe("").await;
    poll.send(base64(&asked)).await;
    socket.send_text("5").await.unwrap();
    expect(&mut socket, &answered).await;
    send(&mut socket, &asked).await;
    expect(&mut socket, &answered).await;
}

#[tokio::test]
async fn heartbeats_stay_text() {
    let echo = Echo::start(&["--ping-interval-ms", "50"]);
    let mut socket = greeted(&echo).await;
    for _ in 0..3 {
        assert_eq!(socket.text().await, "2");
        socket.send_text("3").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_packet_ends_the_connection() {
    let echo = Echo::start(&[]);
    let whole = packet(2, None, &[text("message")]);
    for message in [
        vec![],
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], &[0]].concat(),
        array(&[vec![2], text("/")]),
        map(&[]),
        map(&[("nsp", text("/"))]),
        map(&[("type", vec![2])]),
        map(&[
            ("type", vec![5]),
            ("nsp", text("/")),
            ("data", array(&[text("a")])),
        ]),
        map(&[
            ("type", text("2")),
            ("nsp", text("/")),
            ("data", array(&[text("a")])),
        ]),
        map(&[
            ("type", vec![2]),
            ("nsp", text("x")),
            ("data", array(&[text("a")])),
        ]),
        map(&[
            ("type", vec![2]),
            ("nsp", vec![0xc0]),
            ("data", array(&[text("a")])),
        ]),
        map(&[("type", vec![2]), ("type", vec![2]), ("nsp", text("/"))]),
        map(&[("type", vec![2]), ("nsp", text("/"))]),
        packet(2, None, &[]),
        packet(2, None, &[vec![0xc0]]),
        packet(2, None, &[text("disconnect")]),
        packet(2, None, &[binary(b"message")]),
        map(&[("type", vec![2]), ("nsp", text("/")), ("data", object(&[]))]),
        map(&[("type", vec![2]), ("nsp", text("/")), ("data", text("a"))]),
        map(&[
            ("type", vec![2]),
            ("nsp", text("/")),
            ("id", text("7")),
            ("data", array(&[text("a")])),
        ]),
        map(&[("type", vec![4]), ("nsp", text("/"))]),
        map(&[("type", vec![1]), ("nsp", text("/")), ("data", text("x"))]),
        // No value at all, and one that says it is longer than anything.
        packet(2, None, &[text("a"), vec![0xc1]]),
        packet(2, None, &[text("a"), vec![0xdb, 255, 255, 255, 255]]),
        packet(2, None, &[text("a"), vec![0xdd, 255, 255, 255, 255]]),
        packet(2, None, &[text("a"), vec![0xdf, 255, 255, 255, 255]]),
        packet(2, None, &[text("a"), vec![0xa1, 0xff]]),
        // It is in `/` already, and not in this one.
        connect("/"),
        map(&[
            ("type", vec![2]),
            ("nsp", text("/custom")),
            ("data", array(&[text("a")])),
        ]),
    ] {
        let mut socket = greeted(&echo).await;
        send(&mut socket, &message).await;
        assert_eq!(socket.closed().await, Some(1000), "{message:02x?}");
    }
}

#[tokio::test]
async fn a_connection_stays_with_the_parser_that_it_began_with() {
    let echo = Echo::start(&[]);
    let mut socket = greeted(&echo).await;
    socket.send_text(r#"42["message"]"#).await.unwrap();
    assert_eq!(socket.closed().await, Some(1000));
    let (mut socket, _) = crate::websocket(echo.address, SOCKETS_4).await;
    socket.send_text("40").await.unwrap();
    assert!(socket.text().await.starts_with("40{"));
    send(&mut socket, &packet(2, None, &[text("message")])).await;
    assert_eq!(socket.closed().await, Some(1000));
    // Binary that is no map shows nothing.
    let (mut socket, _) = crate::websocket(echo.address, SOCKETS_4).await;
    send(&mut socket, &array(&[vec![0], text("/")])).await;
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn the_event_before_connect_ends_the_connection() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = crate::websocket(echo.address, SOCKETS_4).await;
    send(&mut socket, &packet(2, None, &[text("message")])).await;
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn values_may_be_nested_as_deep_as_json_and_no_deeper() {
    let echo = Echo::start(&[]);
    let nested = |depth: usize| (1..depth).fold(array(&[]), |inner, _| array(&[inner]));
    // The array of the event's name and arguments is the first level.
    let mut socket = greeted(&echo).await;
    let deep = nested(126);
    send(
        &mut socket,
        &packet(2, Some(1), &[text("message-with-ack"), deep.clone()]),
    )
    .await;
    expect(&mut socket, &packet(3, Some(1), &[deep])).await;
    send(
        &mut socket,
        &packet(2, Some(1), &[text("message-with-ack"), nested(127)]),
    )
    .await;
    assert_eq!(socket.closed().await, Some(1000));
    let mut socket = greeted(&echo).await;
    send(
        &mut socket,
        &packet(2, None, &[text("a"), vec![0x91; 900_000]]),
    )
    .await;
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn the_json_form_counts_against_the_limit() {
    let echo = Echo::start(&[]);
    let mut socket = greeted(&echo).await;
    // Each of these is six bytes in JSON, and one here.
    let fits = text(&"\u{1}".repeat(160_000));
    send(
        &mut socket,
        &packet(2, Some(1), &[text("message-with-ack"), fits.clone()]),
    )
    .await;
    expect(&mut socket, &packet(3, Some(1), &[fits])).await;
    let over = text(&"\u{1}".repeat(170_000));
    send(
        &mut socket,
        &packet(2, Some(1), &[text("message-with-ack"), over]),
    )
    .await;
    assert_eq!(socket.closed().await, Some(1000));
    // And the message itself is bounded as any other.
    let mut socket = greeted(&echo).await;
    send(
        &mut socket,
        &packet(2, None, &[text("a"), text(&"x".repeat(1_000_000))]),
    )
    .await;
    assert_eq!(socket.closed().await, Some(1009));
}
