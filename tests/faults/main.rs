//! The whole service, its log on Kafka and its store on MongoDB's protocol, when one of the three dies, stalls or is
//! not what it was.
//!
//! Who is paused or killed here runs for these tests alone; the others share the services of `scripts/services`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod away;
mod broker;
#[path = "../support/broker.rs"]
mod broker_process;
mod kill;
mod start;
mod store;
#[path = "../support/mod.rs"]
mod support;
