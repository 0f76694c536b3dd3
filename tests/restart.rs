//! Nothing acknowledged is lost, whatever way the server stops: killed, told to stop, or its disk copied in mid-write.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use support::accounting::{Stored, Verdict};
use support::load::{Books, Load, all_stored, number_from_env, settled};
use support::random::Random;
use support::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_under_load() {
    let mut random = Random::new(Random::seed_from_env("RESTART_SEED"));
    let kills = number_from_env("RESTART_KILLS", 5);
    let mut server = Server::start(&[]).await;
    let mut books = Books::new();
    for run in 1..=kills {
        let mut load = Load::start(&server, &mut books, run, u64::MAX).await;
        load.acked(random.within(200..2_500)).await;
        // An acknowledgement is a moment of its own; a crash should also fall between two of them.
        tokio::time::sleep(Duration::from_micros(random.within(0..5_000))).await;
        server.kill9().await;
        load.finished().await;
        server = server.restart().await;
        let verdict = settled(&server, &books).await;
        println!("kill {run}: {verdict}");
        verdict.assert_clean();
    }
    let mut load = Load::start(&server, &mut books, kills + 1, 50).await;
    load.all_shown(kills + 1).await;
    load.finished().await;
    let verdict = settled(&server, &books).await;
    println!("at last: {verdict}");
    verdict.assert_clean();
    let undecided = books.undecided_named();
    assert!(
        undecided.is_empty(),
        "sent again, never decided: {undecided:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_exits_0_and_loses_nothing() {
    let mut random = Random::new(Random::seed_from_env("RESTART_SEED"));
    let mut server = Server::start(&[("DRAIN_TIMEOUT_MS", "10000")]).await;
    let mut books = Books::new();
    let mut load = Load::start(&server, &mut books, 1, u64::MAX).await;
    load.acked(random.within(200..2_500)).await;
    let status = server.terminate(Duration::from_secs(20)).await;
    load.finished().await;
    assert!(status.success(), "exit status after SIGTERM: {status}");
    let server = server.restart().await;
    let verdict = settled(&server, &books).await;
    println!("after SIGTERM: {verdict}");
    verdict.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_data_in_mid_write_holds_all_that_was_acknowledged() {
    let mut random = Random::new(Random::seed_from_env("RESTART_SEED"));
    let mut server = Server::start(&[]).await;
    let mut books = Books::new();
    let mut load = Load::start(&server, &mut books, 1, u64::MAX).await;
    let mut copies = Vec::new();
    for _ in 0..3 {
        load.acked(random.within(100..1_000)).await;
        tokio::time::sleep(Duration::from_micros(random.within(0..5_000))).await;
        let copy = tempfile::tempdir().unwrap();
        let account = &books.account;
        let acked = server.frozen(|root| {
            copy_folder(root, copy.path());
            account.lock().unwrap().acked()
        });
        copies.push((acked.await, copy));
    }
    server.kill9().await;
    load.finished().await;
    for (acked, copy) in copies {
        let server = Server::start_in(copy.path(), &[]).await;
        let stored = all_stored(&server, &books).await;
        let verdict = books.account.lock().unwrap().settle(&stored);
        // Acknowledged after the copy was taken: not in it, and no loss.
        let verdict = Verdict {
            lost: missing(&acked, &stored),
            shown_not_stored: Vec::new(),
            ..verdict
        };
        println!("copy after {} acknowledgements: {verdict}", acked.len());
        verdict.assert_clean();
    }
}

/// Those of `acked` that are not stored as they were acknowledged.
fn missing(acked: &[Stored], stored: &HashMap<String, Vec<Value>>) -> Vec<String> {
    let stored: std::collections::HashSet<_> = stored.values().flatten().map(Stored::of).collect();
    let missing = acked.iter().filter(|one| !stored.contains(one));
    missing.map(|one| format!("{one:?}")).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
