//! Long polling of revision 3: lengths, what is fatal and what is not.

use tokio::time::timeout;

use crate::support::echo::Echo;
use crate::support::http::{self, Connection};
use crate::support::server::Server;
use crate::support::{DEADLINE, within};
use crate::{BARE, OCTETS, Poll, SOCKETS, TEXT, assert_refused, payload};

// === lengths ===

#[tokio::test]
async fn lengths_are_utf_16_code_units_both_ways() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let body = "3:4a€3:4😀4:4é€ü6:4\u{1e}😀\"\n1:4";
    poll.send(body).await;
    let answer = poll.get().await.expect_status(200);
    assert_eq!(answer.text(), body);
    assert_eq!(answer.header("content-type"), Some(TEXT));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    // The header counts bytes.
    let length = body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn a_body_that_is_no_payload_is_answered_ok_and_ends_the_session() {
    let echo = Echo::start(&[]);
    for body in [
        "",
        "x",
        ":",
        "2",
        "2:",
        ":4a",
        "-2:4a",
        "+2:4a",
        "2 :4a",
        "0x2:4a",
        "3:4a",
        "1:4a",
        "2:4a3:4",
        "2:4a\u{1e}",
        "99999999999:4a",
        "18446744073709551618:4a",
        // Bytes, characters, and what cuts one.
        "5:4a€",
        "2:4😀",
        "6:4a😀",
        "4:4a",
        // Revision 4's framing.
        "4a",
        "4a\u{1e}4b",
        // Types that no client sends, and none.
        "1:0",
        "1:5",
        "1:7",
        "1:9",
        "1:x",
        "2:é4",
        // Base64 without its type, of another type, and none.
        "5:bAQ==",
        "6:b3AQ==",
        "6:b4A*==",
        "1:b",
    ] {
        let poll = Poll::bare(echo.address).await;
        println!("{body:?}");
        poll.send(body).await;
        assert!(!poll.is_known().await, "{body:?}");
    }
    let poll = Poll::bare(echo.address).await;
    poll.send(b"2:4\xff").await;
    assert!(!poll.is_known().await);
}

#[tokio::test]
async fn a_length_in_mid_payload_that_is_wrong_ends_the_session_behind_what_was_before() {
    let server = Server::start(&[]).await;
    let mut other = crate::support::client::Client::websocket(server.address).await;
    other.join("bob").await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let said = |text: &str| {
        format!(
            r#"42["chatMessage",{{"conversation_id":"c","sender_id":"a","receiver_id":"bob","text_content":"{text}"}}]"#
        )
    };
    let body = format!(
        "{}9999:x{}",
        payload(&[&said("heard")]),
        payload(&[&said("lost")])
    );
    poll.send(body).await;
    assert!(!poll.is_known().await);
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    poll.send(payload(&[&said("last")])).await;
    for text in ["heard", "last"] {
        assert_eq!(other.event_named("newMessage").await["text_content"], text);
    }
}

#[tokio::test]
async fn packets_of_no_meaning_are_survived() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    // An answer to no ping, a noop, and the empty packet that some clients write for none.
    for body in ["1:3", "6:3probe", "1:6", "0:", "0:2:4a0:"] {
        poll.send(body).await;
    }
    assert_eq!(poll.text().await, "2:4a");
}

#[tokio::test]
async fn a_poll_brings_sixteen_packets_at_most_and_the_next_one_the_rest() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    poll.send("2:4a".repeat(17)).await;
    assert_eq!(poll.text().await, "2:4a".repeat(16));
    assert_eq!(poll.text().await, "2:4a");
}

#[tokio::test]
async fn a_held_poll_brings_what_comes_meanwhile() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let mut get = poll.hold().await;
    poll.send("3:4€!").await;
    assert_eq!(get.response("GET").await.text(), "3:4€!");
}

// === what is fatal ===

#[tokio::test]
async fn a_second_get_ends_the_session_and_the_first_is_told() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let mut first = Connection::open(echo.address).await;
    first.send("GET", &poll.path(), &[], b"").await;
    let (first, second) = tokio::join!(first.response("GET"), poll.get());
    // Two connections: which of them the server sees first is its affair.
    let (held, refused) = match first.status {
        200 => (first, second),
        _ => (second, first),
    };
    assert_eq!((held.status, held.text().as_str()), (200, "1:1"));
    assert_refused(&refused, 3, "Bad request");
    assert!(!poll.is_known().await);
}

