//! The chat's events on the wire: order, rooms, who hears what, and the configured rates.

use serde_json::{Value, json};

use crate::draft;
use crate::support::client::Client;
use crate::support::history;
use crate::support::packet::Event;
use crate::support::server::Server;

#[tokio::test]
async fn one_sockets_messages_are_heard_in_the_order_sent() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    let mut polling = Client::polling(server.address).await;
    bob.join("bob").await;
    polling.join("bob").await;
    for n in 0..400 {
        // The one thing order may rest on is the socket: conversations differ.
        let mut draft = draft("ann", "bob", &n.to_string());
        draft["conversation_id"] = json!(format!("talk-{}", n % 7));
        ann.emit("chatMessage", draft).await;
    }
    for reader in [&mut ann, &mut bob, &mut polling] {
        let mut next = [0, 1, 2, 3, 4, 5, 6];
        for _ in 0..400 {
            let event = reader.event().await;
            let n: usize = event.data()["text_content"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(n, next[n % 7], "{} in its conversation", event.name);
            next[n % 7] += 7;
        }
        assert_eq!(reader.events_until_now().await, []);
    }
}

#[tokio::test]
async fn each_socket_of_a_user_hears_once_and_others_hear_nothing() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(Client::websocket(server.address).await);
        sockets.push(Client::polling(server.address).await);
    }
    for socket in &mut sockets {
        socket.join("bob").await;
        socket.join("bob").await;
    }
    let mut other = Client::websocket(server.address).await;
    other.join("Bob").await;
    other.join("bob ").await;
    let answer = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", "hi"))
        .await;
    for socket in &mut sockets {
        let events = heard(socket, 1).await;
        assert_eq!(events[0].name, "newMessage");
        assert_eq!(events[0].data(), &answer["message"]);
    }
    assert_eq!(other.events_until_now().await, []);
    let told = heard(&mut ann, 1).await;
    assert_eq!(
        (told[0].name.as_str(), told[0].data()),
        ("messageSent", &answer["message"])
    );
}

#[tokio::test]
async fn a_message_to_oneself_is_sent_and_heard() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    ann.join("ann").await;
    ann.emit("chatMessage", draft("ann", "ann", "note")).await;
    let names: Vec<_> = heard(&mut ann, 2)
        .await
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert!(names.contains(&"messageSent".into()) && names.contains(&"newMessage".into()));
}

#[tokio::test]
async fn a_socket_in_two_rooms_hears_a_system_message_once() {
    let server = Server::start(&[]).await;
    let mut both = Client::websocket(server.address).await;
    let mut professional = Client::websocket(server.address).await;
    both.join("client-1").await;
    both.join("pro-1").await;
    professional.join("pro-1").await;
    let event = json!({
        "event_type": "QUOTE_ACCEPTED", "quote_id": "q1", "client_id": "client-1", "professional_id": "pro-1",
    });
    let headers = [("Content-Type", "application/json")];
    let body = event.to_string();
    let answer = crate::support::http::request(
        server.admin,
        "POST",
        "/quote-events",
        &headers,
        body.as_bytes(),
    );
    let message = answer.await.expect_status(202).json();
    for socket in [&mut both, &mut professional] {
        let events = heard(socket, 1).await;
        assert_eq!(events[0].name, "newMessage");
        assert_eq!(events[0].data()["_id"], message["_id"]);
    }
}

#[tokio::test]
async fn a_room_is_one_string_that_is_neither_empty_nor_long() {
    let server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    let longest = "é".repeat(512);
    for good in [
        json!("ann"),
        json!(" "),
        json!(longest),
        json!(42),
        json!("__proto__"),
        json!("*"),
        json!("null"),
        json!("a\u{0}b\u{1e}c"),
    ] {
        let answer = client.emit_with_ack("joinRoom", good.clone()).await;
        assert_eq!(answer, json!({"status": "ok"}), "{good}");
    }
    for bad in [
        json!(""),
        json!(null),
        json!(["ann"]),
        json!({"userId": "ann"}),
        json!(1.5),
        json!(true),
    ] {
        let answer = client.emit_with_ack("joinRoom", bad.clone()).await;
        assert_eq!(
            (&answer["status"], &answer["code"]),
            (&json!("error"), &json!("invalid")),
            "{bad}"
        );
        assert!(answer["error"].is_string());
    }
    let answer = client.emit_with_ack("joinRoom", json!(longest + "x")).await;
    assert_eq!(answer["code"], "too_large");
    // Nothing at all, and a second argument.
    client.send_packet("42500[\"joinRoom\"]").await;
    client
        .send_packet("42501[\"joinRoom\",\"ann\",{\"ignored\":true}]")
        .await;
    let packets = [client.packet().await, client.packet().await];
    let texts = format!("{packets:?}");
    assert!(
        texts.contains("43500[{\\\"status\\\":\\\"error\\\"")
            && texts.contains("43501[{\\\"status\\\":\\\"ok\\\"}]"),
        "{texts}"
    );
}

