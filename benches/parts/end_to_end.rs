//! A message's whole way, on the built server over raw websockets: `chatMessage` from one client, `messageSent` back to
//! it, `newMessage` to the other. Time is until all of a round have both.
//!
//! Clients and server share the machine, and the clients do one thing after the other on one thread. The server is on
//! its embedded default; on Kafka and MongoDB with `CHAT_SVC_TEST_BACKENDS=services`, as in the tests.

#[path = "../../tests/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "the load driver uses the rest")]
#[path = "../../load-tests/driver/wire.rs"]
mod wire;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group};
use support::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::Connection;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = end_to_end
}

fn end_to_end(criterion: &mut Criterion) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let server = runtime.block_on(Server::start(&[]));
    let mut group = criterion.benchmark_group("end to end");
    group.sampling_mode(SamplingMode::Flat);
    for (pairs, in_flight) in [(1, 1), (50, 1), (50, 8)] {
        let opened = runtime.block_on(Pair::open_all(server.address, pairs, in_flight));
        let mut opened = opened.expect("connections");
        group.throughput(Throughput::Elements((pairs * in_flight) as u64));
        group.bench_function(format!("{pairs} pairs, {in_flight} each"), |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                let done = runtime.block_on(async {
                    for _ in 0..rounds {
                        round(&mut opened).await?;
                    }
                    io::Result::Ok(())
                });
                done.expect("every message is acknowledged and shown");
                started.elapsed()
            });
        });
    }
    group.finish();
}

async fn round(pairs: &mut [Pair]) -> io::Result<()> {
    for pair in &mut *pairs {
        pair.sender.stream.write_all(&pair.messages).await?;
    }
    for pair in pairs {
        expect(&mut pair.sender, b"42[\"messageSent\",", pair.in_flight).await?;
        expect(&mut pair.receiver, b"42[\"newMessage\",", pair.in_flight).await?;
    }
    Ok(())
}

/// Reads so many texts that begin so. Pings are answered; another event is an error.
async fn expect(connection: &mut Connection, beginning: &[u8], count: usize) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let mut answer = Vec::new();
        while let Some(frame) = connection.input.next_frame()? {
            frame.answer(&mut answer);
            if frame.payload.starts_with(b"42") {
                if !frame.payload.starts_with(beginning) || left == 0 {
                    let text = String::from_utf8_lossy(frame.payload);
                    return Err(io::Error::other(text));
                }
                left -= 1;
            }
        }
        connection.stream.write_all(&answer).await?;
        if left > 0 {
            let read = connection.stream.read(connection.input.space()).await?;
            connection.input.filled_more(read)?;
        }
    }
    Ok(())
}

/// Two clients, of which one writes to the other.
struct Pair {
    sender: Connection,
    receiver: Connection,
    in_flight: usize,
    /// What the sender writes in one round.
    messages: Vec<u8>,
}

impl Pair {
    async fn open_all(
        address: SocketAddr,
        pairs: usize,
        in_flight: usize,
    ) -> io::Result<Vec<Pair>> {
        let mut opened = Vec::with_capacity(pairs);
        for pair in 0..pairs as u32 {
            let [from, to] = [2 * pair, 2 * pair + 1];
            let text = "a line of chat as people write it, ".repeat(4);
            let message = format!(
                r#"42["chatMessage",{{"sender_id":"{}","receiver_id":"{}","text_content":"{text}"}}]"#,
                wire::user(from),
                wire::user(to),
            );
            opened.push(Pair {
                sender: Connection::open(address, from, &wire::user(from)).await?,
                receiver: Connection::open(address, to, &wire::user(to)).await?,
                in_flight,
                messages: wire::frame(wire::TEXT, message.as_bytes()).repeat(in_flight),
            });
        }
        Ok(opened)
    }
}
