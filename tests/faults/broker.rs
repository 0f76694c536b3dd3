//! The broker stalls, or is killed and comes back, in mid-flood: every sender is told the truth, and all goes on.

use std::time::Duration;

use tokio::time::Instant;

use crate::away::{Broker, is_ready, seconds};
use crate::support::load::{Books, Load, settled};
use crate::support::metrics;
use crate::support::server::Server;
use crate::support::services::{borrowed, kafka_at, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_broker_makes_messages_undecided_then_refused_and_all_goes_on_afterwards() {
    let Some(mut broker) = Broker::start() else {
        return;
    };
    let fault = [Broker::pause_it, Broker::resume_it];
    outlives(&mut broker, fault, seconds("FAULT_PAUSE_SECONDS", 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_makes_messages_undecided_then_refused_and_all_goes_on_afterwards() {
    let Some(mut broker) = Broker::start() else {
        return;
    };
    let fault = [Broker::kill, Broker::restart];
    outlives(&mut broker, fault, seconds("FAULT_AWAY_SECONDS", 60)).await;
}

/// A pause that is over before the delivery timeout: nobody need be told anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_shorter_than_the_delivery_timeout_is_a_delay_for_those_who_write() {
    let Some(broker) = Broker::start() else {
        return;
    };
    let mut books = Books::allowing(&["busy", "unavailable"]);
    let server = server(&broker, "30000").await;
    let mut load = Load::start(&server, &mut books, 1, u64::MAX).await;
    load.acked(300).await;
    broker.pause();
    tokio::time::sleep(seconds("FAULT_PAUSE_SECONDS", 20)).await;
    broker.resume();
    ends_well(&server, load, &books).await;
}

async fn outlives(broker: &mut Broker, [fault, end]: [fn(&mut Broker); 2], lasts: Duration) {
    let mut books = Books::allowing(&["busy", "unavailable", "unknown"]);
    let server = server(broker, "3000").await;
    let mut load = Load::start(&server, &mut books, 1, u64::MAX).await;
    load.acked(300).await;
    fault(broker);
    let over = Instant::now() + lasts;
    // What was on its way ends undecided; what finds the lane full is refused at once.
    for code in ["unknown", "unavailable"] {
        let refused = format!("chat_messages_refused_total{{code=\"{code}\"}}");
        metrics::becomes(server.admin, &refused, |count| count > 0.0).await;
    }
    tokio::time::sleep_until(over).await;
    end(broker);
    ends_well(&server, load, &books).await;
}

/// One lane of 32 messages, in front of which 128 are sent at once.
async fn server(broker: &Broker, delivery_timeout_ms: &str) -> Server {
    let mut settings = kafka_at(&broker.address, &unique());
    for (name, value) in [
        ("KAFKA_DELIVERY_TIMEOUT_MS", delivery_timeout_ms),
        ("LANES", "1"),
        ("LANE_MESSAGES_MAX", "32"),
        ("BATCH_MAX", "32"),
    ] {
        settings.push((name.into(), value.into()));
    }
    Server::start(&borrowed(&settings)).await
}

/// The same server takes messages again, shows and stores them, and no answer that it gave was wrong.
async fn ends_well(server: &Server, mut load: Load, books: &Books) {
    load.acked(300).await;
    load.enough();
    load.all_shown(1).await;
    load.finished().await;
    metrics::becomes(server.admin, "chat_archive_lag_records", |lag| lag == 0.0).await;
    is_ready(server).await;
    let verdict = settled(server, books).await;
    println!("after the fault: {verdict}");
    verdict.assert_clean();
    assert!(verdict.undecided + verdict.rejected < verdict.offered);
}

impl Broker {
    fn pause_it(&mut self) {
        self.pause();
    }

    fn resume_it(&mut self) {
        self.resume();
    }
}
