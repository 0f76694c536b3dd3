//! What moves messages: into the log, from the log to those who are here, from the log into the store.

pub mod archive;
pub mod deliver;
pub mod publish;
pub mod signals;
