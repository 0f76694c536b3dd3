//! The store in MongoDB, against the server of `TEST_MONGO_URI`: what only it keeps. Databases have random names and
//! are dropped afterwards.

use std::env;
use std::io::Write;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Once;

use bytes::Bytes;
use chat_svc::chat::id::{MessageId, Seq};
use chat_svc::chat::message::Message;
use chat_svc::store::mongo::{MongoConfig, MongoStore};
use chat_svc::store::{Cursor, Store, StoreError};
use futures_util::FutureExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Client, Database};
use serde_json::{Value, json};

use crate::nul_is_a_character_like_any_other;
use crate::{conversation, fresh_id, message, messages, page, run, seqs, unique, with_text};

/// Runs a scenario on a store in a database of its own; says so once when there is no server.
pub fn with_store(scenario: impl AsyncFnOnce(&dyn Store)) {
    with_database(async |_, config| {
        let store = MongoStore::open(config).await.unwrap();
        scenario(&store).await;
        store.close().await.unwrap();
    });
}

pub fn with_database(scenario: impl AsyncFnOnce(&Database, MongoConfig)) {
    let Some(server) = server() else { return };
    run(async {
        let name = unique();
        let uri = at_database(&server, &name);
        let database = Client::with_uri_str(&uri).await.unwrap().database(&name);
        let scenario = scenario(&database, MongoConfig::new(uri));
        let ended = AssertUnwindSafe(scenario).catch_unwind().await;
        let dropped = database.drop().await;
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
        dropped.unwrap();
    });
}

pub fn server() -> Option<String> {
    static SAID: Once = Once::new();
    let server = env::var("TEST_MONGO_URI").ok();
    if server.is_none() {
        let required = env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|required| required == "1");
        assert!(!required, "TEST_MONGO_URI names no server");
        SAID.call_once(|| skipped("MongoDB, TEST_MONGO_URI is not set"));
    }
    server
}

