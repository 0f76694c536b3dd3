//! What the benches share: messages at every step of their way, sessions without sockets, and the service around them.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod messages;
pub mod service;
pub mod sessions;
