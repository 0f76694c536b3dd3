//! Several nodes on one Kafka and one MongoDB: what one acknowledged all know, and what one shows all show.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod cluster;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::{Value, json};

use cluster::{Cluster, metric};
use load::{Load, READERS};
use support::client::Client;
use support::random::Random;
use support::server::Server;
use support::{history, http};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_acknowledged_the_other_tells_at_once() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let nodes = cluster.pair().await;
    let mut clients = [
        Client::websocket(nodes[0].address).await,
        Client::websocket(nodes[1].address).await,
    ];
    let mut expected = Vec::new();
    for number in 0..100 {
        let (here, there) = (number % 2, &nodes[1 - number % 2]);
        let sent = accepted(&mut clients[here], draft(&number.to_string())).await;
        let query = expected.last().map_or(String::new(), |last: &Value| {
            format!("&last_message_id={}", history::id(last))
        });
        let page = history::page(there.address, "talk", &query).await;
        assert_eq!(
            page,
            std::slice::from_ref(&sent),
            "asked of the other node at once"
        );
        expected.push(sent);
    }
    for node in &nodes {
        assert_eq!(history::whole(node.address, "talk").await, expected);
        let asked = metric(node.admin, "chat_log_end_seconds_count").await;
        assert!(asked > 0.0);
    }
    cluster.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_to_the_other_node_works_at_once_and_shows_on_both() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let nodes = cluster.pair().await;
    let mut client = Client::websocket(nodes[0].address).await;
    for number in 0..5 {
        let sent = accepted(&mut client, draft(&number.to_string())).await;
        let id = history::id(&sent);
        let path = format!("/api/chat/messages/{id}/reportSpam");
        let reported = http::request(nodes[1].address, "POST", &path, &[], b"").await;
        assert_eq!(reported.expect_status(200).json()["is_spam"], true);
        for node in &nodes {
            let page = history::page(node.address, "talk", "").await;
            let shown = page.last().expect("a message");
            assert_eq!(
                (history::id(shown), &shown["is_spam"]),
                (id.clone(), &json!(true))
            );
        }
    }
    cluster.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_to_the_other_node_is_answered_with_the_first_message() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let nodes = cluster.pair().await;
    let mut first = Client::websocket(nodes[0].address).await;
    let mut second = Client::websocket(nodes[1].address).await;
    let mut expected = Vec::new();
    for number in 0..20 {
        let draft = named(&number.to_string());
        // Every other one is sent to both at the same time.
        let sent = match number % 2 {
            0 => {
                let sent = accepted(&mut first, draft.clone()).await;
                assert_eq!(accepted(&mut second, draft).await, sent);
                sent
            }
            _ => {
                let both = (
                    accepted(&mut first, draft.clone()),
                    accepted(&mut second, draft),
                );
                let (one, other) = tokio::join!(both.0, both.1);
                assert_eq!(one, other);
                one
            }
        };
        expected.push(sent);
    }
    for node in &nodes {
        assert_eq!(history::whole(node.address, "talk").await, expected);
    }
    cluster.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_through_both_nodes_is_shown_on_both_once_and_in_one_order() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let nodes = cluster.pair().await;
    let addresses = nodes.each_ref().map(|node| node.address);
    let mut load = Load::start(addresses.to_vec()).await;
    load.more(number_from_env("NODES_MESSAGES", 600)).await;
    let acked = load.stop().await;
    load.shown(acked * READERS).await;
    let verdict = load.settled(&addresses).await;
    println!("flood: {verdict}");
    verdict.assert_clean();
    assert_eq!((verdict.acked, verdict.stored), (acked, acked));
    assert_eq!(verdict.shown, acked * READERS);
    cluster.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_on_one_node_reaches_the_sockets_of_the_other_and_its_own_once() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let nodes = cluster.pair().await;
    let mut ann = Client::websocket(nodes[0].address).await;
    ann.join("ann").await;
    let mut bobs = Vec::new();
    for node in &nodes {
        let mut bob = Client::websocket(node.address).await;
        bob.join("bob").await;
        bobs.push(bob);
    }
    let mut typing =
        json!({"sender_id": "ann", "receiver_id": "bob", "text_content": "not relayed"});
    for number in 0..20 {
        let conversation = format!("talk \"{number}\"");
        typing["conversation_id"] = json!(conversation);
        let name = ["typing", "stopTyping"][number % 2];
        ann.emit(name, typing.clone()).await;
        for bob in &mut bobs {
            let shown = bob.event().await;
            let expected =
                json!({"sender_id": "ann", "receiver_id": "bob", "conversation_id": conversation});
            assert_eq!((shown.name.as_str(), shown.data()), (name, &expected));
        }
    }
    // A message comes after all of it, so nothing else came.
    accepted(&mut ann, draft("done")).await;
    for bob in &mut bobs {
        assert_eq!(bob.event().await.name, "newMessage");
    }
    assert!(
        ann.events_until_now()
            .await
            .iter()
            .all(|event| event.name == "messageSent")
    );
    assert_eq!(
        metric(nodes[0].admin, "chat_signals_sent_total").await,
        20.0
    );
    assert_eq!(
        metric(nodes[1].admin, "chat_signals_received_total").await,
        20.0
    );
    assert_eq!(
        metric(nodes[0].admin, "chat_signals_received_total").await,
        0.0
    );
    cluster.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_under_a_flood_and_started_again_loses_and_doubles_nothing() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let mut random = Random::new(Random::seed_from_env("NODES_SEED"));
    let [stays, mut killed] = cluster.pair().await;
    let both = vec![stays.address, killed.address];
    let mut load = Load::start(both).await;
    for _ in 0..2 {
        load.more(random.within(50..250) as usize).await;
        load.live(&[stays.address]);
        killed.kill9().await;
        load.more(random.within(20..150) as usize).await;
        killed = killed.restart().await;
        load.live(&[stays.address, killed.address]);
    }
    load.more(100).await;
    finished(&mut load, &[&stays, &killed]).await;
    cluster.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_a_flood_loses_and_doubles_nothing() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let mut random = Random::new(Random::seed_from_env("NODES_SEED"));
    let [mut first, mut second] = cluster.pair().await;
    let mut load = Load::start(vec![first.address, second.address]).await;
    load.more(random.within(50..300) as usize).await;
    load.live(&[second.address]);
    let status = first.terminate(Duration::from_secs(30)).await;
    assert!(status.success(), "exit status of the first: {status}");
    first = first.restart().await;
    load.live(&[first.address]);
    load.more(random.within(50..200) as usize).await;
    let status = second.terminate(Duration::from_secs(30)).await;
    assert!(status.success(), "exit status of the second: {status}");
    second = second.restart().await;
    load.live(&[first.address, second.address]);
    load.more(100).await;
    finished(&mut load, &[&first, &second]).await;
    cluster.clean().await;
}

