//! A form's parts, read as a stream: one chunk in memory at a time, and bounds on whatever a sender can make long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::Body as _;
use multer::{Constraints, Field, SizeLimit};

use crate::http::rate::LeastRate;
use crate::http::reply::{Body, BodyError, Error};

/// Parts of a form.
const PARTS_MAX: usize = 32;

/// Bytes of a text field.
const FIELD_BYTES_MAX: usize = 64 << 10;

/// Bytes of a part's headers.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Bytes of the boundary (RFC 2046 section 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// What a form may hold besides its file.
pub const FORM_OVERHEAD: u64 = 1 << 20;

/// A form being read.
pub struct Form {
    parts: multer::Multipart<'static>,
    /// Bytes that may still come before the next part's headers are complete.
    header_budget: Arc<AtomicUsize>,
    count: usize,
}

impl Form {
    /// Begins to read. `file_bytes_max` bounds the file; the whole may be [`FORM_OVERHEAD`] more.
    pub fn new(headers: &HeaderMap, body: Body, file_bytes_max: u64) -> Result<Self, Error> {
        let not_a_form = Error::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the file as multipart/form-data",
        );
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .ok_or(not_a_form)?;
        let boundary = multer::parse_boundary(kind).map_err(|_| not_a_form)?;
        if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES_MAX {
            return Err(Error::invalid("a form's boundary has 1 to 70 bytes"));
        }
        let header_budget = Arc::new(AtomicUsize::new(HEADER_BYTES_MAX));
        let whole = file_bytes_max.saturating_add(FORM_OVERHEAD);
        let limits = Constraints::new().size_limit(SizeLimit::new().whole_stream(whole));
        let chunks = Chunks {
            body,
            header_budget: header_budget.clone(),
            has_paused: false,
            has_warned: false,
            rate: LeastRate::default(),
        };
        let parts = multer::Multipart::with_constraints(chunks, boundary, limits);
        Ok(Self {
            parts,
            header_budget,
            count: 0,
        })
    }

    /// The next part; the one before must have been read to its end.
    pub async fn next(&mut self) -> Result<Option<Field<'static>>, Error> {
        self.count += 1;
        if self.count > PARTS_MAX + 1 {
            return Err(Error::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "the form has too many parts",
            ));
        }
        self.header_budget
            .store(HEADER_BYTES_MAX, Ordering::Relaxed);
        let field = self.parts.next_field().await.map_err(form_error)?;
        self.header_budget.store(usize::MAX, Ordering::Relaxed);
        // The budget counts what came in whole chunks: a header can be longer and still have come in one.
        if field
            .as_ref()
            .is_some_and(|field| header_bytes(field) > HEADER_BYTES_MAX)
        {
            return Err(HEADER_TOO_LONG);
        }
        Ok(field)
    }
}

/// The next bytes of a part.
pub async fn chunk(field: &mut Field<'static>) -> Result<Option<Bytes>, Error> {
    field.chunk().await.map_err(form_error)
}

/// The whole text of a part.
pub async fn text(mut field: Field<'static>) -> Result<String, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunk(&mut field).await? {
        if bytes.len() + chunk.len() > FIELD_BYTES_MAX {
            return Err(Error::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "a form field is too long",
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid("a form field is not UTF-8"))
}

/// Reads a part that nobody wants to its end.
pub async fn skip(mut field: Field<'static>) -> Result<(), Error> {
    while chunk(&mut field).await?.is_some() {}
    Ok(())
}

/// Bytes of a part's headers as they were sent, blanks around values left out.
fn header_bytes(field: &Field<'static>) -> usize {
    let headers = field.headers().iter();
    headers
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum()
}

const HEADER_TOO_LONG: Error = Error::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "too_large",
    "a part's header is too long",
);

fn form_error(error: multer::Error) -> Error {
    match error {
        multer::Error::StreamSizeExceeded { .. } => Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the upload is too large",
        ),
        multer::Error::StreamReadFailed(error) if error.is::<HeaderTooLong>() => HEADER_TOO_LONG,
        multer::Error::StreamReadFailed(error) if error.is::<TooSlow>() => Error::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the upload comes too slowly",
        ),
        multer::Error::StreamReadFailed(error) if is_timeout(&*error) => Error::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the upload stood still for too long",
        ),
        _ => Error::invalid("the form is malformed"),
    }
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<tower_http::timeout::TimeoutError>())
}

