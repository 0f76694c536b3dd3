//! What the admin listener tells in numbers.

use std::net::SocketAddr;
use std::time::Duration;

use super::{http, within_for};

/// A metric's value at an admin listener; `name` with its labels.
pub async fn value(admin: SocketAddr, name: &str) -> f64 {
    let text = http::get(admin, "/metrics").await.expect_status(200).text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no metric {name} in:\n{text}"));
    value.parse().expect("a number")
}

/// Waits, at most a minute, until a metric has a value that is wanted; which.
pub async fn becomes(admin: SocketAddr, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
    let reached = async {
        loop {
            let value = value(admin, name).await;
            if wanted(value) {
                return value;
            }
            // Asked without a rest, it would take the processor from the server that it waits for.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_for(Duration::from_secs(60), name, reached).await
}
