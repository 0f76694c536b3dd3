//! What the tests over real sockets share: a server process, raw HTTP and WebSocket connections, a Socket.IO client of
//! our own on both transports, and the accounting of what was sent, acknowledged, shown and stored.
//!
//! Nothing here uses the server's own code: what a test reads and writes is what stands on the wire. Every wait has a
//! deadline and says what it waited for. A broken expectation panics, as tests do.

#![allow(dead_code, reason = "each test binary uses a part of this tree")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

pub mod accounting;
pub mod client;
pub mod echo;
pub mod history;
pub mod http;
pub mod load;
pub mod metrics;
pub mod packet;
pub mod polling;
pub mod random;
pub mod records;
pub mod server;
pub mod services;
pub mod websocket;

use std::future::Future;
use std::time::Duration;

/// Longest wait for anything that should come at once.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for `future`, at most [`DEADLINE`]; `what` completes the sentence "waited 10s for …".
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_for(DEADLINE, what, future).await
}

/// As [`within`], with a deadline of one's own.
pub async fn within_for<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {deadline:?} for {what}"),
    }
}
