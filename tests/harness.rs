//! The shared test tree against the server: each transport carries a message both ways, and the move between them
//! keeps what was on its way.

mod support;

use serde_json::{Value, json};

use support::client::Client;
use support::server::Server;
use support::{history, http};

#[tokio::test]
async fn two_people_talk_over_a_websocket_and_polling() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    ann.join("ann").await;
    bob.join("bob").await;
    ann.emit("chatMessage", draft("ann", "bob", "over the websocket"))
        .await;
    let sent = ann.event_named("messageSent").await;
    assert_eq!(bob.event_named("newMessage").await, sent);
    let answer = bob
        .emit_with_ack("chatMessage", draft("bob", "ann", "by polling"))
        .await;
    assert_eq!(answer["status"], "ok");
    assert_eq!(ann.event_named("newMessage").await, answer["message"]);
    let stored = history::whole(server.address, "talk").await;
    assert_eq!(stored, [sent, answer["message"].clone()]);
}

#[tokio::test]
async fn an_upgrade_keeps_the_session_and_the_order() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    bob.join("bob").await;
    bob.polling_transport().send_get().await;
    bob.upgrade().await;
    for number in 0..20 {
        ann.emit("chatMessage", draft("ann", "bob", &number.to_string()))
            .await;
    }
    for number in 0..20 {
        let message = bob.event_named("newMessage").await;
        assert_eq!(message["text_content"], number.to_string());
    }
    assert!(bob.events_until_now().await.is_empty());
}

#[tokio::test]
async fn typing_reaches_the_other_person() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let typing = json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob"});
    ann.emit("typing", typing.clone()).await;
    assert_eq!(bob.event_named("typing").await, typing);
}

#[tokio::test]
async fn bytes_that_are_no_request_end_that_connection_only() {
    let server = Server::start(&[]).await;
    let answer = http::raw(server.address, b"NOT HTTP AT ALL\r\n\r\n").await;
    assert!(answer.is_none_or(|answer| answer.status == 400));
    http::get(server.address, "/health")
        .await
        .expect_status(200);
}

fn draft(sender: &str, receiver: &str, text: &str) -> Value {
    json!({
        "conversation_id": "talk",
        "sender_id": sender,
        "receiver_id": receiver,
        "text_content": text,
    })
}