#[tokio::test]
async fn a_second_post_ends_the_session() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let mut first = Connection::open(echo.address).await;
    let headers = [("Content-Length", "4")];
    first.send("POST", &poll.path(), &headers, b"2:").await;
    let refused = async {
        loop {
            let answer = poll.post("1:6").await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let refused = within("a second POST to be refused", refused).await;
    assert_refused(&refused, 3, "Bad request");
    assert!(!poll.is_known().await);
}

#[tokio::test]
async fn a_cancelled_get_ends_the_session() {
    let echo = Echo::start(&[]);
    // A GET whose end is read together with it is never held: the next round's may be.
    for _ in 0..5 {
        let poll = Poll::bare(echo.address).await;
        let get = poll.hold().await;
        poll.send("1:6").await;
        drop(get);
        if timeout(DEADLINE / 2, poll.forgotten()).await.is_ok() {
            return;
        }
    }
    panic!("no cancelled GET ended its session");
}

#[tokio::test]
async fn a_post_that_breaks_off_ends_the_session_and_nothing_of_it_is_done() {
    let echo = Echo::start(&[]);
    for (start, body, told) in [
        (BARE, "2:4a2:4b", "1:1"),
        ("/engine.io/?EIO=4", "4a\u{1e}4b", "1"),
    ] {
        // The GET and the POST come on two connections: now and then the POST's end is met first.
        for round in 1.. {
            let (poll, _) = Poll::open(echo.address, start).await;
            let mut get = poll.hold().await;
            let mut post = Connection::open(echo.address).await;
            let headers = [("Content-Length", "100"), ("Expect", "100-continue")];
            post.send("POST", &poll.path(), &headers, b"").await;
            // Begun, as this shows. It has no body, as the answer to a HEAD.
            post.response("HEAD").await.expect_status(100);
            post.send_bytes(body.as_bytes()).await;
            drop(post);
            poll.forgotten().await;
            let held = get.response("GET").await;
            if held.status == 200 {
                assert_eq!(held.text(), told);
                break;
            }
            assert_refused(&held, 1, "Session ID unknown");
            assert!(round < 50, "no GET was held");
        }
    }
}

#[tokio::test]
async fn a_session_that_the_server_ended_and_nobody_polls_is_let_go() {
    let echo = Echo::start(&["--ping-interval-ms", "300", "--ping-timeout-ms", "200"]);
    for (start, kick) in [
        (SOCKETS, "10:42[\"kick\"]"),
        ("/socket.io/?EIO=4", "40\u{1e}42[\"kick\"]"),
    ] {
        let (poll, _) = Poll::open(echo.address, start).await;
        poll.send(kick).await;
        // It takes nothing more, and waits to be told until the heartbeat would have ended it.
        assert_refused(&poll.post("").await, 1, "Session ID unknown");
        poll.forgotten().await;
    }
}

#[tokio::test]
async fn a_client_says_goodbye_and_its_held_poll_is_let_go() {
    let echo = Echo::start(&[]);
    for round in 1.. {
        let poll = Poll::bare(echo.address).await;
        let mut get = poll.hold().await;
        poll.send("1:1").await;
        let held = get.response("GET").await;
        assert_refused(&poll.get().await, 1, "Session ID unknown");
        if held.status == 200 {
            assert_eq!(held.text(), "1:6");
            return;
        }
        assert!(round < 50, "no GET was held");
    }
}

#[tokio::test]
async fn a_session_that_the_server_ends_is_told_behind_what_waits() {
    let echo = Echo::start(&[]);
    let (poll, _) = Poll::open(echo.address, SOCKETS).await;
    poll.send(payload(&["42[\"message\",1]", "42[\"kick\"]"]))
        .await;
    // The example greets each socket first; the answer to the handshake may or may not have brought that.
    let first = poll.text().await;
    assert!(
        first.ends_with(&payload(&["42[\"message-back\",1]"])),
        "{first}"
    );
    assert_eq!(poll.text().await, "1:1");
    assert!(!poll.is_known().await);
}

// === what is not ===

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_413_and_no_harm() {
    let server = Server::start(&[]).await;
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    for kind in ["text/plain", OCTETS] {
        let exact = sized(1_000_000, kind);
        poll.post_as(kind, &exact).await.expect_status(200);
        let over = sized(1_000_001, kind);
        poll.post_as(kind, &over).await.expect_status(413);
        poll.send(payload(&["421[\"joinRoom\",\"ann\"]"])).await;
        assert_eq!(poll.text().await, payload(&["431[{\"status\":\"ok\"}]"]));
    }
}

#[tokio::test]
async fn other_methods_harm_nothing_and_other_transports_are_refused() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    for method in ["PUT", "DELETE", "HEAD"] {
        let answer = http::request(echo.address, method, &poll.path(), &[], b"").await;
        assert_eq!(answer.status, 500, "{method}");
    }
    let path = poll
        .path()
        .replace("transport=polling", "transport=websocket");
    assert_refused(&http::get(echo.address, &path).await, 3, "Bad request");
    poll.send("2:4a").await;
    assert_eq!(poll.text().await, "2:4a");
}

/// An event that nobody handles, in a body of so many bytes.
fn sized(bytes: usize, kind: &str) -> Vec<u8> {
    let event = |filling: usize| format!("42[\"nothing\",\"{}\"]", "x".repeat(filling));
    let body = |filling: usize| {
        let event = event(filling);
        match kind {
            OCTETS => [&[0][..], &digits(event.len()), &[255], event.as_bytes()].concat(),
            _ => payload(&[&event]).into_bytes(),
        }
    };
    let body = body(bytes - body(900_000).len() + 900_000);
    assert_eq!(body.len(), bytes);
    body
}

/// A length of the binary framing.
fn digits(length: usize) -> Vec<u8> {
    let digits = length.to_string();
    digits.bytes().map(|digit| digit - b'0').collect()
}
