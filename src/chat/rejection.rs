//! Why a message is refused, and the stable code that clients see for it.

use crate::json;

/// A refusal: a stable [`code`](Rejection::code), a short text that names no internals, and whether the same message
/// may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The message can never be taken as it is.
    #[error("{0}")]
    Invalid(&'static str),
    /// A part of it is longer than its limit.
    #[error("{0}")]
    TooLarge(&'static str),
    #[error("not allowed")]
    Forbidden,
    #[error("too many messages, slow down")]
    RateLimited,
    /// The queue in front of the log is full.
    #[error("the service is busy, try again")]
    Busy,
    /// The log cannot take messages now. The message is certainly not in it.
    #[error("messages cannot be stored now, try again")]
    Unavailable,
    /// The append was not confirmed: the message may be in the log, once.
    #[error("it is unknown whether the message was stored")]
    Unknown,
    /// This server is stopping; another one, or the next one, will take it.
    #[error("the service is restarting, try again")]
    Draining,
}

impl Rejection {
    /// Every code, for metrics.
    pub const CODES: [&'static str; 8] = [
        "invalid",
        "too_large",
        "forbidden",
        "rate_limited",
        "busy",
        "unavailable",
        "unknown",
        "draining",
    ];

    /// The stable code, one of [`Rejection::CODES`].
    pub fn code(&self) -> &'static str {
        Self::CODES[self.index()]
    }

    /// Place of the code in [`Rejection::CODES`].
    pub fn index(&self) -> usize {
        match self {
            Self::Invalid(_) => 0,
            Self::TooLarge(_) => 1,
            Self::Forbidden => 2,
            Self::RateLimited => 3,
            Self::Busy => 4,
            Self::Unavailable => 5,
            Self::Unknown => 6,
            Self::Draining => 7,
        }
    }

    /// Whether sending the same message again can succeed.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::TooLarge(_) | Self::Forbidden => false,
            Self::RateLimited | Self::Busy | Self::Unavailable | Self::Unknown | Self::Draining => {
                true
            }
        }
    }

    /// The HTTP status that says the same.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::TooLarge(_) => 413,
            Self::Forbidden => 403,
            Self::RateLimited => 429,
            Self::Busy | Self::Unavailable | Self::Unknown | Self::Draining => 503,
        }
    }

    /// Appends the `messageError` object.
    pub fn write(&self, out: &mut Vec<u8>, client_message_id: Option<&str>) {
        out.extend_from_slice(b"{\"code\":\"");
        out.extend_from_slice(self.code().as_bytes());
        out.extend_from_slice(b"\",\"error\":");
        json::push_string(out, &self.to_string());
        out.extend_from_slice(b",\"retryable\":");
        out.extend_from_slice(if self.retryable() { b"true" } else { b"false" });
        if let Some(id) = client_message_id {
            out.extend_from_slice(b",\"client_message_id\":");
            json::push_string(out, id);
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_their_places_agree() {
        let all = [
            Rejection::Invalid("x"),
            Rejection::TooLarge("x"),
            Rejection::Forbidden,
            Rejection::RateLimited,
            Rejection::Busy,
            Rejection::Unavailable,
            Rejection::Unknown,
            Rejection::Draining,
        ];
        assert_eq!(all.map(|rejection| rejection.code()), Rejection::CODES);
    }

    #[test]
    fn a_refusal_is_one_json_object() {
        let mut out = Vec::new();
        Rejection::Busy.write(&mut out, Some("a\"b"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"code":"busy","error":"the service is busy, try again","retryable":true,"client_message_id":"a\"b"}"#
        );
    }
}
