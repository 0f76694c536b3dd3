//! Polling by scripts and forms: answers that a page runs, bodies that a form sends, over either revision.

use crate::support::echo::Echo;
use crate::support::http;
use crate::support::http::Response;
use crate::support::server::Server;
use crate::support::websocket::WebSocket;
use crate::{BARE, Poll, SOCKETS, assert_refused};

const FORM: &str = "application/x-www-form-urlencoded";

async fn bare(echo: &Echo) -> Poll {
    Poll::open(echo.address, &format!("{BARE}&j=0")).await.0
}

/// Posts a form with this payload in its field, percent-encoded.
async fn post(poll: &Poll, payload: &str) {
    let encoded: String = payload.bytes().map(|b| format!("%{b:02X}")).collect();
    let answer = poll.post_as(FORM, format!("d={encoded}")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

fn assert_script(answer: &Response, script: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), script);
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("text/javascript; charset=UTF-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let length = script.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn each_answer_calls_the_function_that_the_handshake_named() {
    let server = Server::start(&[]).await;
    for (j, n) in [
        ("0", "0"),
        ("17", "17"),
        ("x1y2);alert(", "12"),
        ("%3C4%3E", "4"),
        ("007", "7"),
    ] {
        let (poll, answer) = Poll::open(server.address, &format!("{SOCKETS}&j={j}")).await;
        let text = answer.text();
        let start = format!("___eio[{n}](\"");
        assert!(text.starts_with(&start), "{text}");
        assert!(text.ends_with("}2:40\");"), "{text}");
        poll.post_as(FORM, "d=1:2").await.expect_status(200);
        assert_script(&poll.get().await, &format!("___eio[{n}](\"1:3\");"));
    }
    for j in ["", "x", "alert()", "99999999999"] {
        let path = format!("{SOCKETS}&transport=polling&j={j}");
        assert_refused(&http::get(server.address, &path).await, 3, "Bad request");
    }
}

#[tokio::test]
async fn an_answer_is_a_javascript_string() {
    let echo = Echo::start(&[]);
    let poll = bare(&echo).await;
    post(&poll, "13:4\"\\</script>€").await;
    assert_script(&poll.get().await, "___eio[0](\"13:4\\\"\\\\</script>€\");");
    // Lengths are those of the text before it was escaped.
    post(&poll, "5:4\u{2028}\u{2029}😀").await;
    let escaped = "___eio[0](\"5:4\\u2028\\u2029😀\");";
    assert_script(&poll.get().await, escaped);
}

#[tokio::test]
async fn line_ends_and_backslashes_come_through_a_form() {
    let echo = Echo::start(&[]);
    let poll = bare(&echo).await;
    // What clients write for a line end, for a backslash with an `n` behind it, and for a lone backslash.
    for (posted, answered) in [
        ("4:4a\\nb", "4:4a\\nb"),
        ("5:4a\\\\nb", "5:4a\\\\nb"),
        ("4:4a\\b", "4:4a\\\\b"),
    ] {
        post(&poll, posted).await;
        assert_script(&poll.get().await, &format!("___eio[0](\"{answered}\");"));
    }
    // A plus is a blank, and other fields are passed over.
    let answer = poll.post_as(FORM, "x=1&d=4%3A4a+b&y=2").await;
    assert_eq!(answer.text(), "ok");
    assert_script(&poll.get().await, "___eio[0](\"4:4a b\");");
}

#[tokio::test]
async fn a_form_without_the_field_or_with_no_payload_ends_the_session() {
    let echo = Echo::start(&[]);
    for body in ["", "d", "d=", "e=2:4a", "2:4a", "d=4a", "d=%FF"] {
        let poll = bare(&echo).await;
        let answer = poll.post_as(FORM, body).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert!(!poll.is_known().await, "{body}");
    }
}

#[tokio::test]
async fn binary_messages_are_base64() {
    let echo = Echo::start(&[]);
    let poll = bare(&echo).await;
    post(&poll, "10:b4AQIDBP8=").await;
    assert_script(&poll.get().await, "___eio[0](\"10:b4AQIDBP8=\");");
    let (poll, _) = Poll::open(echo.address, "/engine.io/?EIO=4&j=3").await;
    post(&poll, "bAQIDBP8=\u{1e}4€").await;
    assert_script(&poll.get().await, "___eio[3](\"bAQIDBP8=\\u001e4€\");");
}

#[tokio::test]
async fn it_is_the_handshake_that_makes_it_so() {
    let echo = Echo::start(&[]);
    for (first, later, expected) in [
        ("&j=5", "", "___eio[5](\"1:3\");"),
        ("&j=5", "&j=6", "___eio[5](\"1:3\");"),
        ("", "&j=6", "1:3"),
    ] {
        let (mut poll, _) = Poll::open(echo.address, &format!("{BARE}{first}")).await;
        poll.start = format!("{BARE}{later}");
        let body = if first.is_empty() { "1:2" } else { "d=1:2" };
        poll.post_as(FORM, body).await.expect_status(200);
        assert_eq!(poll.text().await, expected);
    }
}

#[tokio::test]
async fn a_session_of_scripts_upgrades_like_any_other() {
    let echo = Echo::start(&[]);
    let poll = bare(&echo).await;
    let mut get = poll.hold().await;
    let mut socket = poll.probe("").await;
    assert_eq!(get.response("GET").await.text(), "___eio[0](\"1:6\");");
    socket.send_text("5").await.unwrap();
    socket.send_text("4\n").await.unwrap();
    assert_eq!(socket.text().await, "4\n");
}

#[tokio::test]
async fn scripts_can_be_switched_off() {
    let server = Server::start(&[("ALLOW_JSONP", "false")]).await;
    for start in [SOCKETS, "/socket.io/?EIO=4"] {
        let path = format!("{start}&transport=polling&j=0");
        assert_refused(&http::get(server.address, &path).await, 3, "Bad request");
        let path = format!("{start}&transport=polling");
        http::get(server.address, &path).await.expect_status(200);
    }
}

#[tokio::test]
async fn a_websocket_does_not_look_at_j() {
    let server = Server::start(&[("ALLOW_JSONP", "false")]).await;
    for j in ["0", "x"] {
        let path = format!("{SOCKETS}&transport=websocket&j={j}");
        let mut socket = WebSocket::open(server.address, &path, &[]).await.unwrap();
        assert!(socket.text().await.starts_with("0{"));
        assert_eq!(socket.text().await, "40");
    }
}
