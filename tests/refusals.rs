//! chatMessage refused: every code, the shape of both answers, and that nothing of it is kept or shown.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};

use support::client::Client;
use support::history;
use support::packet::Incoming;
use support::server::Server;

#[tokio::test]
async fn a_refusal_is_an_event_and_an_acknowledgement_of_the_same_content() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let data = json!({"sender_id": "ann", "client_message_id": "c1", "text_content": "to nobody"});
    let mut answer = ann.emit_with_ack("chatMessage", data).await;
    let error = ann.event_named("messageError").await;
    assert_eq!(
        answer.as_object_mut().unwrap().remove("status"),
        Some(json!("error"))
    );
    assert_eq!(answer, error);
    let mut names: Vec<_> = error
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["client_message_id", "code", "error", "retryable"]);
    assert_eq!(
        (&error["code"], &error["retryable"]),
        (&json!("invalid"), &json!(false))
    );
    assert_eq!(error["client_message_id"], "c1");
    assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()));
    ann.emit("chatMessage", json!({"sender_id": "ann"})).await;
    let error = ann.event_named("messageError").await;
    assert!(error.get("client_message_id").is_none());
}

#[tokio::test]
async fn what_is_no_message_is_invalid_and_leaves_nothing() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let operators = [
        json!({"$ne": null}),
        json!({"$gt": ""}),
        json!(["bob"]),
        json!([]),
        json!({}),
        json!(true),
        json!(1.5),
        json!(1e300),
        json!({"toString": 1}),
    ];
    for field in [
        "sender_id",
        "receiver_id",
        "conversation_id",
        "client_message_id",
        "text_content",
        "attachment_url",
        "attachment_filename",
        "attachment_mimetype",
    ] {
        for value in &operators {
            let mut data = draft("x");
            data[field] = value.clone();
            refused(&mut ann, data, "invalid").await;
        }
    }
    let mut number_as_text = draft("x");
    number_as_text["text_content"] = json!(7);
    refused(&mut ann, number_as_text, "invalid").await;
    for field in ["sender_id", "receiver_id", "text_content"] {
        for value in [Value::Null, json!("")] {
            let mut data = draft("x");
            data[field] = value;
            refused(&mut ann, data, "invalid").await;
        }
    }
    for data in [
        json!(null),
        json!("text"),
        json!(1),
        json!([draft("x")]),
        json!({}),
        json!(true),
    ] {
        refused(&mut ann, data, "invalid").await;
    }
    ann.send_packet("4211[\"chatMessage\"]").await;
    assert_eq!(ann.event_named("messageError").await["code"], "invalid");
    assert!(bob.events_until_now().await.is_empty());
    assert!(history::whole(server.address, "talk").await.is_empty());
}

#[tokio::test]
async fn text_that_is_not_unicode_is_invalid() {
    let server = Server::start(&[]).await;
    for mut client in [
        Client::websocket(server.address).await,
        Client::polling(server.address).await,
    ] {
        for lone in [
            r"\ud800",
            r"\udc00",
            r"a\ud83dz",
            r"\ud800\ud800",
            r"\ude00\ud83d",
        ] {
            for field in [
                "sender_id",
                "receiver_id",
                "conversation_id",
                "client_message_id",
                "text_content",
                "attachment_filename",
            ] {
                let raw = draft("x").to_string();
                let raw = raw.trim_end_matches('}');
                client
                    .send_packet(&format!(
                        "42[\"chatMessage\",{raw},\"{field}\":\"{lone}\"}}]"
                    ))
                    .await;
                assert_eq!(
                    client.event_named("messageError").await["code"],
                    "invalid",
                    "{field} {lone}"
                );
            }
        }
    }
    assert!(history::whole(server.address, "talk").await.is_empty());
}

#[tokio::test]
async fn an_attachment_url_is_our_own_or_http() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let with = |url: &str| {
        let mut data = draft("see");
        data["attachment_url"] = json!(url);
        data
    };
    for url in [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "java\nscript:alert(1)",
        "\u{1}javascript:alert(1)",
        "data:text/html,x",
        "DATA:text/html,x",
        "file:///etc/passwd",
        "vbscript:x",
        "//evil.example/x",
        "/\\evil.example",
        "uploads/x",
        "../uploads/x",
        "/etc/passwd",
        "ftp://x/y",
        "http:",
        "https://",
        "http://a b",
        "http:/x",
        "blob:x",
        "x",
        "/uploads/\u{85}x",
        "https://x\u{2028}",
    ] {
        refused(&mut ann, with(url), "invalid").await;
    }
    for url in [
        "/uploads/a.png",
        "https://chat.example/a?b=c#d",
        "HTTP://chat.example/",
    ] {
        let answer = ann.emit_with_ack("chatMessage", with(url)).await;
        assert_eq!(answer["message"]["attachment_url"], url, "{answer}");
        assert_eq!(answer["message"]["message_type"], "attachment");
    }
    let mut alone = with("/uploads/a.png");
    alone["text_content"] = Value::Null;
    let answer = ann.emit_with_ack("chatMessage", alone).await;
    assert_eq!(answer["message"]["text_content"], "");
}

#[tokio::test]
async fn an_id_of_1024_bytes_is_taken_and_one_of_1025_is_too_large() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    for field in [
        "sender_id",
        "receiver_id",
        "conversation_id",
        "client_message_id",
    ] {
        for unit in ["x", "é"] {
            let mut data = draft("x");
            data[field] = json!(unit.repeat(1024 / unit.len()));
            let answer = ann.emit_with_ack("chatMessage", data.clone()).await;
            assert_eq!(answer["message"][field], data[field]);
            data[field] = json!(format!("{}x", unit.repeat(1024 / unit.len())));
            refused(&mut ann, data, "too_large").await;
        }
    }
    for (field, bytes_max) in [
        ("attachment_filename", 1024),
        ("attachment_mimetype", 1024),
        ("attachment_url", 8192),
    ] {
        let value = |bytes: usize| format!("/uploads/{}", "x".repeat(bytes - 9));
        let mut data = draft("x");
        data[field] = json!(value(bytes_max));
        let answer = ann.emit_with_ack("chatMessage", data.clone()).await;
        assert_eq!(answer["status"], "ok", "{field}");
        data[field] = json!(value(bytes_max + 1));
        refused(&mut ann, data, "too_large").await;
    }
}

