//! chatMessage: what is taken as it came, what is refused and how, and who is shown what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use serde_json::{Value, json};

use support::client::Client;
use support::packet::Event;
use support::server::Server;
use support::{history, services};

// === taken ===

#[tokio::test]
async fn a_message_has_the_fields_of_the_contract_and_no_others() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let answer = ann.emit_with_ack("chatMessage", draft("hello")).await;
    let message = &answer["message"];
    let mut names: Vec<_> = message.as_object().unwrap().keys().cloned().collect();
    names.sort();
    let expected = [
        "_id",
        "conversation_id",
        "is_spam",
        "message_type",
        "receiver_id",
        "sender_id",
        "seq",
        "text_content",
        "timestamp",
    ];
    assert_eq!(names, expected);
    assert_eq!(answer["status"], "ok");
    assert_eq!(ann.event_named("messageSent").await, *message);
    assert_eq!(message["is_spam"], false);
    assert_eq!(message["message_type"], "text");
    let id = message["_id"].as_str().unwrap();
    assert!(id.len() == 24 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let time = message["timestamp"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && &time[19..20] == ".");
    assert!(message["seq"].as_u64().unwrap() < 1 << 53);
}

#[tokio::test]
async fn what_only_the_server_may_say_is_ignored_from_a_client() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let forged = json!({
        "_id": "ffffffffffffffffffffffff", "is_spam": true, "timestamp": "1999-01-01T00:00:00.000Z", "seq": 1,
        "message_type": "system", "participants": ["eve"], "metadata": {"x": 1}, "$set": {"is_spam": true},
        "a.b": 1, "__proto__": {"x": 1}, "conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob",
        "text_content": "mine",
    });
    let message = accepted(&mut ann, forged).await;
    assert_ne!(message["_id"], "ffffffffffffffffffffffff");
    assert_eq!(message["is_spam"], false);
    assert_eq!(message["message_type"], "text");
    assert!(message["timestamp"].as_str() > Some("2024"));
    assert!(message["seq"].as_u64() >= Some(1 << 40));
    for absent in ["participants", "metadata", "$set", "a.b", "__proto__"] {
        assert!(message.get(absent).is_none(), "{absent}: {message}");
    }
    assert_eq!(history::whole(server.address, "talk").await, [message]);
}

#[tokio::test]
async fn integers_are_taken_as_their_digits_and_null_and_empty_as_missing() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let message = accepted(
        &mut ann,
        json!({
            "sender_id": 7, "receiver_id": -9_223_372_036_854_775_808_i64, "conversation_id": u64::MAX,
            "client_message_id": 0, "text_content": "x", "attachment_url": null, "attachment_filename": "",
        }),
    )
    .await;
    assert_eq!(message["sender_id"], "7");
    assert_eq!(message["receiver_id"], "-9223372036854775808");
    assert_eq!(message["conversation_id"], "18446744073709551615");
    assert_eq!(message["client_message_id"], "0");
    assert!(
        message.get("attachment_url").is_none() && message.get("attachment_filename").is_none()
    );
    for missing in [Value::Null, json!("")] {
        let data = json!({"sender_id": "b", "receiver_id": "a", "conversation_id": missing,
            "client_message_id": missing, "text_content": " "});
        let message = accepted(&mut ann, data).await;
        assert_eq!(message["conversation_id"], "a:b");
        assert_eq!(message["text_content"], " ", "blanks are text");
        assert!(message.get("client_message_id").is_none());
    }
    let named = json!({"sender_id": "b", "receiver_id": "a", "text_content": "x", "attachment_filename": "a.txt"});
    let message = accepted(&mut ann, named).await;
    assert_eq!(
        (&message["message_type"], &message["attachment_filename"]),
        (&json!("text"), &json!("a.txt"))
    );
}

#[tokio::test]
async fn a_derived_conversation_id_is_the_same_from_both_sides_and_names_one_pair() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let long = "é".repeat(512);
    let cases = [
        ("b", "a", "a:b".to_string()),
        ("a:b", "c", "a%3Ab:c".into()),
        ("a", "b:c", "a:b%3Ac".into()),
        ("ö /?#", "~!*'()-_.", "%C3%B6%20%2F%3F%23:~!*'()-_.".into()),
    ];
    for (one, other, expected) in &cases {
        for (sender, receiver) in [(one, other), (other, one)] {
            let data = json!({"sender_id": sender, "receiver_id": receiver, "text_content": "x"});
            assert_eq!(accepted(&mut ann, data).await["conversation_id"], *expected);
        }
    }
    let there = json!({"sender_id": long, "receiver_id": "b", "text_content": "x"});
    let back = json!({"sender_id": "b", "receiver_id": long, "text_content": "x"});
    let id = accepted(&mut ann, there).await["conversation_id"].clone();
    assert_eq!(accepted(&mut ann, back).await["conversation_id"], id);
    let digits = id.as_str().unwrap().strip_prefix("dm_").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(
        history::whole(server.address, id.as_str().unwrap())
            .await
            .len(),
        2
    );
}

