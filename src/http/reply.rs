//! Answers: one body type, and errors that always look the same.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::chat::rejection::Rejection;
use crate::json;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body, of a request or an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An answer.
pub type Reply = Response<Body>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// Any body as [`Body`].
pub fn boxed<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// An answer with a body of that type.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(full(body));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// JSON that must not be kept by caches.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = reply(status, "application/json", body);
    reply
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(full(Bytes::new()));
    *reply.status_mut() = status;
    reply
}

/// Adds a header whose value is known to be valid.
pub fn with(mut reply: Reply, name: HeaderName, value: &'static str) -> Reply {
    reply
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    reply
}

// === Error ===

/// An error of the REST API: `{"error":{"code","message"}}` with its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: &'static str,
}

impl Error {
    pub const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
        }
    }

    pub const fn invalid(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub const NOT_FOUND: Self =
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here");

    /// Says that the same request may succeed later.
    pub const fn unavailable(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub fn reply(self) -> Reply {
        let mut body = Vec::from(b"{\"error\":{\"code\":");
        json::push_string(&mut body, self.code);
        body.extend_from_slice(b",\"message\":");
        json::push_string(&mut body, self.message);
        body.extend_from_slice(b"}}");
        let reply = json(self.status, body);
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                with(reply, RETRY_AFTER, "2")
            }
            _ => reply,
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let status = StatusCode::from_u16(rejection.status());
        let message = match rejection {
            Rejection::Invalid(message) | Rejection::TooLarge(message) => message,
            Rejection::Forbidden => "not allowed",
            Rejection::RateLimited => "too many messages, slow down",
            Rejection::Busy => "the service is busy, try again",
            Rejection::Unavailable => "messages cannot be stored now, try again",
            Rejection::Unknown => "it is unknown whether the message was stored",
            Rejection::Draining => "the service is restarting, try again",
        };
        Self::new(
            status.unwrap_or(StatusCode::BAD_REQUEST),
            rejection.code(),
            message,
        )
    }
}

/// 405 with the methods that would do.
pub fn method_not_allowed(allow: &'static str) -> Reply {
    let error = Error::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this method is not allowed here",
    );
    with(error.reply(), ALLOW, allow)
}
