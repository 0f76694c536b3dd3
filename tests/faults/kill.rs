//! `kill -9` of the service in mid-flood, on every pair of log and store that is not the embedded one.

use std::time::Duration;

use serde_json::json;

use crate::support::client::Client;
use crate::support::load::{Books, Load, number_from_env, settled};
use crate::support::metrics;
use crate::support::random::Random;
use crate::support::server::Server;
use crate::support::services::{self, Settings, borrowed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kafka_and_mongodb_what_was_acknowledged_survives_kill_9_under_load() {
    let (Some(log), Some(store)) = (services::kafka(), services::mongo()) else {
        return;
    };
    // A killed member of the archive's group holds its place for 10 s: without a name that it keeps, the archive would
    // not run between two kills.
    let node = vec![("KAFKA_INSTANCE_ID".to_owned(), "node-1".to_owned())];
    survives_kills(
        [log, store, node].concat(),
        number_from_env("FAULT_KILLS", 20),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_journal_and_mongodb_what_was_acknowledged_survives_kill_9_under_load() {
    let Some(store) = services::mongo() else {
        return;
    };
    survives_kills(store, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kafka_and_the_embedded_store_what_was_acknowledged_survives_kill_9_under_load() {
    let Some(log) = services::kafka() else {
        return;
    };
    survives_kills(log, 2).await;
}

async fn survives_kills(settings: Settings, kills: u64) {
    let mut random = Random::new(Random::seed_from_env("FAULT_SEED"));
    // FerretDB reads and sorts a whole conversation for each page: the fewer pages, the better.
    let pages = vec![("PAGE_MAX".to_owned(), "5000".to_owned())];
    let mut server = Server::start(&borrowed(&[settings, pages].concat())).await;
    let mut books = Books::new();
    for run in 1..=kills {
        archive_at_work(&server).await;
        let mut load = Load::start(&server, &mut books, run, u64::MAX).await;
        load.acked(random.within(20..200)).await;
        // An acknowledgement is a moment of its own; a crash should also fall between two of them.
        tokio::time::sleep(Duration::from_micros(random.within(0..20_000))).await;
        server.kill9().await;
        load.finished().await;
        server = server.restart().await;
        // What any kill did wrong stays wrong, so the rest is looked at once, after the last.
        if run == 1 {
            clean("after the first kill", &server, &books).await;
        }
    }
    let mut load = Load::start(&server, &mut books, kills + 1, 50).await;
    load.all_shown(kills + 1).await;
    load.finished().await;
    clean("after the last kill", &server, &books).await;
    // The tail may have told most of that. What is in the store alone has to be the same.
    metrics::becomes(server.admin, "chat_archive_lag_records", |lag| lag == 0.0).await;
    metrics::becomes(server.admin, "chat_tail_messages", |messages| {
        messages == 0.0
    })
    .await;
    clean("from the store", &server, &books).await;
    let undecided = books.undecided_named();
    assert!(
        undecided.is_empty(),
        "sent again, never decided: {undecided:?}"
    );
}

/// Waits until a message went all the way: the archive too is to be killed at work, between insert and commit perhaps.
async fn archive_at_work(server: &Server) {
    let mut client = Client::websocket(server.address).await;
    let probe = json!({"sender_id": "probe", "receiver_id": "nobody", "text_content": "?"});
    let answer = client.emit_with_ack("chatMessage", probe).await;
    assert_eq!(answer["status"], "ok", "{answer}");
    metrics::becomes(server.admin, "chat_archive_lag_records", |n| n == 0.0).await;
}

async fn clean(when: &str, server: &Server, books: &Books) {
    let verdict = settled(server, books).await;
    println!("{when}: {verdict}");
    verdict.assert_clean();
}
