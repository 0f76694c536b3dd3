//! Quote events on the admin listener: one system message each, in every shape, however often they come.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::client::Client;
use support::history;
use support::http::{self, Response};
use support::server::Server;

#[tokio::test]
async fn an_accepted_quote_is_one_system_message_to_both_people() {
    let server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    let mut professional = Client::polling(server.address).await;
    let mut other = Client::websocket(server.address).await;
    client.join("c").await;
    professional.join("p").await;
    other.join("system").await;
    let message = post(server.admin, &event("q1"))
        .await
        .expect_status(202)
        .json();
    assert_eq!(client.event_named("newMessage").await, message);
    assert_eq!(professional.event_named("newMessage").await, message);
    for (field, value) in [
        ("message_type", json!("system")),
        ("sender_id", json!("system")),
        ("receiver_id", json!("c")),
        ("participants", json!(["c", "p"])),
        ("conversation_id", json!("c:p")),
        ("is_spam", json!(false)),
        (
            "metadata",
            json!({"event_type": "QUOTE_ACCEPTED", "quote_id": "q1"}),
        ),
    ] {
        assert_eq!(message[field], value, "{message}");
    }
    assert!(
        message["text_content"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    for _ in 0..3 {
        assert_eq!(
            post(server.admin, &event("q1"))
                .await
                .expect_status(200)
                .json(),
            message
        );
    }
    assert!(client.events_until_now().await.is_empty());
    assert!(other.events_until_now().await.is_empty());
    assert_eq!(history::whole(server.address, "c:p").await, [message]);
}

#[tokio::test]
async fn every_shape_of_the_event_is_understood() {
    let server = Server::start(&[]).await;
    let snake = |n: &str| json!({"quote_id": n, "client_id": "c", "professional_id": "p", "conversation_id": "talk"});
    let camel = |n: &str| json!({"quoteId": n, "clientId": "c", "professionalId": "p", "conversationId": "talk"});
    let mut expected = Vec::new();
    for (number, name) in ["event_type", "eventType", "type", "event"]
        .into_iter()
        .enumerate()
    {
        for (shape, fields) in [snake, camel].into_iter().enumerate() {
            for place in ["", "data", "payload"] {
                let fields = fields(&format!("{number}{shape}{place}"));
                let mut event = if place.is_empty() {
                    fields
                } else {
                    json!({place: fields})
                };
                event[name] = json!("QUOTE_ACCEPTED");
                let answer = post(server.admin, &event).await;
                assert_eq!(answer.status, 202, "{event}: {}", answer.text());
                expected.push(answer.json());
            }
        }
    }
    assert_eq!(history::whole(server.address, "talk").await, expected);
    let numbers = json!({"type": "QUOTE_ACCEPTED", "quote_id": 7, "client_id": 1, "professional_id": 2, "conversation_id": null});
    let message = post(server.admin, &numbers).await.expect_status(202).json();
    assert_eq!(
        (&message["participants"], &message["conversation_id"]),
        (&json!(["1", "2"]), &json!("1:2"))
    );
}

#[tokio::test]
async fn other_types_are_ignored_and_what_cannot_be_read_is_refused() {
    let server = Server::start(&[]).await;
    for kind in ["QUOTE_REJECTED", "quote_accepted", "x", "<b>\"\u{1e}"] {
        let answer = post(server.admin, &json!({"type": kind, "quote_id": "q"}))
            .await
            .expect_status(200);
        assert_eq!(answer.json(), json!({"ignored": kind}));
    }
    let mut bad = vec![
        json!({}),
        json!([]),
        json!(1),
        json!("QUOTE_ACCEPTED"),
        json!(null),
        json!({"type": ""}),
        json!({"type": 1}),
        json!({"type": null, "quote_id": "q"}),
        json!({"data": {"type": "QUOTE_ACCEPTED"}}),
    ];
    for name in ["quote_id", "client_id", "professional_id"] {
        for value in [
            Value::Null,
            json!(""),
            json!({}),
            json!([]),
            json!(true),
            json!(1.5),
            json!("x".repeat(1025)),
        ] {
            let mut event = event("q");
            event[name] = value;
            bad.push(event);
        }
    }
    for event in &bad {
        let answer = post(server.admin, event).await;
        assert_error(&answer, 400, "invalid");
    }
    for body in [
        b"".as_slice(),
        b"{",
        b"\xff",
        b"{\"type\":\"QUOTE_ACCEPTED\"",
        &b"[".repeat(60_000),
    ] {
        assert_error(
            &http::request(server.admin, "POST", "/quote-events", &[], body).await,
            400,
            "invalid",
        );
    }
    let mut large = event("q");
    large["surplus"] = json!("x".repeat(64 << 10));
    assert_error(&post(server.admin, &large).await, 413, "too_large");
    // A page in an operator's browser, which may reach this port, needs no leave to post.
    let page = [("Origin", "https://elsewhere.example")];
    let body = event("q").to_string();
    let of_page = http::request(
        server.admin,
        "POST",
        "/quote-events",
        &page,
        body.as_bytes(),
    );
    assert_error(&of_page.await, 403, "forbidden");
    assert!(history::whole(server.address, "c:p").await.is_empty());
    let mut wrong = http::get(server.admin, "/quote-events")
        .await
        .expect_status(405);
    assert_eq!(wrong.header("allow"), Some("POST"));
    wrong = http::request(server.address, "POST", "/quote-events", &[], b"{}").await;
    assert_error(&wrong, 404, "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_quote_many_times_at_once_and_after_a_crash_is_one_message() {
    let mut server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    client.join("c").await;
    let mut messages = Vec::new();
    for round in 0..5 {
        let mut posts = JoinSet::new();
        for _ in 0..8 {
            let (admin, event) = (server.admin, event(&format!("q{round}")));
            posts.spawn(async move { post(admin, &event).await });
        }
        let answers = posts.join_all().await;
        assert_eq!(
            answers.iter().filter(|answer| answer.status == 202).count(),
            1
        );
        assert!(
            answers
                .iter()
                .all(|answer| answer.json() == answers[0].json())
        );
        messages.push(answers[0].json());
        assert_eq!(client.event_named("newMessage").await, messages[round]);
    }
    assert!(client.events_until_now().await.is_empty());
    server.kill9().await;
    let server = server.restart().await;
    assert_eq!(
        post(server.admin, &event("q0"))
            .await
            .expect_status(200)
            .json(),
        messages[0]
    );
    assert_eq!(history::whole(server.address, "c:p").await, messages);
}

fn event(quote: &str) -> Value {
    json!({"event_type": "QUOTE_ACCEPTED", "quote_id": quote, "client_id": "c", "professional_id": "p"})
}

async fn post(admin: SocketAddr, event: &Value) -> Response {
    http::request(
        admin,
        "POST",
        "/quote-events",
        &[],
        event.to_string().as_bytes(),
    )
    .await
}

fn assert_error(answer: &Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], code);
    assert!(answer.json()["error"]["message"].is_string());
}
