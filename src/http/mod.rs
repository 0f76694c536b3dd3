//! The HTTP toolkit: accepting connections, the tower layers every request passes, answers.

pub mod body;
pub mod limit;
pub mod observe;
pub mod query;
pub mod range;
pub mod rate;
pub mod reply;
pub mod server;
pub mod slots;
pub mod stack;
pub mod stream;