/// Says so past the test harness, which shows only what failed.
fn skipped(what: &str) {
    let line = format!("skipped: {what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The same server, another database; credentials stay those of the database named before.
fn at_database(uri: &str, database: &str) -> String {
    let (address, options) = uri.split_once('?').unwrap_or((uri, ""));
    let (scheme, rest) = address.split_once("://").unwrap();
    let (hosts, before) = rest.split_once('/').unwrap_or((rest, ""));
    let source = match before {
        _ if !hosts.contains('@') || options.contains("authSource") => String::new(),
        "" => "&authSource=admin".to_owned(),
        before => format!("&authSource={before}"),
    };
    format!("{scheme}://{hosts}/{database}?{options}{source}")
}

fn json(message: &Message) -> Value {
    let mut out = Vec::new();
    message.write(&mut out);
    serde_json::from_slice(&out).unwrap()
}

// === a database of the earlier service ===

/// As mongoose leaves it: no `seq`, fields of its own, dates, fields in any order.
fn legacy(n: u8, conversation: &str) -> Document {
    doc! {
        "_id": ObjectId::from_bytes([0x60, 0, 0, n, 1, 2, 3, 4, 5, 6, 7, 8]),
        "sender_id": "ann",
        "receiver_id": "bob",
        "conversation_id": conversation,
        "text_content": format!("old {n}"),
        "message_type": "text",
        "is_spam": false,
        "timestamp": DateTime::from_millis(1_600_000_000_000 + i64::from(n)),
        "createdAt": DateTime::from_millis(1),
        "updatedAt": DateTime::from_millis(2),
        "__v": 0,
    }
}

#[test]
fn an_earlier_services_database_is_taken_over() {
    with_database(async |database, config| {
        let chat = conversation();
        let old = database.collection::<Document>("messages");
        let in_no_order = [3, 1, 4, 0, 2].map(|n| legacy(n, chat.as_str()));
        old.insert_many(in_no_order).await.unwrap();
        old.insert_one(legacy(9, "another")).await.unwrap();
        old.insert_one(doc! {"_id": "no ObjectId", "conversation_id": chat.as_str()})
            .await
            .unwrap();

        let store = MongoStore::open(config).await.unwrap();
        let new = messages(&chat, [1 << 40, (1 << 40) + 1]);
        store.insert_many(&new).await.unwrap();

        let whole = page(&store, &chat, Cursor::Newest, 99).await;
        assert_eq!(whole.len(), 7);
        assert_eq!(whole[5..], new, "what has a seq comes last");
        for (n, message) in whole[..5].iter().enumerate() {
            let expected = json!({
                "_id": format!("600000{n:02x}0102030405060708"),
                "conversation_id": chat.as_str(),
                "sender_id": "ann",
                "receiver_id": "bob",
                "text_content": format!("old {n}"),
                "message_type": "text",
                "timestamp": format!("2020-09-13T12:26:40.{n:03}Z"),
                "is_spam": false,
            });
            assert_eq!(json(message), expected, "in the order of ids, without seq");
        }
        for (index, message) in whole.iter().enumerate() {
            let (seq, id) = message.place();
            for limit in 1..=7 {
                let back = page(&store, &chat, Cursor::Before(seq, id), limit).await;
                assert_eq!(back, whole[index.saturating_sub(limit)..index]);
                let on = page(&store, &chat, Cursor::After(seq, id), limit).await;
                assert_eq!(on, whole[index + 1..7.min(index + 1 + limit)]);
            }
        }

        let reported = store.report_spam(whole[2].id).await.unwrap().unwrap();
        assert!(reported.is_spam);
        assert_eq!(reported.body, whole[2].body);
        assert_eq!(store.find(&[whole[2].id]).await.unwrap(), [reported]);
        let kept = old.find_one(doc! {"_id": ObjectId::from_bytes(whole[2].id.0)});
        let kept = kept.await.unwrap().unwrap();
        assert_eq!(kept.get_i32("__v").unwrap(), 0, "nothing else is touched");
        let replay = store.insert_many(&whole).await.unwrap();
        assert_eq!((replay.inserted, replay.duplicates), (0, 7));
    });
}

// === documents ===

#[test]
fn documents_are_what_others_expect() {
    with_database(async |database, config| {
        let store = MongoStore::open(config).await.unwrap();
        let message = message(&conversation(), (1 << 40) + 3);
        let batch = std::slice::from_ref(&message);
        store.insert_many(batch).await.unwrap();
        let documents = database.collection::<Document>("messages");
        let document = documents.find_one(doc! {}).await.unwrap().unwrap();
        assert_eq!(
            document,
            doc! {
                "_id": ObjectId::from_bytes(message.id.0),
                "conversation_id": message.conversation.as_str(),
                "sender_id": "ann",
                "receiver_id": "bob",
                "text_content": format!("number {}", message.seq.0),
                "message_type": "text",
                "timestamp": DateTime::from_millis(1_785_585_600_123),
                "is_spam": false,
                "seq": (1_i64 << 40) + 3,
            }
        );
        let indexes = documents.list_index_names().await.unwrap();
        let ours = "conversation_id_1_seq_1__id_1".to_owned();
        assert!(indexes.contains(&ours), "{indexes:?}");
    });
}

#[test]
fn nul_is_kept_by_servers_that_can() {
    with_database(async |database, config| {
        let probe = database.collection::<Document>("probe");
        if probe.insert_one(doc! {"text": "\0"}).await.is_err() {
            return skipped("NUL in text: this MongoDB server refuses it from anybody");
        }
        let store = MongoStore::open(config).await.unwrap();
        nul_is_a_character_like_any_other(&store).await;
    });
}

#[test]
fn odd_json_comes_back_in_meaning() {
    with_store(async |store| {
        let chat = conversation();
        let mut odd = message(&chat, 1);
        let rest = r#""text_content":"\ud83d\ude00\/\n","metadata":{"z":1.0e+2  , "a" : [ null,true,-7 ]}"#;
        odd.body = Bytes::from(format!(r#"{{"_id":"{}",{rest}"#, odd.id));
        store.insert_many(std::slice::from_ref(&odd)).await.unwrap();
        let stored = page(store, &chat, Cursor::Newest, 9).await;
        let mut expected = json(&odd);
        expected["conversation_id"] = chat.as_str().into();
        assert_eq!(json(&stored[0]), expected);
    });
}

#[test]
fn poison_is_told_and_the_rest_is_stored() {
    with_store(async |store| {
        let chat = conversation();
        let mut batch = messages(&chat, 1..=40);
        let mut spoil = |index: usize, field: &str| {
            let body = [&batch[index].body, field.as_bytes()].concat();
            batch[index].body = body.into();
        };
        spoil(3, r#","a\u0000b":1"#);
        spoil(8, &format!(r#","big":"{}""#, "x".repeat(16 << 20)));
        spoil(20, ",");
        store.insert_many(&batch[..1]).await.unwrap();
        let inserted = store.insert_many(&batch).await.unwrap();
        let poison: Vec<_> = inserted.poison.iter().map(|(index, _)| *index).collect();
        assert_eq!(poison, [3, 8, 20]);
        assert_eq!((inserted.inserted, inserted.duplicates), (36, 1));
        let stored = page(store, &chat, Cursor::Newest, 99).await;
        let expected = (1..=40).filter(|seq| ![4, 9, 21].contains(seq));
        assert_eq!(seqs(&stored), expected.collect::<Vec<u64>>());
    });
}

#[test]
fn what_a_server_refuses_is_poison_alone_or_among_others() {
    with_database(async |database, config| {
        let store = MongoStore::open(config).await.unwrap();
        let chat = conversation();
        // Servers differ in what they refuse; each must take it and give it back, or refuse that one only.
        let nul = with_text(message(&chat, 30), "a\0b");
        let mut dollar = message(&chat, 31);
        dollar.body = [&dollar.body, r#","$x":1"#.as_bytes()].concat().into();
        let mut batch = messages(&chat, 1..=20);
        batch.insert(7, nul.clone());
        batch.insert(12, dollar.clone());
        let first = store.insert_many(&batch).await.unwrap();
        // What a refused insert had stored before it was refused is found to be there.
        let stored = first.inserted + first.duplicates;
        assert_eq!(stored + first.poison.len(), 22, "{first:?}");
        for (index, odd) in [(7, &nul), (12, &dollar)] {
            let is_poison = first.poison.iter().any(|(poison, _)| *poison == index);
            let alone = store.insert_many(std::slice::from_ref(odd)).await.unwrap();
            assert_eq!(
                (alone.poison.len(), alone.duplicates),
                match is_poison {
                    true => (1, 0),
                    false => (0, 1),
                }
            );
            let found = store.find(&[odd.id]).await.unwrap();
            assert_eq!(found, if is_poison { vec![] } else { vec![odd.clone()] });
        }
        let stored = page(&store, &chat, before_30(), 99).await;
        assert_eq!(seqs(&stored), (1..=20).collect::<Vec<_>>());
        let documents = database.collection::<Document>("messages");
        let count = documents.count_documents(doc! {}).await.unwrap();
        let expected = 22 - first.poison.len();
        assert_eq!(count, expected as u64, "no witness is left");
    });
}

fn before_30() -> Cursor {
    Cursor::Before(Seq(30), MessageId([0; 12]))
}

#[test]
fn a_closed_store_says_so_and_closes_again() {
    with_store(async |store| {
        store.close().await.unwrap();
        store.close().await.unwrap();
        let refused = store.find(&[fresh_id()]).await;
        assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    });
}
