//! Binary messages on polling of revision 3: the binary framing, and base64 for those who cannot read it.

use crate::support::echo::Echo;
use crate::support::http;
use crate::{BARE, OCTETS, Poll, TEXT};

#[tokio::test]
async fn an_answer_with_a_binary_message_is_framed_in_bytes() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    poll.send("3:4é€10:b4AQIDBP8=2:4a").await;
    let answer = poll.get().await.expect_status(200);
    assert_eq!(answer.header("content-type"), Some(OCTETS));
    // Text is counted in bytes here; the binary packet's type is the number 4.
    let text = [&[0, 6, 255][..], "4é€".as_bytes()].concat();
    let binary = b"\x01\x06\xff\x04\x01\x02\x03\x04\xff";
    assert_eq!(answer.body, [&text[..], binary, b"\x00\x02\xff4a"].concat());
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn an_answer_of_text_alone_stays_text_whatever_went_before() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    poll.send("6:b4AQ==").await;
    assert_eq!(poll.get().await.header("content-type"), Some(OCTETS));
    for (sent, back) in [("2:4a", "2:4a"), ("1:2", "1:3"), ("3:4€€", "3:4€€")] {
        poll.send(sent).await;
        let answer = poll.get().await;
        assert_eq!(answer.header("content-type"), Some(TEXT));
        assert_eq!(answer.text(), back);
    }
    // The seventeenth packet is binary, and in the next answer.
    poll.send(format!("{}6:b4AQ==", "2:4a".repeat(16))).await;
    assert_eq!(poll.get().await.header("content-type"), Some(TEXT));
    assert_eq!(poll.get().await.body, b"\x01\x02\xff\x04\x01");
}

#[tokio::test]
async fn lengths_of_the_binary_framing_are_decimal_digits() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    for (bytes, head) in [
        (0, &[1, 1, 255][..]),
        (8, &[1, 9, 255]),
        (9, &[1, 1, 0, 255]),
        (255, &[1, 2, 5, 6, 255]),
        (70_000, &[1, 7, 0, 0, 0, 1, 255]),
    ] {
        let body = [head, &[4], &vec![7; bytes]].concat();
        poll.post_as(OCTETS, &body).await.expect_status(200);
        assert_eq!(poll.get().await.body, body, "{bytes}");
    }
}

#[tokio::test]
async fn a_client_with_b64_gets_base64_with_the_type_in_front() {
    let echo = Echo::start(&[]);
    let (poll, _) = Poll::open(echo.address, &format!("{BARE}&b64=1")).await;
    poll.send("10:b4AQIDBP8=3:4é€").await;
    let answer = poll.get().await.expect_status(200);
    assert_eq!(answer.header("content-type"), Some(TEXT));
    assert_eq!(answer.text(), "10:b4AQIDBP8=3:4é€");
    // What it posts may be framed in bytes all the same.
    let body = b"\x01\x02\xff\x04\x01";
    poll.post_as(OCTETS, body).await.expect_status(200);
    assert_eq!(poll.text().await, "6:b4AQ==");
}

#[tokio::test]
async fn base64_is_what_the_handshake_said_and_not_what_a_later_request_says() {
    let echo = Echo::start(&[]);
    for (first, later, is_base64) in [("", "&b64=1", false), ("&b64=1", "", true)] {
        let (mut poll, _) = Poll::open(echo.address, &format!("{BARE}{first}")).await;
        poll.start = format!("{BARE}{later}");
        poll.send("6:b4AQ==").await;
        let expected: &[u8] = match is_base64 {
            true => b"6:b4AQ==",
            false => b"\x01\x02\xff\x04\x01",
        };
        assert_eq!(poll.get().await.body, expected);
    }
}

#[tokio::test]
async fn revision_4_knows_no_type_in_base64_whatever_b64_says() {
    let echo = Echo::start(&[]);
    for b64 in ["", "&b64=1"] {
        let (poll, _) = Poll::open(echo.address, &format!("/engine.io/?EIO=4{b64}")).await;
        poll.send("bAQID\u{1e}4a").await;
        let answer = poll.get().await;
        assert_eq!(answer.header("content-type"), Some(TEXT));
        assert_eq!(answer.text(), "bAQID\u{1e}4a");
    }
}

#[tokio::test]
async fn a_body_of_octets_brings_text_and_binary_in_order() {
    let echo = Echo::start(&[]);
    for kind in [OCTETS, "Application/Octet-Stream; charset=x"] {
        let (poll, _) = Poll::open(echo.address, &format!("{BARE}&b64=1")).await;
        let body = [
            &b"\x00\x04\xff4\xe2\x82\xac"[..],
            b"\x01\x03\xff\x04\x00\xff",
            b"\x00\x06\xffb4AQ==",
            b"\x00\x01\xff2",
        ];
        poll.post_as(kind, body.concat()).await.expect_status(200);
        assert_eq!(poll.text().await, "2:4€6:b4AP8=6:b4AQ==1:3");
    }
}

#[tokio::test]
async fn octets_that_are_no_payload_are_answered_ok_and_end_the_session() {
    let echo = Echo::start(&[]);
    for body in [
        &b""[..],
        b"2:4a",
        b"\x00",
        b"\x02\x02\xff4a",
        b"\x00\xff4a",
        b"\x00\x02",
        b"\x00\x03\xff4a",
        b"\x00\x01\xff4a",
        b"\x00\x0a\xff4aaaaaaaaa",
        b"\x00\x32\xff4a",
        b"\x00\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\xff4a",
        b"\x00\x00\xff",
        b"\x00\x02\xff4\xff",
        // Binary packets of another type, of the digit's, and of none.
        b"\x01\x02\xff\x02\x01",
        b"\x01\x02\xff4a",
        b"\x01\x00\xff",
    ] {
        let poll = Poll::bare(echo.address).await;
        let answer = poll.post_as(OCTETS, body).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert!(!poll.is_known().await, "{body:?}");
    }
}

#[tokio::test]
async fn octets_under_another_content_type_are_no_payload() {
    let echo = Echo::start(&[]);
    let poll = Poll::bare(echo.address).await;
    let headers = [("Content-Type", "text/plain")];
    let body = b"\x00\x02\xff4a";
    http::request(echo.address, "POST", &poll.path(), &headers, body)
        .await
        .expect_status(200);
    assert!(!poll.is_known().await);
}
