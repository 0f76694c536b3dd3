//! A request's body in memory, bounded.

use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body_util::BodyExt;

use crate::http::reply::Body;

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectError {
    /// It is longer than the bound, or says it will be.
    TooLarge,
    /// It broke off, or stood still for too long.
    Broken,
}

/// The length that a request's head announces.
pub fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `bytes_max` bytes. Memory grows with what has arrived, not with what was announced.
pub async fn collect(mut body: Body, bytes_max: usize) -> Result<Vec<u8>, CollectError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| CollectError::Broken)?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > bytes_max {
            return Err(CollectError::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply::full;

    #[tokio::test]
    async fn a_body_of_exactly_the_bound_is_taken() {
        assert_eq!(collect(full("abc"), 3).await, Ok(b"abc".to_vec()));
        assert_eq!(collect(full("abcd"), 3).await, Err(CollectError::TooLarge));
    }
}
