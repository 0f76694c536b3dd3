//! Connections that only answer pings: what one costs in memory.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use indicatif::ProgressBar;

use crate::options::Options;
use crate::process::{self, Meter};
use crate::report::{Connections, Report, Server};
use crate::wire::{Connection, open_all};

/// Opens them all, holds them for the time measured, and compares resident memory before and at the end of it.
pub async fn run(options: &Options) -> Result<Report, String> {
    let before = options.pid.and_then(process::resident);
    let bar = ProgressBar::new(0);
    let opening = Meter::start(None);
    let open = open_all(options.url, options.clients, 1, &bar).await;
    let open =
        open.map_err(|error| format!("cannot open {} connections: {error}", options.clients))?;
    bar.finish_and_clear();
    let opened_in = opening.read().measured.as_secs_f64();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for connection in open {
        tasks.spawn(hold(connection, stopped.clone()));
    }
    let meter = Meter::start(options.pid);
    tokio::time::sleep(options.measured()).await;
    let reading = meter.read();
    let mut server = Server::of(options.pid, &reading, 0, before);
    if let Some(server) = &mut server {
        let grown = server
            .resident_after_bytes
            .saturating_sub(server.resident_before_bytes);
        server.resident_bytes_per_connection = Some(grown as f64 / f64::from(options.clients));
    }
    stop.send_replace(true);
    let held = tasks.join_all().await;
    Ok(Report {
        mode: "idle".into(),
        clients: options.clients,
        seconds: reading.measured.as_secs_f64(),
        connections: Some(Connections {
            opened: u64::from(options.clients),
            failed: held.iter().filter(|held| !**held).count() as u64,
            opened_per_second: f64::from(options.clients) / opened_in,
        }),
        server,
        driver_cores: reading.driver_cores,
        ..Report::default()
    })
}

/// Answers pings until told to stop; false when the connection ended before.
async fn hold(mut connection: Connection, mut stopped: watch::Receiver<bool>) -> bool {
    let mut answer = Vec::new();
    loop {
        let read = tokio::select! {
            biased;
            read = connection.stream.read(connection.input.space()) => read,
            _ = stopped.changed() => return true,
        };
        let taken = read.and_then(|count| {
            connection.input.filled_more(count)?;
            while let Some(frame) = connection.input.next_frame()? {
                frame.answer(&mut answer);
            }
            Ok(())
        });
        if taken.is_err() || connection.stream.write_all(&answer).await.is_err() {
            return false;
        }
        answer.clear();
    }
}
