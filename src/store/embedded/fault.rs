//! What can go wrong in the embedded store, in words for people.

use std::fmt::Display;

/// What kept a call from its work.
pub enum Fault {
    Read(fjall::Error),
    Write(fjall::Error),
    Unreadable,
}

impl From<fjall::Error> for Fault {
    fn from(error: fjall::Error) -> Self {
        Self::Read(error)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) | Self::Write(error) => Cause(error).fmt(f),
            Self::Unreadable => f.write_str("a stored message cannot be read"),
        }
    }
}

/// Shows what the engine says for people where it has words, for developers where it has none.
pub struct Cause<'a>(pub &'a fjall::Error);

impl Display for Cause<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            fjall::Error::Io(error) => error.fmt(f),
            fjall::Error::Poisoned => f.write_str("an earlier write failed"),
            error => error.fmt(f),
        }
    }
}