#[tokio::test]
async fn every_text_comes_back_equal_over_both_transports_and_in_history() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut by_polling = Client::polling(server.address).await;
    let mut bob = [
        Client::websocket(server.address).await,
        Client::polling(server.address).await,
    ];
    for reader in &mut bob {
        reader.join("bob").await;
    }
    let mut expected = Vec::new();
    for text in TEXTS.iter().filter(|text| services::can_hold(text)) {
        for sender in [&mut ann, &mut by_polling] {
            let message = accepted(sender, draft(text)).await;
            assert_eq!(message["text_content"], *text);
            for reader in &mut bob {
                assert_eq!(reader.event_named("newMessage").await, message);
            }
            expected.push(message);
        }
    }
    assert_eq!(history::whole(server.address, "talk").await, expected);
}

/// The polling separator, line ends of other worlds, what is invisible, what reads from the right, what is composed.
const TEXTS: &[&str] = &[
    "\0",
    "\u{1e}4\u{1e}2",
    "\u{2028}\u{2029}\u{85}",
    "\u{feff}bom",
    "\u{202e}rtl שלום مرحبا",
    "👩\u{200d}👩\u{200d}👧 🏳\u{fe0f}\u{200d}🌈 \u{1f1e9}\u{1f1ea}",
    "e\u{301} é ﬁ Å \u{212b}",
    "\u{10ffff}\u{fffd}\u{e000}\u{fffe}",
    "\"\\/\u{8}\u{c}\n\r\t\u{7f}",
    "42[\"newMessage\",{}]",
    "<script>alert(1)</script>",
    "\\u0000 \\ud800",
    "{\"$ne\":null}",
    "  \n  ",
];

#[tokio::test]
async fn the_escapes_a_client_chooses_do_not_change_the_text() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let raw = r#"42["chatMessage",{"conversation_id":"talk","sender_id":"\u0061nn","receiver_id":"bob","text_content":"\u00e9\ud83d\ude00\/\u0041"}]"#;
    ann.send_packet(raw).await;
    let message = ann.event_named("messageSent").await;
    assert_eq!(
        (&message["sender_id"], &message["text_content"]),
        (&json!("ann"), &json!("é😀/A"))
    );
    assert_eq!(history::whole(server.address, "talk").await, [message]);
}

#[tokio::test]
async fn a_message_as_large_as_a_payload_may_be_arrives_and_its_sender_stays() {
    let server = Server::start(&[]).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let frame = |text: &str| format!("420[\"chatMessage\",{}]", draft(text));
    let text = "x".repeat(1_000_000 - frame("").len());
    let mut sender = Client::websocket(server.address).await;
    sender.send_packet(&frame(&text)).await;
    let message = sender.event_named("messageSent").await;
    assert_eq!(message["text_content"].as_str().unwrap().len(), text.len());
    assert_eq!(bob.event_named("newMessage").await, message);
    sender.join("still here").await;
    bob.join("still here").await;
}

// === who is shown what ===

#[tokio::test]
async fn a_message_reaches_every_socket_of_its_receiver_once_and_nobody_else() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    ann.join("ann").await;
    let mut bob = [
        Client::websocket(server.address).await,
        Client::polling(server.address).await,
    ];
    for socket in &mut bob {
        socket.join("bob").await;
        socket.join("bob").await;
    }
    let mut eve = Client::websocket(server.address).await;
    eve.join("eve").await;
    let message = accepted(&mut ann, draft("for bob")).await;
    ann.event_named("messageSent").await;
    for socket in &mut bob {
        assert_eq!(socket.event_named("newMessage").await, message);
        assert_eq!(names(&socket.events_until_now().await), [""; 0]);
    }
    assert_eq!(names(&eve.events_until_now().await), [""; 0]);
    assert_eq!(names(&ann.events_until_now().await), [""; 0]);
}

#[tokio::test]
async fn a_message_to_oneself_is_sent_and_received() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    ann.join("ann").await;
    let data = json!({"sender_id": "ann", "receiver_id": "ann", "text_content": "note"});
    let message = accepted(&mut ann, data).await;
    assert_eq!(ann.event_named("newMessage").await, message);
    assert_eq!(message["conversation_id"], "ann:ann");
    assert_eq!(names(&ann.events_until_now().await), ["messageSent"]);
}

