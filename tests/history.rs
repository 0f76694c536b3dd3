//! History over HTTP: pages in both directions and their edges, also under writes; one's own writes; spam reports.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::client::Client;
use support::history;
use support::http::{self, Connection};
use support::server::Server;

// === pages ===

#[tokio::test]
async fn pages_lead_through_a_conversation_in_both_directions() {
    let server = Server::start(&[]).await;
    let all = talk(&server, "talk", 130).await;
    let newest = page(server.address, "").await;
    assert_eq!(newest, all[80..]);
    assert_eq!(page(server.address, "limit=3").await, all[127..]);
    let id = |n: usize| history::id(&all[n]);
    assert_eq!(
        page(server.address, &format!("last_message_id={}", id(9))).await,
        all[10..60]
    );
    assert_eq!(
        page(
            server.address,
            &format!("last_message_id={}&limit=1", id(9))
        )
        .await,
        all[10..11]
    );
    assert_eq!(
        page(server.address, &format!("before={}", id(100))).await,
        all[50..100]
    );
    assert_eq!(
        page(server.address, &format!("before={}&limit=2", id(2))).await,
        all[0..2]
    );
    assert_eq!(
        page(server.address, &format!("before={}&limit=200", id(2))).await,
        all[0..2]
    );
    assert!(
        page(server.address, &format!("before={}", id(0)))
            .await
            .is_empty()
    );
    assert!(
        page(server.address, &format!("last_message_id={}", id(129)))
            .await
            .is_empty()
    );
    assert_eq!(
        page(server.address, &format!("last_message_id={}", id(128))).await,
        all[129..]
    );
    assert_eq!(history::whole(server.address, "talk").await, all);
    assert!(history::whole(server.address, "nobody").await.is_empty());
}

#[tokio::test]
async fn limits_are_capped_and_nonsense_is_refused() {
    let server = Server::start(&[]).await;
    let all = talk(&server, "talk", 210).await;
    for limit in [
        "200",
        "201",
        "18446744073709551615",
        "99999999999999999999999999",
        "0000000200",
    ] {
        let query = format!("limit={limit}");
        assert_eq!(page(server.address, &query).await, all[10..], "{limit}");
    }
    assert_eq!(
        page(server.address, "limit=").await.len(),
        50,
        "an empty limit is none"
    );
    for limit in [
        "0", "-1", "abc", "1.5", "1e2", "0x10", "%00", "٣", "00", "5;", "5 ",
    ] {
        let answer = get(
            server.address,
            &format!("limit={}", limit.replace(' ', "%20")),
        )
        .await;
        assert_error(&answer, 400, "invalid");
    }
}

#[tokio::test]
async fn a_cursor_is_a_message_of_the_conversation_or_refused() {
    let server = Server::start(&[]).await;
    let all = talk(&server, "talk", 3).await;
    let other = talk(&server, "other", 1).await;
    let (id, other) = (history::id(&all[0]), history::id(&other[0]));
    for name in ["last_message_id", "before"] {
        for cursor in [
            other.as_str(),
            "ffffffffffffffffffffffff",
            "abc",
            "0",
            "null",
            "%00",
            "%ff",
            &id[1..],
        ] {
            let answer = get(server.address, &format!("{name}={cursor}")).await;
            assert_error(&answer, 400, "invalid");
        }
        assert_eq!(
            page(server.address, &format!("{name}=")).await,
            all,
            "an empty cursor is none"
        );
        let upper = id.to_uppercase();
        let same = page(server.address, &format!("{name}={id}")).await;
        assert_eq!(page(server.address, &format!("{name}={upper}")).await, same);
    }
    let both = get(server.address, &format!("last_message_id={id}&before={id}")).await;
    assert_error(&both, 400, "invalid");
    let one_empty = page(server.address, &format!("last_message_id={id}&before=")).await;
    assert_eq!(one_empty, all[1..]);
}

#[tokio::test]
async fn a_page_of_large_messages_is_shorter_and_nothing_is_missing() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut all = Vec::new();
    for n in 0..12 {
        let text = format!("{n}{}", "x".repeat(900_000));
        ann.emit("chatMessage", draft("talk", &text)).await;
        all.push(ann.event_named("messageSent").await);
    }
    let newest = page(server.address, "limit=200").await;
    assert!((1..=5).contains(&newest.len()), "{} messages", newest.len());
    assert!(newest == all[12 - newest.len()..]);
    let id = history::id(&all[0]);
    let next = page(server.address, &format!("last_message_id={id}&limit=200")).await;
    assert!((1..=5).contains(&next.len()) && next == all[1..=next.len()]);
    assert!(history::whole(server.address, "talk").await == all);
}

