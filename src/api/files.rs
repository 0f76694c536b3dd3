//! `GET` and `HEAD /uploads/:filename`: files of others, streamed so that a browser never runs what is in them; or,
//! when links are configured, a redirect to where they are.

use std::time::Duration;

use futures_util::TryStreamExt;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::api::uploads::blob_error;
use crate::blobs::{BlobInfo, Blobs};
use crate::chat::attachment::BlobName;
use crate::http::query;
use crate::http::range::{self, Ranged};
use crate::http::reply::{self, Error, Reply};

/// Serves uploaded files.
pub struct Files {
    pub blobs: Blobs,
    /// Clients get files from the bucket themselves, by links that are valid so long; `None`: from us.
    pub link_validity: Option<Duration>,
}

impl Files {
    /// One file, a range of it, or only its head.
    pub async fn get(&self, method: &Method, segment: &str, headers: &HeaderMap) -> Reply {
        self.try_get(method, segment, headers)
            .await
            .unwrap_or_else(Error::reply)
    }

    async fn try_get(
        &self,
        method: &Method,
        segment: &str,
        headers: &HeaderMap,
    ) -> Result<Reply, Error> {
        let name = query::segment(segment).and_then(|name| BlobName::parse(&name));
        let name = name.ok_or(Error::NOT_FOUND)?;
        let info = self.blobs.head(&name).await.map_err(blob_error)?;
        let common = common_headers(&name, &info);
        if is_known(headers, &info) {
            return Ok(answer(
                StatusCode::NOT_MODIFIED,
                common,
                reply::empty(StatusCode::OK),
            ));
        }
        if let Some(valid) = self.link_validity.filter(|_| *method == Method::GET) {
            let link = self.blobs.link(&name, valid).await.map_err(blob_error)?;
            return Ok(elsewhere(&link));
        }
        let ranged = match text(headers, RANGE) {
            Some(asked) if range_stands(headers, &info) => range::parse(asked, info.size),
            _ => Ranged::Whole,
        };
        let (status, range) = match ranged {
            Ranged::Whole => (StatusCode::OK, 0..info.size),
            Ranged::One(range) => (StatusCode::PARTIAL_CONTENT, range),
            Ranged::Unsatisfiable => return Ok(unsatisfiable(info.size)),
        };
        let mut common = common;
        common.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let text = format!("bytes {}-{}/{}", range.start, range.end - 1, info.size);
            insert(&mut common, CONTENT_RANGE, &text);
        }
        if *method == Method::HEAD || range.is_empty() {
            return Ok(answer(status, common, reply::empty(StatusCode::OK)));
        }
        let blob = self
            .blobs
            .get(&name, Some(range))
            .await
            .map_err(blob_error)?;
        let body = reply::boxed(StreamBody::new(blob.stream.map_ok(Frame::data)));
        Ok(answer(status, common, Response::new(body)))
    }
}

fn answer(status: StatusCode, headers: HeaderMap, mut reply: Reply) -> Reply {
    *reply.status_mut() = status;
    reply.headers_mut().extend(headers);
    reply
}

/// To a link that will not be valid for long, so it is not to be kept.
fn elsewhere(link: &str) -> Reply {
    let mut reply = reply::empty(StatusCode::TEMPORARY_REDIRECT);
    insert(reply.headers_mut(), LOCATION, link);
    reply::with(reply, CACHE_CONTROL, "no-store")
}

fn unsatisfiable(size: u64) -> Reply {
    let error = Error::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        "the file has no such range",
    );
    let mut reply = error.reply();
    insert(
        reply.headers_mut(),
        CONTENT_RANGE,
        &format!("bytes */{size}"),
    );
    reply
}

/// What every answer about a file says. The policy keeps a file opened by itself from running anything.
fn common_headers(name: &BlobName, info: &BlobInfo) -> HeaderMap {
    let media = name.media();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.content_type));
    let disposition = HeaderValue::from_static(media.disposition());
    headers.insert(CONTENT_DISPOSITION, disposition);
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    // A name is never given to another file.
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(CACHE_CONTROL, forever);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(
        &mut headers,
        LAST_MODIFIED,
        &httpdate::fmt_http_date(info.modified),
    );
    if let Some(etag) = &info.etag {
        insert(&mut headers, ETAG, etag);
    }
    headers
}

/// Adds a header unless its value, made by us, is not one after all.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the client has this very file already (RFC 9110 section 13.2.2).
fn is_known(headers: &HeaderMap, info: &BlobInfo) -> bool {
    match (
        text(headers, IF_NONE_MATCH),
        text(headers, IF_MODIFIED_SINCE),
    ) {
        (Some(tags), _) => range::if_none_match_names(tags, info.etag.as_deref()),
        (None, Some(since)) => range::is_unmodified_since(since, info.modified),
        (None, None) => false,
    }
}

fn range_stands(headers: &HeaderMap, info: &BlobInfo) -> bool {
    text(headers, IF_RANGE)
        .is_none_or(|value| range::if_range_holds(value, info.etag.as_deref(), info.modified))
}