#[tokio::test]
async fn ids_that_mean_something_elsewhere_are_plain_strings_here() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bystander = Client::websocket(server.address).await;
    bystander.join("bystander").await;
    let ids = [
        "__proto__",
        "constructor",
        "*",
        "null",
        "/",
        "bob\0",
        "\u{1e}",
        "../..",
        "$ne",
        "%2e",
        " ",
    ];
    for id in ids.into_iter().filter(|id| services::can_hold(id)) {
        let mut reader = Client::websocket(server.address).await;
        reader.join(id).await;
        let data =
            json!({"sender_id": id, "receiver_id": id, "conversation_id": id, "text_content": id});
        let message = accepted(&mut ann, data).await;
        assert_eq!(message["conversation_id"], id);
        assert_eq!(reader.event_named("newMessage").await, message, "{id:?}");
        let segment: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(
            history::whole(server.address, &segment).await,
            [message],
            "{id:?}"
        );
    }
    assert_eq!(names(&bystander.events_until_now().await), [""; 0]);
}

#[tokio::test]
async fn a_socket_id_is_no_address() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    let socket_id = bob.connect("/").await["sid"].as_str().unwrap().to_string();
    for id in [socket_id, bob.sid().to_string()] {
        let data = json!({"sender_id": "ann", "receiver_id": id, "text_content": "psst"});
        accepted(&mut ann, data).await;
    }
    assert_eq!(names(&bob.events_until_now().await), [""; 0]);
}

#[tokio::test]
async fn names_of_the_servers_own_events_are_ignored_from_a_client() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    for name in ["newMessage", "messageSent", "messageError", "error", "x"] {
        ann.emit(name, draft("forged")).await;
    }
    accepted(&mut ann, draft("real")).await;
    assert_eq!(bob.event_named("newMessage").await["text_content"], "real");
    assert_eq!(names(&bob.events_until_now().await), [""; 0]);
    assert_eq!(history::whole(server.address, "talk").await.len(), 1);
}

// === typing and rooms ===

#[tokio::test]
async fn typing_is_relayed_with_its_three_fields_and_never_kept() {
    let server = Server::start(&[]).await;
    let mut ann = [
        Client::websocket(server.address).await,
        Client::websocket(server.address).await,
    ];
    for socket in &mut ann {
        socket.join("ann").await;
    }
    let mut bob = Client::polling(server.address).await;
    bob.join("bob").await;
    for name in ["typing", "stopTyping"] {
        let extra = json!({"conversation_id": null, "sender_id": "ann", "receiver_id": "bob", "text_content": "x"});
        ann[0].emit(name, extra).await;
        let expected =
            json!({"conversation_id": "ann:bob", "sender_id": "ann", "receiver_id": "bob"});
        assert_eq!(bob.event_named(name).await, expected);
        ann[0]
            .emit(name, json!({"sender_id": "ann", "receiver_id": "ann"}))
            .await;
        assert_eq!(ann[1].event_named(name).await["conversation_id"], "ann:ann");
        for bad in [
            json!(null),
            json!({}),
            json!([]),
            json!({"sender_id": "ann"}),
            json!({"receiver_id": {}}),
        ] {
            ann[0].emit(name, bad).await;
        }
    }
    assert_eq!(names(&ann[0].events_until_now().await), [""; 0]);
    assert_eq!(names(&bob.events_until_now().await), [""; 0]);
    assert!(history::whole(server.address, "ann:bob").await.is_empty());
}

#[tokio::test]
async fn join_room_takes_one_id_and_refuses_what_is_none() {
    let server = Server::start(&[("ROOMS_PER_SOCKET_MAX", "3")]).await;
    let mut ann = Client::websocket(server.address).await;
    for bad in [
        json!(["a"]),
        json!({"id": 1}),
        json!(true),
        json!(1.5),
        json!(""),
        Value::Null,
    ] {
        let answer = ann.emit_with_ack("joinRoom", bad.clone()).await;
        assert_eq!(answer["status"], "error", "{bad}");
        assert_eq!(answer["code"], "invalid", "{bad}");
        assert!(answer["error"].is_string(), "{bad}");
    }
    let answer = ann.emit_with_ack("joinRoom", json!("x".repeat(1025))).await;
    assert_eq!(answer["code"], "too_large");
    for room in ["x".repeat(1024), "2".into(), "3".into()] {
        assert_eq!(
            ann.emit_with_ack("joinRoom", json!(room)).await,
            json!({"status": "ok"})
        );
    }
    assert_eq!(
        ann.emit_with_ack("joinRoom", json!(2)).await["status"],
        "ok",
        "again, as a number"
    );
    assert_eq!(
        ann.emit_with_ack("joinRoom", json!("4")).await["status"],
        "error"
    );
}

fn draft(text: &str) -> Value {
    json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob", "text_content": text})
}

/// Sends a message that must be taken.
async fn accepted(client: &mut Client, data: Value) -> Value {
    let answer = client.emit_with_ack("chatMessage", data.clone()).await;
    assert_eq!(answer["status"], "ok", "{data}: {answer}");
    answer["message"].clone()
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}
