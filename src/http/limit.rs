//! What no handler needs to see: requests without a host, overlong heads, and encoded bodies.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::{CONTENT_ENCODING, HOST};
use http::{Request, StatusCode, Version};
use tower::Service;

use crate::http::reply::{Error, Reply};

/// Bytes of a request's line and headers together.
pub const HEAD_BYTES_MAX: usize = 32 << 10;

/// Refuses malformed requests before any handler.
#[derive(Clone, Debug)]
pub struct Limit<S> {
    inner: S,
}

impl<S> Limit<S> {
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Reply, Error = Infallible>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Either<Ready<Result<Reply, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match refusal(&request) {
            Some(error) => Either::Left(ready(Ok(error.reply()))),
            None => Either::Right(self.inner.call(request)),
        }
    }
}

fn refusal<B>(request: &Request<B>) -> Option<Error> {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Some(Error::invalid("exactly one Host header is needed"));
    }
    if head_bytes(request) > HEAD_BYTES_MAX {
        return Some(Error::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            "the request's head is too large",
        ));
    }
    let encoding = headers.get(CONTENT_ENCODING)?;
    let is_plain = encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    // Nothing is ever inflated here, so nothing small can become large.
    (!is_plain).then(|| {
        Error::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            "encoded request bodies are not taken",
        )
    })
}

/// Bytes of the request's line and headers. The server's buffer bounds them only roughly: a head that comes in one read
/// may be longer than the buffer was meant to grow.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let line = request.method().as_str().len() + request.uri().path().len();
    let query = request.uri().query().map_or(0, str::len);
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + query + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_host_is_needed_once() {
        let v11 = Version::HTTP_11;
        assert!(refusal(&request(v11, &[])).is_some());
        assert!(refusal(&request(v11, &[("host", "a"), ("host", "b")])).is_some());
        assert!(refusal(&request(v11, &[("host", "a")])).is_none());
        assert!(refusal(&request(Version::HTTP_10, &[])).is_none());
    }

    #[test]
    fn encoded_bodies_are_refused() {
        let request = |value| {
            request(
                Version::HTTP_11,
                &[("host", "a"), ("content-encoding", value)],
            )
        };
        assert!(refusal(&request("gzip")).is_some());
        assert!(refusal(&request("Identity")).is_none());
    }
}
