//! Clients' connections: Engine.IO with its two transports, Socket.IO over it, and what the chat does with its events.

mod answer;
pub mod chat;
pub mod client_files;
pub mod endpoint;
pub mod engine;
pub mod namespaces;
mod polling;
mod websocket;

/// Bytes from the operating system's random source.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}
