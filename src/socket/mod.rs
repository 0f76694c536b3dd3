//! Socket.IO clients: the handshake, the two transports, and what each event does.

mod answer;
pub mod endpoint;
pub mod handler;
mod polling;
mod websocket;