#[tokio::test]
async fn a_message_above_the_configured_rate_is_refused_and_may_be_sent_again() {
    let server = Server::start(&[("MESSAGES_PER_SECOND_MAX", "2")]).await;
    let mut ann = Client::polling(server.address).await;
    let taken = taken_of(&mut ann, 20, "rate_limited").await;
    assert!((2..20).contains(&taken), "{taken} taken of 20");
    assert_eq!(history::whole(server.address, "talk").await.len(), taken);
    let mut other = Client::websocket(server.address).await;
    let answer = other
        .emit_with_ack("chatMessage", draft("another socket"))
        .await;
    assert_eq!(answer["status"], "ok", "rates are per socket");
}

#[tokio::test]
async fn a_full_lane_is_busy_and_each_message_has_its_answer() {
    let settings = [
        ("LANE_MESSAGES_MAX", "1"),
        ("WORKER_THREADS", "1"),
        ("LANES", "1"),
    ];
    let server = Server::start(&settings).await;
    let mut ann = Client::polling(server.address).await;
    let taken = taken_of(&mut ann, 200, "busy").await;
    assert!((1..200).contains(&taken), "{taken} taken of 200");
    assert_eq!(history::whole(server.address, "talk").await.len(), taken);
    let answer = ann.emit_with_ack("chatMessage", draft("again")).await;
    assert_eq!(answer["status"], "ok", "the lane empties again");
}

/// Sends so many messages in one request: how many were taken. The others must have been refused with `code`.
async fn taken_of(client: &mut Client, count: usize, code: &str) -> usize {
    let packet = |n: usize| format!("42[\"chatMessage\",{}]", draft(&n.to_string()));
    let packets: Vec<_> = (0..count).map(packet).collect();
    let together = packets.join("\u{1e}");
    let answer = client.polling_transport().post(together.as_bytes()).await;
    answer.expect_status(200);
    let mut taken = 0;
    for _ in 0..count {
        let event = client.event().await;
        if event.name == "messageSent" {
            taken += 1;
            continue;
        }
        assert_eq!(event.name, "messageError");
        assert_eq!(
            (&event.data()["code"], &event.data()["retryable"]),
            (&json!(code), &json!(true))
        );
    }
    taken
}

#[tokio::test]
async fn with_too_little_disk_messages_are_unavailable_and_history_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(root.path(), &[]).await;
    let mut ann = Client::websocket(server.address).await;
    let message = ann.emit_with_ack("chatMessage", draft("before")).await["message"].clone();
    server.kill9().await;
    let server = Server::start_in(root.path(), &[("DISK_FREE_MIN", "9000000000000000000")]).await;
    let mut ann = Client::websocket(server.address).await;
    let answer = ann.emit_with_ack("chatMessage", draft("after")).await;
    assert_eq!(
        (&answer["code"], &answer["retryable"]),
        (&json!("unavailable"), &json!(true))
    );
    assert_eq!(history::whole(server.address, "talk").await, [message]);
    let ready = support::http::get(server.admin, "/health/ready")
        .await
        .expect_status(503);
    assert_eq!(ready.json()["ready"], false);
    assert_ne!(ready.json()["log"], "ok");
    support::http::get(server.address, "/health")
        .await
        .expect_status(200);
}

#[tokio::test]
async fn a_stopping_server_says_so_until_it_closes() {
    let mut server = Server::start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::websocket(server.address).await);
    }
    server.signal(Signal::TERM);
    let mut draining = 0;
    let mut taken = Vec::new();
    for client in &mut clients {
        while client
            .try_emit_asking("chatMessage", draft("late"))
            .await
            .is_some()
        {
            match answer(client).await {
                None => break,
                Some(answer) if answer["status"] == "ok" => taken.push(answer["message"].clone()),
                Some(answer) => {
                    assert_eq!(
                        (&answer["code"], &answer["retryable"]),
                        (&json!("draining"), &json!(true))
                    );
                    draining += 1;
                }
            }
        }
    }
    assert!(draining > 0);
    drop(clients);
    assert!(server.exit(support::DEADLINE).await.success());
    let server = server.restart().await;
    assert_eq!(history::whole(server.address, "talk").await, taken);
}

/// The next acknowledgement; `None` when the connection ends first.
async fn answer(client: &mut Client) -> Option<Value> {
    loop {
        match support::within("an answer or the end", client.next()).await? {
            Incoming::Ack { args, .. } => return args.into_iter().next(),
            Incoming::Disconnected { .. } => panic!("a stopping server sends no DISCONNECT"),
            _ => {}
        }
    }
}

fn draft(text: &str) -> Value {
    json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob", "text_content": text})
}

async fn refused(client: &mut Client, data: Value, code: &str) {
    let shown: String = data.to_string().chars().take(300).collect();
    let answer = client.emit_with_ack("chatMessage", data).await;
    assert_eq!(answer["status"], "error", "{shown}: {answer}");
    assert_eq!(
        (&answer["code"], &answer["retryable"]),
        (&json!(code), &json!(false)),
        "{shown}"
    );
    assert_eq!(
        client.event_named("messageError").await["code"],
        code,
        "{shown}"
    );
}