/// All that was sent is acknowledged, stored once and in order; what is sent now is shown on both nodes.
async fn finished(load: &mut Load, nodes: &[&Server; 2]) {
    let acked = load.stop().await;
    let addresses = nodes.map(|node| node.address);
    let verdict = load.settled(&addresses).await;
    println!("settled: {verdict}");
    verdict.assert_clean();
    assert_eq!((verdict.acked, verdict.stored), (acked, acked));
    let mut readers = Vec::new();
    for address in addresses {
        let mut reader = Client::websocket(address).await;
        reader.join("bob").await;
        readers.push(reader);
    }
    for address in addresses {
        let mut sender = Client::websocket(address).await;
        let sent = accepted(&mut sender, draft("afterwards")).await;
        for reader in &mut readers {
            assert_eq!(reader.event_named("newMessage").await, sent);
        }
    }
}

// === Parts ===

fn draft(text: &str) -> Value {
    json!({"sender_id": "ann", "receiver_id": "bob", "conversation_id": "talk", "text_content": text})
}

fn named(text: &str) -> Value {
    let mut draft = draft(text);
    draft["client_message_id"] = json!(text);
    draft
}

/// The message as it was acknowledged.
async fn accepted(client: &mut Client, draft: Value) -> Value {
    let answer = client.emit_with_ack("chatMessage", draft).await;
    assert_eq!(answer["status"], "ok", "{answer}");
    answer["message"].clone()
}

fn number_from_env(name: &str, default: usize) -> usize {
    let number = std::env::var(name).ok().map(|text| text.parse().unwrap());
    number.unwrap_or(default)
}
