//! REST: history and spam reports, uploads and files, the page, and what only operators may ask.

pub mod admin;
pub mod files;
pub mod messages;
mod multipart;
pub mod page;
pub mod uploads;
