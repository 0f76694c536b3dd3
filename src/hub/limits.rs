//! What one socket may take, and how many there may be.

use std::time::Duration;

/// Bounds on what sockets may make grow, and their deadlines. By default those of a server that is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    pub outbox_bytes_max: usize,
    pub rooms_per_socket_max: usize,
    /// Sessions at which none begins by polling: those hold no connection between two polls.
    pub sessions_max: usize,
    pub payload_bytes_max: usize,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// None: clients need not connect to a namespace.
    pub connect_timeout: Option<Duration>,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            outbox_bytes_max: 1 << 20,
            rooms_per_socket_max: 1_000,
            sessions_max: 100_000,
            payload_bytes_max: 1_000_000,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Some(Duration::from_secs(45)),
        }
    }
}
