//! The same client_message_id again is the same message: at once, in one batch, after a crash, from another transport.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::client::Client;
use support::history;
use support::server::Server;

#[tokio::test]
async fn a_resend_is_answered_with_the_first_message_and_shown_once() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut again = Client::polling(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let first = accepted(&mut ann, draft("hello", "c1")).await;
    for _ in 0..3 {
        assert_eq!(accepted(&mut ann, draft("hello", "c1")).await, first);
        assert_eq!(accepted(&mut again, draft("hello", "c1")).await, first);
    }
    for _ in 0..4 {
        assert_eq!(ann.event_named("messageSent").await, first);
    }
    assert_eq!(bob.event_named("newMessage").await, first);
    assert!(bob.events_until_now().await.is_empty());
    assert_eq!(history::whole(server.address, "talk").await, [first]);
}

#[tokio::test]
async fn the_same_client_message_id_with_other_content_is_another_message() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut all = Vec::new();
    let mut variants = vec![draft("one", "1"), draft("two", "1"), draft("one", "2")];
    for (field, value) in [("sender_id", "eve"), ("attachment_filename", "a.txt")] {
        let mut variant = draft("one", "1");
        variant[field] = json!(value);
        variants.push(variant);
    }
    for variant in &variants {
        all.push(accepted(&mut ann, variant.clone()).await);
    }
    for (variant, first) in variants.iter().zip(&all) {
        assert_eq!(accepted(&mut ann, variant.clone()).await, *first);
    }
    let mut elsewhere = draft("one", "1");
    elsewhere["conversation_id"] = json!("other");
    let other = accepted(&mut ann, elsewhere).await;
    assert_ne!(other["_id"], all[0]["_id"]);
    assert_eq!(history::whole(server.address, "talk").await, all);
    // The same text, escaped in another way.
    ann.send_packet(r#"42["chatMessage",{"client_message_id":1,"text_content":"\u006fne","conversation_id":"talk","sender_id":"ann","receiver_id":"bob"}]"#).await;
    while ann.event_named("messageSent").await != other {}
    assert_eq!(ann.event_named("messageSent").await, all[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sockets_that_send_the_same_at_once_get_one_message() {
    let server = Server::start(&[]).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    for round in 0..10 {
        let mut senders = JoinSet::new();
        for _ in 0..8 {
            let mut client = Client::websocket(server.address).await;
            senders.spawn(
                async move { accepted(&mut client, draft("same", &round.to_string())).await },
            );
        }
        let messages = senders.join_all().await;
        assert!(
            messages.iter().all(|message| *message == messages[0]),
            "{messages:#?}"
        );
        assert_eq!(bob.event_named("newMessage").await, messages[0]);
    }
    assert!(bob.events_until_now().await.is_empty());
    assert_eq!(history::whole(server.address, "talk").await.len(), 10);
}

#[tokio::test]
async fn copies_in_one_payload_are_one_message() {
    let server = Server::start(&[]).await;
    let mut ann = Client::polling(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let copy = format!("42[\"chatMessage\",{}]", draft("same", "c"));
    let other = format!("42[\"chatMessage\",{}]", draft("other", "c"));
    let body = [copy.as_str(), &copy, &other, &copy, &other].join("\u{1e}");
    ann.polling_transport()
        .post(body.as_bytes())
        .await
        .expect_status(200);
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(ann.event_named("messageSent").await);
    }
    sent.sort_by_key(|message| message["seq"].as_u64());
    sent.dedup();
    assert_eq!(sent.len(), 2);
    for message in &sent {
        assert_eq!(bob.event_named("newMessage").await, *message);
    }
    assert!(bob.events_until_now().await.is_empty());
    assert_eq!(history::whole(server.address, "talk").await, sent);
}

#[tokio::test]
async fn a_resend_after_a_crash_is_still_the_first_message() {
    let mut server = Server::start(&[]).await;
    for round in 0..3 {
        let mut ann = Client::websocket(server.address).await;
        let named = draft("named", &round.to_string());
        let first = accepted(&mut ann, named.clone()).await;
        server.kill9().await;
        server = server.restart().await;
        let mut ann = Client::websocket(server.address).await;
        let mut bob = Client::websocket(server.address).await;
        bob.join("bob").await;
        assert_eq!(accepted(&mut ann, named).await, first);
        let next = accepted(&mut ann, draft("next", &format!("n{round}"))).await;
        assert!(next["seq"].as_u64() > first["seq"].as_u64());
        assert_eq!(
            bob.event_named("newMessage").await,
            next,
            "the resend is not shown"
        );
        assert!(bob.events_until_now().await.is_empty());
        assert_eq!(
            history::whole(server.address, "talk").await.len(),
            2 * (round + 1)
        );
    }
}

fn draft(text: &str, client_message_id: &str) -> Value {
    json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob", "text_content": text,
        "client_message_id": client_message_id})
}

async fn accepted(client: &mut Client, data: Value) -> Value {
    let answer = client.emit_with_ack("chatMessage", data.clone()).await;
    assert_eq!(answer["status"], "ok", "{data}: {answer}");
    answer["message"].clone()
}
