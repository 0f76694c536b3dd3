//! Socket.IO 4: namespaces, refusals, ids, and binary events, on either transport of revision 3.

use serde_json::{Value, json};

use crate::support::echo::Echo;
use crate::support::server::Server;
use crate::support::websocket::{self, Frame, WebSocket};
use crate::{OCTETS, Poll, SOCKETS, expect, payload, websocket as opened};

/// A websocket in `/`, past its greeting; and its session's id.
async fn greeted(echo: &Echo) -> (WebSocket, String) {
    let (mut socket, sid) = opened(echo.address, SOCKETS).await;
    expect(&mut socket, &["40", r#"42["auth",{}]"#]).await;
    (socket, sid)
}

#[tokio::test]
async fn a_namespace_is_asked_for_with_a_query() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    for (asked, answer, auth) in [
        (
            "40/custom?token=x&name=%C3%A9+%26,",
            "40/custom,",
            r#"42/custom,["auth",{"token":"x","name":"é &"}]"#,
        ),
        (
            "40/dyn-1?token=x",
            "40/dyn-1,",
            r#"42/dyn-1,["auth",{"token":"x"}]"#,
        ),
        ("40/dyn-2,", "40/dyn-2,", r#"42/dyn-2,["auth",{}]"#),
        ("40/dyn-3", "40/dyn-3,", r#"42/dyn-3,["auth",{}]"#),
        ("40/dyn-4?,", "40/dyn-4,", r#"42/dyn-4,["auth",{}]"#),
    ] {
        socket.send_text(asked).await.unwrap();
        assert_eq!(socket.text().await, answer);
        let (name, greeted) = (json_of(&socket.text().await), json_of(auth));
        assert_eq!(name, greeted, "{asked}");
    }
}

#[tokio::test]
async fn packets_of_a_namespace_may_carry_its_query() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    socket.send_text("40/custom?token=x,").await.unwrap();
    expect(
        &mut socket,
        &["40/custom,", r#"42/custom,["auth",{"token":"x"}]"#],
    )
    .await;
    for asked in [
        r#"42/custom,7["message-with-ack",1]"#,
        r#"42/custom?token=x,7["message-with-ack",1]"#,
    ] {
        socket.send_text(asked).await.unwrap();
        expect(&mut socket, &["43/custom,7[1]"]).await;
    }
}

#[tokio::test]
async fn a_refusal_is_its_data_or_else_a_string() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    for (asked, refusal) in [
        ("40/nope", r#"44/nope,"Invalid namespace""#),
        ("40/nope?token=x,", r#"44/nope,"Invalid namespace""#),
        ("40/deny,", r#"44/deny,{"code":42}"#),
        ("40/deny", r#"44/deny,{"code":42}"#),
    ] {
        socket.send_text(asked).await.unwrap();
        expect(&mut socket, &[refusal]).await;
    }
    socket
        .send_text(r#"420["message-with-ack"]"#)
        .await
        .unwrap();
    expect(&mut socket, &["430[]"]).await;
}

#[tokio::test]
async fn the_chat_has_one_namespace() {
    let server = Server::start(&[]).await;
    let (mut socket, _) = opened(server.address, SOCKETS).await;
    socket.send_text("40/admin?token=x,").await.unwrap();
    expect(&mut socket, &["40", r#"44/admin,"Invalid namespace""#]).await;
}

#[tokio::test]
async fn the_sixteenth_namespace_is_the_last() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    for n in 1..16 {
        socket.send_text(&format!("40/dyn-{n}")).await.unwrap();
        expect(&mut socket, &[&format!("40/dyn-{n},")]).await;
        socket.text().await;
    }
    socket.send_text("40/dyn-16").await.unwrap();
    expect(&mut socket, &[r#"44/dyn-16,"Too many namespaces""#]).await;
}

#[tokio::test]
async fn what_a_client_must_not_send_ends_the_connection() {
    let echo = Echo::start(&[]);
    for packet in [
        // It is in `/` already.
        "40",
        "40/,",
        "40/?token=x,",
        // Not joined.
        r#"42/custom,["message"]"#,
        "41/custom,",
        r#"43/custom,1[]"#,
        // Not a client's, and no packets.
        r#"44"no""#,
        "47",
        "4",
        "4x",
        "42[]",
        "42{}",
        r#"42["disconnect"]"#,
        "42[\"a\"",
        "49",
    ] {
        let (mut socket, _) = greeted(&echo).await;
        socket.send_text(packet).await.unwrap();
        assert_eq!(socket.closed().await, Some(1000), "{packet}");
    }
    let (mut socket, _) = greeted(&echo).await;
    socket.send_text("40/custom").await.unwrap();
    expect(&mut socket, &["40/custom,", r#"42/custom,["auth",{}]"#]).await;
    socket.send_text("40/custom").await.unwrap();
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn a_socket_is_called_after_the_session() {
    let echo = Echo::start(&[]);
    let (mut socket, sid) = greeted(&echo).await;
    socket.send_text("40/custom").await.unwrap();
    expect(&mut socket, &["40/custom,", r#"42/custom,["auth",{}]"#]).await;
    for (asked, answer, id) in [
        (r#"420["whoami"]"#, "430", sid.clone()),
        (
            r#"42/custom,0["whoami"]"#,
            "43/custom,0",
            format!("/custom#{sid}"),
        ),
    ] {
        socket.send_text(asked).await.unwrap();
        let text = socket.text().await;
        let me: Value = serde_json::from_str(text.strip_prefix(answer).unwrap()).unwrap();
        assert_eq!((&me[0]["id"], &me[0]["eio"]), (&json!(id), &json!(3)));
    }
}

#[tokio::test]
async fn the_handshakes_query_is_the_applications_but_for_the_engines_keys() {
    let echo = Echo::start(&[]);
    let start = format!("{SOCKETS}&b64=1&t=x&token=a%26b");
    let (mut socket, _) = opened(echo.address, &start).await;
    socket.send_text(r#"420["whoami"]"#).await.unwrap();
    expect(&mut socket, &["40", r#"42["auth",{}]"#]).await;
    let text = socket.text().await;
    let me: Value = serde_json::from_str(text.strip_prefix("430").unwrap()).unwrap();
    assert_eq!(me[0]["query"], json!({"token": "a&b"}));
}

#[tokio::test]
async fn a_socket_is_asked_and_taken_out_of_its_namespace() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    socket.send_text("40/custom").await.unwrap();
    expect(&mut socket, &["40/custom,", r#"42/custom,["auth",{}]"#]).await;
    socket.send_text(r#"42/custom,5["ask"]"#).await.unwrap();
    expect(&mut socket, &[r#"42/custom,1["question",1]"#]).await;
    socket.send_text(r#"43/custom,1["yes","€"]"#).await.unwrap();
    expect(&mut socket, &[r#"43/custom,5["yes","€"]"#]).await;
    socket.send_text(r#"42/custom,["kickns"]"#).await.unwrap();
    expect(&mut socket, &["41/custom,"]).await;
    socket
        .send_text(r#"420["message-with-ack"]"#)
        .await
        .unwrap();
    expect(&mut socket, &["430[]"]).await;
    socket.send_text("41").await.unwrap();
    socket.send_text("2").await.unwrap();
    expect(&mut socket, &["3"]).await;
}

#[tokio::test]
async fn a_client_leaves_a_namespace_with_or_without_the_comma_and_may_come_back() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    for leave in ["41/custom,", "41/custom"] {
        socket.send_text("40/custom,").await.unwrap();
        expect(&mut socket, &["40/custom,", r#"42/custom,["auth",{}]"#]).await;
        socket.send_text(leave).await.unwrap();
        // On its way when the client left: dropped, not punished.
        let late = r#"42/custom,["message"]"#;
        socket.send_text(late).await.unwrap();
        socket.send_text("2").await.unwrap();
        expect(&mut socket, &["3"]).await;
    }
}

#[tokio::test]
async fn a_server_that_stops_closes_transports_and_takes_nobody_out_of_a_namespace() {
    let mut server = Server::start(&[]).await;
    let (mut socket, _) = opened(server.address, SOCKETS).await;
    expect(&mut socket, &["40"]).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let mut get = poll.hold().await;
    let told = async {
        let frame = socket.frame().await.expect("a close frame");
        assert_eq!(frame.opcode, websocket::CLOSE, "{frame:?}");
        let held = get.response("GET").await;
        // A goodbye would keep some clients away for good.
        assert_eq!(held.status, 400, "{}", held.text());
        drop(socket);
        drop(get);
    };
    let ended = server.terminate(crate::support::DEADLINE);
    let (_, status) = tokio::join!(told, ended);
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn attachments_go_both_ways_on_a_websocket() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    let event =
        r#"452-7["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    socket.send_text(event).await.unwrap();
    for bytes in [&[4, 1, 2][..], &[4]] {
        let attachment = Frame::new(websocket::BINARY, bytes.to_vec());
        socket.send(&attachment).await.unwrap();
    }
    let ack = r#"462-7[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    expect(&mut socket, &[ack]).await;
    for bytes in [&[4, 1, 2][..], &[4]] {
        assert_eq!(socket.frame().await.unwrap().payload, bytes);
    }
}

#[tokio::test]
async fn attachments_go_both_ways_on_polling_in_either_framing() {
    let echo = Echo::start(&[]);
    let event = r#"451-["message","€",{"_placeholder":true,"num":0}]"#;
    let back = r#"451-["message-back","€",{"_placeholder":true,"num":0}]"#;
    for (b64, octets) in [(false, true), (false, false), (true, true), (true, false)] {
        let start = format!("{SOCKETS}{}", if b64 { "&b64=1" } else { "" });
        let (poll, _) = Poll::open(echo.address, &start).await;
        let answer = match octets {
            true => poll.post_as(OCTETS, framed(event)).await,
            false => poll.post(payload(&[event, "b4AQL/"])).await,
        };
        assert_eq!(answer.text(), "ok");
        let answer = poll.get().await.expect_status(200);
        match b64 {
            true => assert_eq!(answer.text(), payload(&[back, "b4AQL/"])),
            false => assert_eq!(answer.body, framed(back)),
        }
    }
}

#[tokio::test]
async fn a_ping_may_come_between_a_packet_and_its_attachments() {
    let echo = Echo::start(&[]);
    let (mut socket, _) = greeted(&echo).await;
    let event = r#"451-7["message-with-ack",{"_placeholder":true,"num":0}]"#;
    for packet in [event, "2"] {
        socket.send_text(packet).await.unwrap();
    }
    expect(&mut socket, &["3"]).await;
    let attachment = Frame::new(websocket::BINARY, vec![4, 1]);
    socket.send(&attachment).await.unwrap();
    expect(&mut socket, &[r#"461-7[{"_placeholder":true,"num":0}]"#]).await;
    assert_eq!(socket.frame().await.unwrap().payload, [4, 1]);
}

#[tokio::test]
async fn a_packet_and_its_attachments_stay_together_across_answers() {
    let echo = Echo::start(&[]);
    let placeholders = |count: usize| {
        let placeholder = |num| format!(r#"{{"_placeholder":true,"num":{num}}}"#);
        (0..count).map(placeholder).collect::<Vec<_>>().join(",")
    };
    let said = |name: &str| {
        let mut packets = Vec::new();
        // An answer takes sixteen: the fourth packet's attachments are in the next one.
        for count in [2, 0, 10, 10, 0] {
            packets.push(match count {
                0 => format!(r#"42["{name}"]"#),
                _ => format!(r#"45{count}-["{name}",{}]"#, placeholders(count)),
            });
            packets.extend((0..count).map(|n| format!("bAAA{}", char::from(b'A' + n as u8))));
        }
        packets
    };
    let (poll, _) = Poll::open(echo.address, "/socket.io/?EIO=4").await;
    poll.send("40").await;
    while !poll.text().await.contains("[\"auth\"") {}
    poll.send(said("message").join("\u{1e}")).await;
    let expected = said("message-back");
    let answers = [poll.text().await, poll.text().await];
    assert_eq!(answers[0], expected[..16].join("\u{1e}"));
    assert_eq!(answers[1], expected[16..].join("\u{1e}"));
}

#[tokio::test]
async fn who_joins_a_namespace_twice_is_closed() {
    let echo = Echo::start(&[]);
    for start in [SOCKETS, "/socket.io/?EIO=4"] {
        let (mut socket, _) = opened(echo.address, start).await;
        for _ in 0..2 {
            socket.send_text("40/custom,").await.unwrap();
        }
        assert_eq!(socket.closed().await, Some(1000));
    }
}

/// A text and the attachment 01 02 FF, in the binary framing.
fn framed(text: &str) -> Vec<u8> {
    let length = text.len().to_string().into_bytes();
    let digits: Vec<_> = length.iter().map(|digit| digit - b'0').collect();
    let head = [&[0][..], &digits, &[255]].concat();
    [&head[..], text.as_bytes(), b"\x01\x04\xff\x04\x01\x02\xff"].concat()
}

/// The JSON array of an event.
fn json_of(packet: &str) -> Value {
    let start = packet.find('[').expect("an event");
    serde_json::from_str(&packet[start..]).unwrap()
}
