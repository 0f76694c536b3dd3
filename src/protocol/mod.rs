//! The wire: WebSocket frames, Engine.IO packets, Socket.IO packets, and what our events look like
//! in them.
//!
//! Everything here is pure: bytes in, values out, or the other way round. No sockets, no clock, no
//! tasks; time is an argument where it matters. Decoders are total: any input gives a value or an
//! error, in time linear in its length and without recursion, so what a client sends can cost no
//! more than its bytes.

pub mod connection;
pub mod engineio;
pub mod engineio_v3;
pub mod event;
pub mod frame;
pub mod incoming;
pub mod jsonp;
pub mod msgpack;
pub mod recovery;
pub mod socketio;
pub mod socketio_v4;
pub mod websocket;
