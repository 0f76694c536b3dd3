//! Records that can never be taken: put aside with cause and origin, while everything behind them goes on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use serde_json::{Value, json};

use chat_svc::store::mongo::DATABASE;
use support::client::Client;
use support::records::{Kafka, skipped};
use support::server::Server;
use support::{DEADLINE, history, http, metrics};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_in_the_log_is_put_aside_once_while_foreign_and_own_messages_are_shown_and_stored() {
    let Some(kafka) = Kafka::here() else {
        return;
    };
    let (chat, letters) = (kafka.chat(), format!("{}.dlq", kafka.chat()));
    let mut server = Server::start_with(kafka.settings()).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    kafka.send_marked(&chat, "k1", ("message_id", "m1"), b"\xff\x00");
    kafka.send_marked(
        &chat,
        "k2",
        ("from", "elsewhere"),
        br#"{"sender_id":"ann"}"#,
    );
    let foreign =
        json!({"sender_id": "ann", "receiver_id": "bob", "text_content": "from elsewhere"});
    kafka.send(&chat, &[&foreign.to_string()]);
    let shown = bob.event_named("newMessage").await;
    assert_eq!(shown["text_content"], "from elsewhere");
    let own = say(&server, "hello").await;
    assert_eq!(bob.event_named("newMessage").await, own);
    kafka.all_committed("archive", &chat).await;
    let kept = kafka.read(&letters, 2).await;
    let expected = [
        (
            "k1",
            &b"\xff\x00"[..],
            ("message_id", "m1"),
            "unreadable: the message is not UTF-8",
        ),
        (
            "k2",
            br#"{"sender_id":"ann"}"#,
            ("from", "elsewhere"),
            "unreadable: receiver_id is missing",
        ),
    ];
    for (n, (letter, (key, value, (name, mark), cause))) in kept.iter().zip(expected).enumerate() {
        assert_eq!(
            (&letter.key[..], &letter.value[..]),
            (key.as_bytes(), value)
        );
        let header = |name: &str| letter.headers[name].as_str();
        assert_eq!(header(name), mark);
        assert_eq!(header("dlq.cause"), cause);
        assert_eq!(header("dlq.topic"), chat);
        assert_eq!(header("dlq.partition"), "0");
        assert_eq!(header("dlq.offset"), n.to_string());
        assert!(header("dlq.time").parse::<u64>().is_ok_and(|ms| ms > 0));
    }
    let metrics = http::get(server.admin, "/metrics").await.text();
    let counted = format!("chat_dead_letters_total{{topic=\"{chat}\",cause=\"unreadable\"}} 2");
    assert!(metrics.contains(&counted), "{metrics}");
    assert_eq!(server.terminate(3 * DEADLINE).await.code(), Some(0));
    let server = server.restart().await;
    let after = say(&server, "again").await;
    kafka.all_committed("archive", &chat).await;
    let whole = history::whole(server.address, "ann:bob").await;
    assert_eq!(whole, [shown, own, after]);
    assert_eq!(kafka.end(&letters), 2, "nothing is put aside twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_dead_letters_cannot_be_written_nothing_is_committed_and_messages_are_shown_all_the_same()
 {
    let Some(kafka) = Kafka::here() else {
        return;
    };
    let (chat, letters) = (kafka.chat(), format!("{}.dlq", kafka.chat()));
    let server = Server::start_with(kafka.hasty_settings()).await;
    kafka.delete(&letters).await;
    kafka.send(&chat, &["no message"]);
    server
        .prints("dead letters cannot be written", 6 * DEADLINE)
        .await;
    let message = say(&server, "hello").await;
    assert_eq!(
        history::whole(server.address, "ann:bob").await,
        std::slice::from_ref(&message)
    );
    assert_eq!(kafka.committed("archive", &chat), 0);
    kafka.create(&letters).await;
    kafka.all_committed("archive", &chat).await;
    assert_eq!(kafka.read(&letters, 1).await[0].value, b"no message");
    assert_eq!(history::whole(server.address, "ann:bob").await, [message]);
    let said = server
        .output()
        .matches("dead letters cannot be written")
        .count();
    assert_eq!(said, 1, "said once, not at every try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_refuses_is_put_aside_in_the_topic_and_the_rest_is_stored() {
    let (Some(kafka), Some(store)) = (Kafka::here(), Mongo::here()) else {
        return;
    };
    let settings = [kafka.settings(), store.settings()].concat();
    let server = Server::start_with(settings).await;
    let [first, poison, last] = three(&server).await;
    kafka.all_committed("archive", &kafka.chat()).await;
    if history::whole(server.address, "ann:bob").await.len() == 3 {
        return skipped_nul();
    }
    let letter = &kafka.read(&format!("{}.dlq", kafka.chat()), 1).await[0];
    assert!(letter.headers["dlq.cause"].starts_with("refused: "));
    assert_eq!(letter.headers["dlq.topic"], kafka.chat());
    assert_eq!(letter.headers["dlq.offset"], "1");
    assert_eq!(letter.headers["message_id"], poison["_id"]);
    assert_eq!(letter.key, b"ann:bob");
    let value: Value = serde_json::from_slice(&letter.value).unwrap();
    assert_eq!(
        (&value["_id"], &value["text_content"]),
        (&poison["_id"], &json!("a\0b"))
    );
    assert_eq!(
        history::whole(server.address, "ann:bob").await,
        [first, last]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_what_the_store_refuses_is_put_aside_in_a_file() {
    let Some(store) = Mongo::here() else {
        return;
    };
    let mut server = Server::start_with(store.settings()).await;
    let [first, poison, last] = three(&server).await;
    let file = server.data_dir().join("dead-letters.jsonl");
    metrics::becomes(server.admin, "chat_archive_lag_records", |lag| lag == 0.0).await;
    if history::whole(server.address, "ann:bob").await.len() == 3 {
        return skipped_nul();
    }
    let lines = std::fs::read_to_string(&file).unwrap();
    let line: Value = serde_json::from_str(&lines).expect("one line");
    assert!(
        line["cause"].as_str().unwrap().starts_with("refused: "),
        "{line}"
    );
    assert_eq!(
        (
            &line["topic"],
            &line["partition"],
            &line["offset"],
            &line["key"]
        ),
        (
            &json!("chat.messages"),
            &json!(0),
            &json!(1),
            &json!("ann:bob")
        )
    );
    let value: Value = serde_json::from_str(line["value"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&value["_id"], &value["text_content"]),
        (&poison["_id"], &json!("a\0b"))
    );
    assert_eq!(server.terminate(3 * DEADLINE).await.code(), Some(0));
    let server = server.restart().await;
    assert_eq!(
        history::whole(server.address, "ann:bob").await,
        [first, last]
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        lines,
        "put aside once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_what_was_still_to_be_read_ends_the_server_with_a_sentence() {
    let Some(kafka) = Kafka::here() else {
        return;
    };
    let chat = kafka.chat();
    let mut server = Server::start_with(kafka.settings()).await;
    say(&server, "before").await;
    kafka.all_committed("archive", &chat).await;
    let texts = ["1", "2", "3"];
    let message = |text| json!({"sender_id": "ann", "receiver_id": "bob", "text_content": text});
    let records = texts.map(|text| message(text).to_string());
    server.signal(rustix::process::Signal::STOP);
    // One by one: what the broker answers at once to a server that stands still is not all of it.
    for record in &records {
        kafka.send(&chat, &[record]);
    }
    kafka.expire(&chat).await;
    server.signal(rustix::process::Signal::CONT);
    assert_eq!(server.exit(3 * DEADLINE).await.code(), Some(4));
    let output = server.output();
    let sentence = "err: chat-svc: deliver cannot go on: the log has failed: ";
    assert!(output.contains(sentence), "{output}");
    let server = server.restart().await;
    let after = say(&server, "after").await;
    let whole = history::whole(server.address, "ann:bob").await;
    assert_eq!(whole.last(), Some(&after));
}

/// Says something from ann to bob; the message.
async fn say(server: &Server, text: &str) -> Value {
    let mut ann = Client::websocket(server.address).await;
    let message = json!({"sender_id": "ann", "receiver_id": "bob", "text_content": text});
    let answer = ann.emit_with_ack("chatMessage", message).await;
    let answer = answer.get(0).unwrap_or(&answer);
    assert_eq!(answer["status"], "ok", "{answer}");
    answer["message"].clone()
}

/// A message, one with a NUL, and another.
async fn three(server: &Server) -> [Value; 3] {
    [
        say(server, "first").await,
        say(server, "a\0b").await,
        say(server, "last").await,
    ]
}

/// A collection of a test's own on the server of `TEST_MONGO_URI`. It ends with its value.
struct Mongo {
    uri: String,
    collection: String,
}

impl Mongo {
    fn here() -> Option<Mongo> {
        let Ok(uri) = std::env::var("TEST_MONGO_URI") else {
            skipped("TEST_MONGO_URI");
            return None;
        };
        let collection = format!("test_{:016x}", getrandom::u64().expect("random"));
        Some(Mongo { uri, collection })
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![
            ("MONGO_URI".to_owned(), self.uri.clone()),
            ("MONGO_COLLECTION".to_owned(), self.collection.clone()),
        ]
    }
}

impl Drop for Mongo {
    fn drop(&mut self) {
        let drop = async {
            let client = mongodb::Client::with_uri_str(&self.uri).await?;
            let database = client.default_database();
            let database = database.unwrap_or_else(|| client.database(DATABASE));
            let collection = database.collection::<mongodb::bson::Document>(&self.collection);
            collection.drop().await
        };
        let runtime = tokio::runtime::Handle::current();
        let dropped = tokio::task::block_in_place(|| runtime.block_on(drop));
        assert!(dropped.is_ok() || std::thread::panicking(), "{dropped:?}");
    }
}

/// The server is one that takes a NUL, so nothing it refuses is at hand.
fn skipped_nul() {
    eprintln!("skipped: this MongoDB server takes NUL in text");
}
