//! What moves messages: into the log, from the log to those who are here, from the log into the store, and from another
//! service's topic into the log.

pub mod archive;
pub mod deliver;
pub mod publish;
pub mod quotes;
pub mod signals;
