//! The words of the chat: ids, messages, quotes, refusals. Pure: no clock, no runtime, no I/O.

pub mod attachment;
pub mod draft;
pub mod foreign;
pub mod id;
pub mod message;
pub mod quote;
pub mod rejection;