#[tokio::test]
async fn a_thousand_rooms_may_be_joined_and_not_one_more() {
    let server = Server::start(&[]).await;
    let mut client = Client::websocket(server.address).await;
    for n in 0..1_000 {
        client.emit("joinRoom", json!(format!("room-{n}"))).await;
    }
    let answer = client.emit_with_ack("joinRoom", json!("one more")).await;
    assert_eq!(answer["status"], "error", "{answer}");
    // One that it is in already is no more; a socket of its own has its own thousand.
    client.join("room-999").await;
    let mut other = Client::websocket(server.address).await;
    other.join("one more").await;
    let sent = other
        .emit_with_ack("chatMessage", draft("ann", "room-0", "hi"))
        .await;
    assert_eq!(client.event_named("newMessage").await, sent["message"]);
    other
        .emit_with_ack("chatMessage", draft("ann", "one more", "hi"))
        .await;
    other.event_named("newMessage").await;
    assert_eq!(client.events_until_now().await, []);
}

#[tokio::test]
async fn typing_is_relayed_with_its_three_fields_and_not_to_its_sender() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::polling(server.address).await;
    ann.join("bob").await;
    bob.join("bob").await;
    let typing = json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob"});
    let mut more = typing.clone();
    more["_id"] = json!("x");
    more["text_content"] = json!("not this");
    for name in ["typing", "stopTyping"] {
        ann.emit(name, more.clone()).await;
        assert_eq!(bob.event_named(name).await, typing);
    }
    for malformed in [
        json!(null),
        json!("bob"),
        json!([]),
        json!({"receiver_id": "bob"}),
        json!({"sender_id": {}, "receiver_id": "bob"}),
    ] {
        ann.emit("typing", malformed).await;
    }
    assert_eq!(ann.events_until_now().await, []);
    assert_eq!(bob.events_until_now().await, []);
}

#[tokio::test]
async fn messages_over_the_configured_rate_are_refused_by_name() {
    let server = Server::start(&[("MESSAGES_PER_SECOND_MAX", "5")]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut other = Client::websocket(server.address).await;
    for n in 0..40 {
        let mut draft = draft("ann", "bob", &n.to_string());
        draft["client_message_id"] = json!(format!("id-{n}"));
        ann.emit("chatMessage", draft).await;
    }
    let (mut sent, mut refused) = (0, 0);
    for event in heard(&mut ann, 40).await {
        if event.name == "messageSent" {
            sent += 1;
            continue;
        }
        refused += 1;
        assert_eq!(event.name, "messageError");
        assert_eq!(event.data()["code"], "rate_limited");
        assert_eq!(event.data()["retryable"], true);
        assert!(event.data()["client_message_id"].is_string());
    }
    assert!(sent >= 5 && refused >= 1, "{sent} sent, {refused} refused");
    // Each socket has its own.
    let answer = other
        .emit_with_ack("chatMessage", draft("eve", "bob", "hi"))
        .await;
    assert_eq!(answer["status"], "ok");
}

#[tokio::test]
async fn typing_over_the_configured_rate_is_dropped_in_silence() {
    let server = Server::start(&[("TYPING_PER_SECOND_MAX", "3")]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let typing = json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob"});
    for _ in 0..200 {
        ann.emit("typing", typing.clone()).await;
    }
    let sent = ann
        .emit_with_ack("chatMessage", draft("ann", "bob", "after"))
        .await;
    assert_eq!(sent["status"], "ok");
    let mut relayed = 0;
    loop {
        let event = bob.event().await;
        match event.name.as_str() {
            "typing" => relayed += 1,
            _ => break,
        }
    }
    assert!((3..200).contains(&relayed), "{relayed} of 200 relayed");
    let events: Vec<Value> = ann
        .events_until_now()
        .await
        .into_iter()
        .map(|e| e.name.into())
        .collect();
    assert_eq!(events, ["messageSent"]);
}

#[tokio::test]
async fn every_text_comes_back_equal_on_both_transports_and_in_history() {
    let server = Server::start(&[]).await;
    let mut ann = Client::polling(server.address).await;
    let mut bob = Client::polling(server.address).await;
    let mut bea = Client::websocket(server.address).await;
    bob.join("bob").await;
    bea.join("bob").await;
    let texts = [
        "nul \0 and separator \u{1e} and b4AAA=",
        "\u{2028}\u{2029}\u{feff}\u{7f}\u{85}",
        "\u{202e}desrever\u{202c} 👨\u{200d}👩\u{200d}👧 e\u{301} \u{e9}",
        "\\ \" / \\u0041 </script> ${x} %00",
        "\u{10ffff}\u{fffd}\u{ffff}",
        " ",
        "\r\n\t",
    ];
    for text in texts {
        let answer = ann
            .emit_with_ack("chatMessage", draft("ann", "bob", text))
            .await;
        assert_eq!(answer["message"]["text_content"], text);
        for reader in [&mut bob, &mut bea] {
            assert_eq!(reader.event_named("newMessage").await["text_content"], text);
        }
    }
    let stored = history::whole(server.address, "talk").await;
    let stored: Vec<_> = stored
        .iter()
        .map(|m| m["text_content"].as_str().unwrap())
        .collect();
    assert_eq!(stored, texts);
}

#[tokio::test]
async fn text_that_is_no_unicode_is_refused_by_name() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let message = draft("ann", "bob", "SURROGATE").to_string();
    let message = message.replace("SURROGATE", "\\ud800 alone");
    ann.send_packet(&format!("42[\"chatMessage\",{message}]"))
        .await;
    assert_eq!(ann.event_named("messageError").await["code"], "invalid");
    ann.join("ann").await;
}

/// The next events, and that no more are there.
async fn heard(client: &mut Client, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(client.event().await);
    }
    assert_eq!(client.events_until_now().await, []);
    events
}
