//! Wire codecs.

pub mod connection;
pub mod engineio;
pub mod event;
pub mod frame;
pub mod socketio;
pub mod websocket;