#[derive(Debug, thiserror::Error)]
#[error("a part's header is too long")]
struct HeaderTooLong;

#[derive(Debug, thiserror::Error)]
#[error("the upload comes too slowly")]
struct TooSlow;

/// The body's data, one chunk each time it is asked. The parser takes all there is before it looks at any, so without a
/// pause after each chunk a quick sender would have its whole file in our memory.
struct Chunks {
    body: Body,
    header_budget: Arc<AtomicUsize>,
    has_paused: bool,
    has_warned: bool,
    /// At which the sender brings them.
    rate: LeastRate,
}

impl Stream for Chunks {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.has_paused {
            self.has_paused = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.header_budget.load(Ordering::Relaxed) == 0 {
            // Having taken the first chunk the parser asks again before it looks for a header: once that is no fault.
            if self.has_warned {
                return Poll::Ready(Some(Err(Box::new(HeaderTooLong))));
            }
            self.has_warned = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_warned = false;
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                if self.rate.is_too_slow() {
                    return Poll::Ready(Some(Err(Box::new(TooSlow))));
                }
                self.rate.waits(Instant::now);
                return Poll::Pending;
            };
            let data = match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => frame.into_data(),
            };
            if let Ok(data) = data {
                self.has_paused = false;
                self.rate.moved(data.len(), Instant::now);
                let budget = self.header_budget.load(Ordering::Relaxed);
                if budget != usize::MAX {
                    self.header_budget
                        .store(budget.saturating_sub(data.len()), Ordering::Relaxed);
                }
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use futures_util::StreamExt;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};

    /// The lengths of all parts of a form that comes in chunks of so many bytes, the first one of so many.
    async fn lengths(form: &[u8], first: usize, each: usize) -> Result<Vec<usize>, Error> {
        let (head, rest) = form.split_at(first.min(form.len()));
        let chunks: Vec<Result<_, BodyError>> = std::iter::once(head)
            .chain(rest.chunks(each))
            .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(chunks)).boxed_unsync();
        let kind = http::HeaderValue::from_static("multipart/form-data; boundary=b");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
        let mut form = Form::new(&headers, body, 1 << 20)?;
        let mut lengths = Vec::new();
        while let Some(mut part) = form.next().await? {
            let mut length = 0;
            while let Some(bytes) = chunk(&mut part).await? {
                length += bytes.len();
            }
            lengths.push(length);
        }
        Ok(lengths)
    }

    #[tokio::test]
    async fn a_form_that_drips_is_given_up() {
        let drop = Ok(Frame::data(Bytes::from_static(b"x")));
        let drops = futures_util::stream::iter([drop]).chain(futures_util::stream::pending());
        let mut chunks = Chunks {
            body: StreamBody::new(drops).boxed_unsync(),
            header_budget: Arc::new(AtomicUsize::new(usize::MAX)),
            has_paused: false,
            has_warned: false,
            rate: LeastRate::without_grace(),
        };
        let long_ago = Instant::now() - Duration::from_secs(1);
        chunks.rate.waits(|| long_ago);
        assert!(chunks.next().await.unwrap().is_ok());
        let error = chunks.next().await.unwrap().unwrap_err();
        let error = form_error(multer::Error::StreamReadFailed(error));
        assert_eq!(error.status, StatusCode::REQUEST_TIMEOUT);
        assert!(error.message.contains("slowly"), "{}", error.message);
    }

    #[tokio::test]
    async fn the_bound_on_headers_does_not_depend_on_how_a_form_is_cut() {
        let part = |name: &str, header: usize, bytes: usize| {
            format!(
                "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\nX: {}\r\n\r\n{}\r\n",
                "h".repeat(header),
                "x".repeat(bytes)
            )
        };
        let sound = part("a", 10, 3) + &part("b", 100, 70_000) + &part("c", 10, 3) + "--b--\r\n";
        let long = part("a", 10, 3) + &part("b", 200_000, 3) + "--b--\r\n";
        for first in [0, 1, 40, 4096, 16_384, 40_000, 70_150, 100_000] {
            for each in [40, 16_384, 40_000, 100_000] {
                let read = lengths(sound.as_bytes(), first, each).await;
                assert_eq!(read.ok(), Some(vec![3, 70_000, 3]), "{first}, {each}");
                let refused = lengths(long.as_bytes(), first, each).await;
                assert!(refused.is_err(), "{first}, {each}");
            }
        }
    }
}