#[tokio::test]
async fn a_conversation_id_is_decoded_once_and_bounded() {
    let server = Server::start(&[]).await;
    let long = "x".repeat(1024);
    for (id, path) in [
        ("a:b", "a%3Ab"),
        ("a:b", "a:b"),
        ("a%3Ab", "a%253Ab"),
        ("a/b?c", "a%2Fb%3Fc"),
        ("ö", "%C3%B6"),
        (".", "%2e"),
        ("+", "+"),
        (&long, &long),
    ] {
        let expected = talk(&server, id, 1).await;
        let found = history::whole(server.address, path).await;
        assert_eq!(found.last(), expected.last(), "{path}");
    }
    for path in ["%ff", &"x".repeat(1025), "%C3%B6".repeat(513).as_str()] {
        let answer = http::get(server.address, &format!("/api/chat/messages/{path}")).await;
        assert_error(&answer, 400, "invalid");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pages_while_others_write_misses_nothing_and_sees_nothing_twice() {
    let server = Server::start(&[("BATCH_MAX", "7")]).await;
    talk(&server, "talk", 150).await;
    let mut writers = JoinSet::new();
    for _ in 0..2 {
        writers.spawn(write(server.address, 400));
    }
    let first = page(server.address, "limit=1").await;
    let mut forward = first.clone();
    while forward.len() < 500 {
        let last = history::id(forward.last().unwrap());
        let next = page(server.address, &format!("last_message_id={last}&limit=11")).await;
        let before = forward.last().unwrap()["seq"].as_u64();
        assert!(
            next.first()
                .is_none_or(|message| message["seq"].as_u64() > before)
        );
        forward.extend(next);
    }
    let mut back = forward[forward.len() - 1..].to_vec();
    loop {
        let page = page(
            server.address,
            &format!("before={}&limit=13", history::id(&back[0])),
        )
        .await;
        if page.is_empty() {
            break;
        }
        back.splice(0..0, page);
    }
    writers.join_all().await;
    let all = history::whole(server.address, "talk").await;
    assert_eq!(all.len(), 150 + 800);
    assert_eq!(back, all[..back.len()]);
    let start = all.iter().position(|message| *message == first[0]).unwrap();
    assert_eq!(forward, all[start..start + forward.len()]);
    let ids: HashSet<_> = all.iter().map(history::id).collect();
    assert_eq!(ids.len(), all.len());
}

async fn write(address: SocketAddr, count: usize) {
    let mut client = Client::websocket(address).await;
    for n in 0..count {
        client
            .emit("chatMessage", draft("talk", &n.to_string()))
            .await;
    }
    for _ in 0..count {
        client.event_named("messageSent").await;
    }
}

#[tokio::test]
async fn an_acknowledged_message_is_in_history_at_once_from_any_connection() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut reader = Connection::open(server.address).await;
    let mut last = String::new();
    for n in 0..300 {
        ann.emit("chatMessage", draft("talk", &n.to_string())).await;
        let sent = ann.event_named("messageSent").await;
        let path = format!("/api/chat/messages/talk?last_message_id={last}&limit=1");
        reader.send("GET", &path, &[], b"").await;
        let found = reader.response("GET").await.expect_status(200).json();
        assert_eq!(found, json!([sent]), "after {n} messages");
        last = history::id(&sent);
    }
}

#[tokio::test]
async fn history_is_the_same_after_a_crash() {
    let mut server = Server::start(&[]).await;
    let all = talk(&server, "talk", 60).await;
    report(server.address, &history::id(&all[7]))
        .await
        .expect_status(200);
    let before = history::whole(server.address, "talk").await;
    server.kill9().await;
    let server = server.restart().await;
    assert_eq!(history::whole(server.address, "talk").await, before);
    assert_eq!(before[7]["is_spam"], true);
    let more = talk(&server, "talk", 1).await;
    assert!(more[0]["seq"].as_u64() > before[59]["seq"].as_u64());
}

// === spam ===

#[tokio::test]
async fn a_spam_report_right_after_message_sent_is_taken_and_seen_at_once() {
    let server = Server::start(&[]).await;
    let mut ann = Client::websocket(server.address).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    for n in 0..100 {
        ann.emit("chatMessage", draft("talk", &n.to_string())).await;
        let mut sent = ann.event_named("messageSent").await;
        let answer = report(server.address, &history::id(&sent))
            .await
            .expect_status(200);
        sent["is_spam"] = json!(true);
        assert_eq!(answer.json(), sent);
        assert_eq!(page(server.address, "limit=1").await, [sent]);
        assert_eq!(bob.event_named("newMessage").await["is_spam"], false);
    }
    let all = history::whole(server.address, "talk").await;
    assert!(all.len() == 100 && all.iter().all(|message| message["is_spam"] == true));
}

#[tokio::test]
async fn a_spam_report_counts_once_and_survives() {
    let mut server = Server::start(&[]).await;
    let all = talk(&server, "talk", 3).await;
    let id = history::id(&all[1]);
    let first = report(server.address, &id).await.expect_status(200).json();
    for again in [id.clone(), id.to_uppercase()] {
        assert_eq!(
            report(server.address, &again)
                .await
                .expect_status(200)
                .json(),
            first
        );
    }
    server.kill9().await;
    let server = server.restart().await;
    let mut expected = all.clone();
    expected[1]["is_spam"] = json!(true);
    assert_eq!(history::whole(server.address, "talk").await, expected);
    assert_eq!(
        report(server.address, &id).await.expect_status(200).json(),
        first
    );
    let resend = json!({"sender_id": "ann", "receiver_id": "bob", "conversation_id": "talk", "text_content": "1",
        "client_message_id": "n1"});
    let mut ann = Client::websocket(server.address).await;
    let first = ann.emit_with_ack("chatMessage", resend.clone()).await["message"].clone();
    report(server.address, &history::id(&first))
        .await
        .expect_status(200);
    let again = ann.emit_with_ack("chatMessage", resend).await;
    assert_eq!(again["message"]["_id"], first["_id"]);
    assert_eq!(
        history::whole(server.address, "talk").await.last().unwrap()["is_spam"],
        true
    );
}

#[tokio::test]
async fn a_report_of_what_is_no_message_is_not_found() {
    let server = Server::start(&[]).await;
    talk(&server, "talk", 1).await;
    for id in [
        "ffffffffffffffffffffffff",
        "abc",
        "0",
        "zzzzzzzzzzzzzzzzzzzzzzzz",
        "%00",
        "%ff",
        "..",
        "%2e%2e",
        "ffffffffffffffffffffffffff",
        "{\"$ne\":1}",
        "talk",
    ] {
        assert_error(&report(server.address, id).await, 404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_and_writes_at_the_same_time_lose_nothing() {
    let server = Server::start(&[("BATCH_MAX", "3")]).await;
    let mut writer = JoinSet::new();
    let writing = writer.spawn(write(server.address, 300));
    let mut reported = HashSet::new();
    // Pages of the newest, so that some of what is reported is still on its way into the store.
    while !writing.is_finished() {
        for message in page(server.address, "limit=3").await {
            let id = history::id(&message);
            report(server.address, &id).await.expect_status(200);
            reported.insert(id);
        }
    }
    writer.join_all().await;
    let all = history::whole(server.address, "talk").await;
    assert_eq!(all.len(), 300);
    for message in &all {
        assert_eq!(
            message["is_spam"],
            reported.contains(&history::id(message)),
            "{message}"
        );
    }
}

// === the words of these tests ===

fn draft(conversation: &str, text: &str) -> Value {
    json!({"conversation_id": conversation, "sender_id": "ann", "receiver_id": "bob", "text_content": text})
}

/// Writes so many messages, numbered, and returns them as they were acknowledged.
async fn talk(server: &Server, conversation: &str, count: usize) -> Vec<Value> {
    let mut client = Client::websocket(server.address).await;
    for n in 0..count {
        client
            .emit("chatMessage", draft(conversation, &n.to_string()))
            .await;
    }
    let mut sent = Vec::new();
    for _ in 0..count {
        sent.push(client.event_named("messageSent").await);
    }
    sent
}

async fn get(address: SocketAddr, query: &str) -> http::Response {
    http::get(address, &format!("/api/chat/messages/talk?{query}")).await
}

async fn page(address: SocketAddr, query: &str) -> Vec<Value> {
    match get(address, query).await.expect_status(200).json() {
        Value::Array(messages) => messages,
        other => panic!("history is an array, not {other}"),
    }
}

async fn report(address: SocketAddr, id: &str) -> http::Response {
    let path = format!("/api/chat/messages/{id}/reportSpam");
    http::request(address, "POST", &path, &[], b"").await
}

fn assert_error(answer: &http::Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], code);
    assert!(answer.json()["error"]["message"].is_string());
}
