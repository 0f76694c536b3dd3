//! Long polling: what a GET and a POST carry, and what ends a session.

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::client::Client;
use crate::support::http::{self, Connection};
use crate::support::packet::Packet;
use crate::support::polling::{SEPARATOR, decode};
use crate::support::server::Server;
use crate::support::websocket::{Frame, WebSocket};
use crate::support::{DEADLINE, history, within};
use crate::{
    ENGINE, FAST, assert_refused, draft, forgotten, is_known, metric_becomes, polling_path,
};

#[tokio::test]
async fn a_post_is_answered_ok_and_its_packets_are_taken_in_order() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let packets: Vec<_> = (0..5)
        .map(|n| format!("42{n}[\"joinRoom\",\"user-{n}\"]"))
        .collect();
    let body = packets.join(&SEPARATOR.to_string());
    let answer = client.polling_transport().post(body.as_bytes()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("content-type"), Some("text/html"));
    let answer = client.polling_transport().get().await;
    let expected: Vec<_> = (0..5)
        .map(|n| Packet::Text(format!("43{n}[{{\"status\":\"ok\"}}]")))
        .collect();
    assert_eq!(decode(&answer.text()), expected);
}

#[tokio::test]
async fn a_poll_brings_sixteen_packets_at_most_and_the_next_ones_the_rest() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let packets: Vec<_> = (0..40)
        .map(|n| format!("42{n}[\"joinRoom\",\"u\"]"))
        .collect();
    let body = packets.join(&SEPARATOR.to_string());
    client.polling_transport().post(body.as_bytes()).await;
    let mut acks = Vec::new();
    let mut polls = Vec::new();
    while acks.len() < 40 {
        let answer = client.polling_transport().get().await.expect_status(200);
        let packets = decode(&answer.text());
        polls.push(packets.len());
        acks.extend(packets);
    }
    assert_eq!(polls, [16, 16, 8]);
    let expected: Vec<_> = (0..40)
        .map(|n| Packet::Text(format!("43{n}[{{\"status\":\"ok\"}}]")))
        .collect();
    assert_eq!(acks, expected);
}

#[tokio::test]
async fn content_length_counts_bytes() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    client.join("ann").await;
    client
        .emit("chatMessage", draft("ann", "ann", "€ 😀"))
        .await;
    let mut seen = 0;
    while seen < 2 {
        let answer = client.polling_transport().get().await;
        let length = answer.body.len().to_string();
        assert_eq!(answer.header("content-length"), Some(length.as_str()));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        seen += answer.text().matches("€ 😀").count();
    }
}

#[tokio::test]
async fn an_empty_or_unreadable_body_is_answered_ok_and_ends_the_session() {
    let server = Server::start(&[]).await;
    for body in [
        &b""[..],
        b"4\xff\xfe",
        b"b!!!!",
        b"8",
        b"\x1e",
        b"2",
        b"0{}",
    ] {
        let mut client = Client::polling(server.address).await;
        let answer = client.polling_transport().post(body).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        let answer = client.polling_transport().get().await;
        assert_refused(&answer, 1, "Session ID unknown");
    }
}

#[tokio::test]
async fn packets_before_a_broken_one_count_and_those_behind_it_do_not() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let packet = |text| format!("42{}", json!(["chatMessage", draft("ann", "bob", text)]));
    let body = format!(
        "{}\u{1e}4garbage\u{1e}{}",
        packet("before"),
        packet("behind")
    );
    let answer = client.polling_transport().post(body.as_bytes()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert!(!is_known(server.address, client.sid()).await);
    let stored = async {
        loop {
            let stored = history::whole(server.address, "talk").await;
            if !stored.is_empty() {
                return stored;
            }
        }
    };
    let stored = within("the first message to be stored", stored).await;
    assert_eq!(stored[0]["text_content"], "before");
    assert_eq!(stored.len(), 1);
}

#[tokio::test]
async fn a_post_of_octets_is_refused_and_ends_the_session() {
    let server = Server::start(&[]).await;
    let client = Client::polling(server.address).await;
    let path = polling_path(client.sid());
    let headers = [("Content-Type", "application/octet-stream")];
    let answer = http::request(server.address, "POST", &path, &headers, b"\x00\x01\xff3").await;
    assert_refused(&answer, 3, "Bad request");
    assert!(!is_known(server.address, client.sid()).await);
}

#[tokio::test]
async fn odd_content_types_are_taken_as_text() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let path = polling_path(client.sid());
    for kind in [
        "",
        "text/html",
        "application/x-www-form-urlencoded",
        "a b;;",
    ] {
        let headers = [("Content-Type", kind)];
        let body = b"42[\"nothing\"]";
        let answer = http::request(server.address, "POST", &path, &headers, body).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "{kind}"
        );
    }
    client.join("ann").await;
}

