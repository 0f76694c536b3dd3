//! chat-svc: a chat server for unchanged Socket.IO clients. Log first, durable, fast.

pub mod api;
pub mod app;
pub mod backoff;
pub mod blobs;
pub mod chat;
pub mod config;
pub mod disk;
pub mod drain;
pub mod history;
pub mod http;
pub mod hub;
pub mod json;
pub mod metrics;
pub mod pipeline;
pub mod protocol;
pub mod router;
pub mod socket;
pub mod store;
pub mod throttle;
pub mod topic;
