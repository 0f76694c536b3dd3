//! `GET /`: the built-in page, two people chatting in the browser.

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};

use crate::http::reply::{self, Reply};

const PAGE: &str = include_str!("page.html");

/// Everything the page needs is in it; it talks to this service and to nobody else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub fn page() -> Reply {
    let page = reply::reply(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let page = reply::with(page, CONTENT_SECURITY_POLICY, POLICY);
    let page = reply::with(page, X_FRAME_OPTIONS, "DENY");
    let page = reply::with(page, REFERRER_POLICY, "no-referrer");
    reply::with(page, CACHE_CONTROL, "no-cache")
}
