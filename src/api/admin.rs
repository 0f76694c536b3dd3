//! The admin listener: metrics, readiness by dependency, and quote events while the log is embedded. Never public.

use std::sync::Arc;

use http::header::ORIGIN;
use http::{Request, StatusCode};

use crate::api::messages::json;
use crate::blobs::Blobs;
use crate::chat::quote::QuoteEvent;
use crate::disk::FreeSpace;
use crate::drain::Drain;
use crate::history::History;
use crate::http::body::{self, CollectError};
use crate::http::reply::{self, Body, Error, Reply};
use crate::json;
use crate::metrics::Metrics;
use crate::pipeline::publish::{Published, Publisher};
use crate::store::Store;

/// Bytes of a quote event.
const QUOTE_BYTES_MAX: usize = 64 << 10;

/// What only operators, and the services beside this one, may ask.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// Brings the metrics that are read, not counted, up to date.
    pub refresh: Box<dyn Fn() + Send + Sync>,
    /// Why the log cannot take messages, if so.
    pub log_failure: Box<dyn Fn() -> Option<String> + Send + Sync>,
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    pub history: Arc<History>,
    pub publisher: Arc<Publisher>,
    pub space: Arc<FreeSpace>,
    pub drain: Drain,
    pub unix_ms: fn() -> u64,
}

impl Admin {
    /// All numbers, for Prometheus.
    pub fn metrics(&self) -> Reply {
        (self.refresh)();
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        reply::reply(StatusCode::OK, kind, self.metrics.encode())
    }

    /// 200 when every dependency can be used, 503 otherwise, each named with its state.
    pub async fn ready(&self) -> Reply {
        let low = || {
            self.space
                .is_low()
                .then(|| "the disk is almost full".to_owned())
        };
        let log = (self.log_failure)().or_else(low);
        let store = self.store.ping().await.err().map(|error| error.to_string());
        let uploads = self
            .blobs
            .ping()
            .await
            .err()
            .map(|error| error.to_string())
            .or_else(low);
        let draining = (!self.drain.is_running()).then(|| "draining".to_owned());
        let states = [
            ("log", log),
            ("store", store),
            ("uploads", uploads),
            ("server", draining),
        ];
        let is_ready = states.iter().all(|(_, failure)| failure.is_none());
        let mut body = Vec::from(if is_ready {
            b"{\"ready\":true".as_slice()
        } else {
            b"{\"ready\":false"
        });
        for (name, failure) in &states {
            body.push(b',');
            json::push_string(&mut body, name);
            body.push(b':');
            json::push_string(&mut body, failure.as_deref().unwrap_or("ok"));
        }
        body.push(b'}');
        let status = if is_ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        reply::json(status, body)
    }

    /// A quote event: 202 with its system message, 200 when it had come before or is of another type. Services post
    /// here; a web page, whose requests tell its origin, is refused.
    pub async fn quote_event(&self, request: Request<Body>) -> Reply {
        self.try_quote_event(request)
            .await
            .unwrap_or_else(Error::reply)
    }

    async fn try_quote_event(&self, request: Request<Body>) -> Result<Reply, Error> {
        if request.headers().contains_key(ORIGIN) {
            let what = "web pages may not post here";
            return Err(Error::new(StatusCode::FORBIDDEN, "forbidden", what));
        }
        let body = body::collect(request.into_body(), QUOTE_BYTES_MAX).await;
        let body = body.map_err(|error| match error {
            CollectError::TooLarge => Error::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "the event is too large",
            ),
            CollectError::Broken => Error::invalid("the body broke off"),
        })?;
        match QuoteEvent::parse(&body) {
            Ok(QuoteEvent::Accepted(quote)) => {
                let Published { message, is_resend } =
                    self.publisher.publish(quote.seal((self.unix_ms)())).await?;
                let status = if is_resend {
                    StatusCode::OK
                } else {
                    StatusCode::ACCEPTED
                };
                Ok(reply::json(status, json(&message)))
            }
            Ok(QuoteEvent::Ignored(kind)) => {
                self.metrics.quote_ignored(&kind);
                let mut body = Vec::from(b"{\"ignored\":");
                json::push_string(&mut body, &kind);
                body.push(b'}');
                Ok(reply::json(StatusCode::OK, body))
            }
            Err(error) => Ok(unreadable(&error.to_string())),
        }
    }
}

/// 400 with what is wrong: who posts here is a colleague's service, and needs to know.
fn unreadable(message: &str) -> Reply {
    let mut body = Vec::from(b"{\"error\":{\"code\":\"invalid\",\"message\":");
    json::push_string(&mut body, message);
    body.extend_from_slice(b"}}");
    reply::json(StatusCode::BAD_REQUEST, body)
}
