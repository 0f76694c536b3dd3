//! Connections opened and dropped as fast as the server takes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::options::Options;
use crate::process::{self, Meter};
use crate::report::{Connections, Percentiles, Report, Server, histogram};
use crate::wire::{Connection, user};

/// Each client opens a connection (TCP, handshake, CONNECT, joinRoom), drops it, and opens the next.
pub async fn run(options: &Options) -> Result<Report, String> {
    let before = options.pid.and_then(process::resident);
    let meter = Meter::start(options.pid);
    let times = Arc::new(Mutex::new(histogram()));
    let end = Instant::now() + options.measured();
    let mut tasks = JoinSet::new();
    for client in 0..options.clients {
        let (address, clients, times) = (options.url, options.clients, times.clone());
        tasks.spawn(async move {
            let (mut opened, mut failed) = (0, 0);
            for round in 0.. {
                let started = Instant::now();
                if started >= end {
                    break;
                }
                let number = client + round * clients;
                match Connection::open(address, number, &user(number)).await {
                    Ok(connection) => {
                        opened += 1;
                        times
                            .lock()
                            .saturating_record(started.elapsed().as_nanos() as u64);
                        // A reset leaves no port waiting behind, as a phone that loses its network leaves none.
                        connection.stream.set_zero_linger().ok();
                    }
                    Err(_) => failed += 1,
                }
            }
            (opened, failed)
        });
    }
    let counts = tasks.join_all().await;
    let (opened, failed) = counts.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    let reading = meter.read();
    let seconds = reading.measured.as_secs_f64();
    let times = times.lock();
    Ok(Report {
        mode: "connect".into(),
        clients: options.clients,
        seconds,
        connections: Some(Connections {
            opened,
            failed,
            opened_per_second: opened as f64 / seconds,
        }),
        latency_ms: BTreeMap::from([("connect", Percentiles::of(&times))]),
        server: Server::of(options.pid, &reading, opened, before),
        driver_cores: reading.driver_cores,
        ..Report::default()
    })
}
