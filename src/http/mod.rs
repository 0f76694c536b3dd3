//! The toolkit for HTTP.

pub mod range;
