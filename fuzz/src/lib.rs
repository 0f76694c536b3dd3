//! What must hold for any bytes a client may send. Each module has one function, `run`, that panics when it does not.
//!
//! The fuzzers call them with what libFuzzer makes up, `tests/corpus.rs` with every file of `fuzz/corpus/`. How a file
//! is read stands in the module's head; corpora are kept readable where that is possible.

pub mod client_event;
pub mod connection;
pub mod engineio3_payload;
pub mod engineio_payload;
pub mod jsonp;
pub mod msgpack;
pub mod quote;
pub mod range;
pub mod route;
pub mod session;
pub mod socketio;
pub mod websocket;

/// A target's name, which is also that of its corpus, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("client_event", client_event::run),
    ("connection", connection::run),
    ("engineio3_payload", engineio3_payload::run),
    ("engineio_payload", engineio_payload::run),
    ("jsonp", jsonp::run),
    ("msgpack", msgpack::run),
    ("quote", quote::run),
    ("range", range::run),
    ("route", route::run),
    ("session", session::run),
    ("socketio", socketio::run),
    ("websocket", websocket::run),
];