#[tokio::test]
async fn other_methods_are_answered_500_and_harm_nothing() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    for method in ["PUT", "DELETE", "PATCH"] {
        let path = polling_path(client.sid());
        let answer = http::request(server.address, method, &path, &[], b"").await;
        assert_eq!((answer.status, answer.text().as_str()), (500, ""));
    }
    client.join("ann").await;
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_413_and_no_harm() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let answer = client.polling_transport().post(&sized(1_000_000)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    client.join("ann").await;

    // A client that sends all of it before it reads gets its answer too.
    let path = polling_path(client.sid());
    let answer = http::request(server.address, "POST", &path, &[], &sized(1_000_001)).await;
    assert_eq!(answer.status, 413);
    client.join("bob").await;

    // Chunked, so that only the running sum tells.
    let mut connection = Connection::open(server.address).await;
    let chunked = [("Transfer-Encoding", "chunked")];
    connection.send("POST", &path, &chunked, b"").await;
    let half = sized(500_000);
    for _ in 0..2 {
        connection.send_bytes(b"7a120\r\n").await;
        connection.send_bytes(&half).await;
        connection.send_bytes(b"\r\n").await;
    }
    connection.send_bytes(b"1\r\nx\r\n").await;
    connection.response("POST").await.expect_status(413);
    client.join("eve").await;
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_its_body_is_told_to_go_on_or_why_not() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let path = polling_path(client.sid());
    let mut connection = Connection::open(server.address).await;
    let asked = |length| [("Content-Length", length), ("Expect", "100-continue")];
    connection.send("POST", &path, &asked("13"), b"").await;
    // It has no body, as the answer to a HEAD.
    connection.response("HEAD").await.expect_status(100);
    connection.send_bytes(b"42[\"nothing\"]").await;
    assert_eq!(connection.response("POST").await.text(), "ok");
    connection.send("POST", &path, &asked("1000001"), b"").await;
    connection.response("POST").await.expect_status(413);
    client.join("ann").await;
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_413_before_a_byte_of_it_came() {
    let server = Server::start(&[]).await;
    let mut client = Client::polling(server.address).await;
    let mut connection = Connection::open(server.address).await;
    let path = polling_path(client.sid());
    for length in ["1000001", "9000000000000000000"] {
        let headers = [("Content-Length", length)];
        connection.send("POST", &path, &headers, b"").await;
        connection.response("POST").await.expect_status(413);
        connection = Connection::open(server.address).await;
    }
    client.join("ann").await;
}

#[tokio::test]
async fn a_websocket_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_1009() {
    let server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    let exact = String::from_utf8(sized(1_000_000)).unwrap();
    client.send_packet(&exact).await;
    client.join("ann").await;
    let over = String::from_utf8(sized(1_000_001)).unwrap();
    // The server may close before it has read all of it.
    client.websocket_transport().send_text(&over).await.ok();
    assert_eq!(client.websocket_transport().closed().await, Some(1009));

    // The declared length is enough: not a byte of the payload comes.
    let mut client = Client::websocket(server.address).await;
    let head = Frame::text(&over).encode()[..14].to_vec();
    let socket = client.websocket_transport();
    socket.send_bytes(&head).await.unwrap();
    assert_eq!(socket.closed().await, Some(1009));
}

#[tokio::test]
async fn a_large_chat_message_arrives_on_both_transports() {
    let server = Server::start(&[("OUTBOX_BYTES_MAX", "8388608")]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    let mut bea = Client::websocket(server.address).await;
    bob.join("bob").await;
    bea.join("bob").await;
    // The whole packet is of the limit's length.
    let empty = format!("420{}", json!(["chatMessage", draft("ann", "bob", "")]));
    let text = "é".repeat((1_000_000 - empty.len()) / 2) + &"x".repeat(empty.len() % 2);
    let answer = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", &text))
        .await;
    assert_eq!(answer["message"]["text_content"], text.as_str());
    for reader in [&mut bob, &mut bea] {
        assert_eq!(reader.event_named("newMessage").await, answer["message"]);
    }
}

#[tokio::test]
async fn attachments_come_as_base64_on_polling_and_in_websocket_texts() {
    let server = Server::start(&[]).await;
    let event = "451-7[\"joinRoom\",{\"_placeholder\":true,\"num\":0}]";
    let mut polling = Client::polling(server.address).await;
    let body = format!("{event}\u{1e}bAAEC/w==");
    polling.polling_transport().post(body.as_bytes()).await;
    assert_refusal_ack(&mut polling).await;
    // Whether in one request or in two.
    polling.polling_transport().post(event.as_bytes()).await;
    polling.polling_transport().post(b"bAAEC/w").await;
    assert_refusal_ack(&mut polling).await;

    let mut socket = Client::websocket(server.address).await;
    socket.send_packet(event).await;
    socket.send_packet("bAAEC/w==").await;
    assert_refusal_ack(&mut socket).await;
    socket.send_packet(event).await;
    socket.send_binary(b"\0\x01\x02\xff").await;
    assert_refusal_ack(&mut socket).await;
}

#[tokio::test]
async fn a_second_get_ends_that_session_only() {
    let server = Server::start(&[]).await;
    let mut other = Client::polling(server.address).await;
    let mut client = Client::polling(server.address).await;
    client.polling_transport().send_get().await;
    let path = polling_path(client.sid());
    let second = http::get(server.address, &path);
    let (first, second) = tokio::join!(client.polling_transport().finish_get(), second);
    // Two connections: which of them the server sees first is its affair.
    let (held, refused) = if first.status == 200 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!((held.status, held.text().as_str()), (200, "1"));
    assert_refused(&refused, 3, "Bad request");
    assert!(!is_known(server.address, client.sid()).await);
    other.join("ann").await;
}

#[tokio::test]
async fn a_second_post_ends_that_session_only_and_nothing_of_the_first_is_done() {
    let server = Server::start(&[]).await;
    let mut other = Client::polling(server.address).await;
    let client = Client::polling(server.address).await;
    let path = polling_path(client.sid());
    let packet = format!("42{}", json!(["chatMessage", draft("ann", "bob", "half")]));
    let mut first = Connection::open(server.address).await;
    let length = packet.len().to_string();
    let headers = [("Content-Length", length.as_str())];
    let (half, rest) = packet.as_bytes().split_at(20);
    first.send("POST", &path, &headers, half).await;
    // Whichever of the two posts comes first, the other one is too many.
    let refused = async {
        loop {
            let answer = http::request(server.address, "POST", &path, &[], b"6").await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let refused = within("a second POST to be refused", refused).await;
    assert_eq!(refused.status, 400);
    assert!(!is_known(server.address, client.sid()).await);
    first.send_bytes(rest).await;
    first.response("POST").await;
    other.join("ann").await;
    other
        .emit_with_ack("chatMessage", draft("bob", "ann", "whole"))
        .await;
    let stored = history::whole(server.address, "talk").await;
    let texts: Vec<_> = stored.iter().map(|m| m["text_content"].clone()).collect();
    assert_eq!(texts, ["whole"]);
}

#[tokio::test]
async fn a_cancelled_get_ends_the_session() {
    let server = Server::start(&[]).await;
    // A GET whose end is read together with it is never held: the next round's may be.
    for _ in 0..5 {
        let client = Client::polling(server.address).await;
        let path = polling_path(client.sid());
        let mut get = Connection::open(server.address).await;
        get.send("GET", &path, &[], b"").await;
        // Most likely held: a later request is answered.
        http::request(server.address, "POST", &path, &[], b"6")
            .await
            .expect_status(200);
        drop(get);
        let forgotten = forgotten(server.address, client.sid());
        if timeout(DEADLINE / 2, forgotten).await.is_ok() {
            return;
        }
    }
    panic!("no cancelled GET ended its session");
}

#[tokio::test]
async fn a_client_says_goodbye_by_polling() {
    let server = Server::start(&[]).await;
    // The GET and the goodbye come on two connections: now and then the goodbye is read first.
    for round in 1.. {
        let mut client = Client::polling(server.address).await;
        client.polling_transport().send_get().await;
        client.polling_transport().post(b"42[\"nothing\"]").await;
        let answer = client.polling_transport().post(b"1").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        let held = client.polling_transport().finish_get().await;
        let answer = client.polling_transport().get().await;
        assert_refused(&answer, 1, "Session ID unknown");
        if held.status == 200 {
            assert_eq!(held.text(), "6");
            return;
        }
        assert_refused(&held, 1, "Session ID unknown");
        assert!(round < 50, "no GET was held");
    }
}

#[tokio::test]
async fn abandoned_sessions_are_let_go() {
    let server = Server::start(&FAST).await;
    for _ in 0..50 {
        let path = format!("{ENGINE}&transport=polling");
        http::get(server.address, &path).await.expect_status(200);
    }
    let path = format!("{ENGINE}&transport=websocket");
    let _never_read = WebSocket::open(server.address, &path, &[]).await.unwrap();
    metric_becomes(&server, "chat_polling_sessions", 0).await;
    metric_becomes(&server, "chat_websockets", 0).await;
}

/// An event that nobody handles, as a packet of so many bytes.
fn sized(bytes: usize) -> Vec<u8> {
    let mut packet = b"42[\"nothing\",\"".to_vec();
    packet.resize(bytes - 2, b'x');
    packet.extend_from_slice(b"\"]");
    packet
}

/// The answer that shows that an event with an attachment came whole: an attachment is no user.
async fn assert_refusal_ack(client: &mut Client) {
    let Some(Packet::Text(ack)) = client.packet().await else {
        panic!("an acknowledgement, not the end")
    };
    let ack: Value = serde_json::from_str(ack.strip_prefix("437").expect(&ack)).unwrap();
    assert_eq!(ack[0]["status"], "error");
    assert_eq!(ack[0]["code"], "invalid");
}
