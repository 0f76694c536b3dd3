//! Which request goes where: paths parsed into routes, and each route's handler.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, Method, Request, StatusCode};
use tower::{Service, ServiceExt};
use tower_http::compression::Compression;
use tower_http::compression::predicate::SizeAbove;

use crate::api::admin::Admin;
use crate::api::files::Files;
use crate::api::messages::Messages;
use crate::api::page;
use crate::api::uploads::Uploads;
use crate::http::reply::{self, Body, Error, Reply};
use crate::socket::endpoint::Endpoint;

// === Route ===

/// What a request asks for. Path segments are raw: their escapes are decoded by the handler, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// What follows the Socket.IO path.
    Socket {
        rest: &'a str,
    },
    Page,
    Health,
    History {
        conversation: &'a str,
    },
    ReportSpam {
        message: &'a str,
    },
    Upload {
        conversation: &'a str,
    },
    File {
        name: &'a str,
    },
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    NotFound,
    /// The path exists, but not with this method; these would do.
    MethodNotAllowed(&'static str),
}

impl<'a> Route<'a> {
    /// The route of a path on the public port. `socket_path` begins and ends with a slash.
    pub fn parse(method: &Method, path: &'a str, socket_path: &str) -> Result<Self, RouteError> {
        if let Some(rest) = path.strip_prefix(socket_path) {
            return Ok(Self::Socket { rest });
        }
        let get = method == Method::GET || method == Method::HEAD;
        let (route, allowed, methods) = match path {
            "/" => (Self::Page, get, "GET, HEAD"),
            "/health" => (Self::Health, get, "GET, HEAD"),
            _ => Self::with_segment(method, path).ok_or(RouteError::NotFound)?,
        };
        if allowed {
            Ok(route)
        } else {
            Err(RouteError::MethodNotAllowed(methods))
        }
    }

    fn with_segment(method: &Method, path: &'a str) -> Option<(Self, bool, &'static str)> {
        let get = method == Method::GET || method == Method::HEAD;
        let post = method == Method::POST;
        let one = |prefix: &str| {
            path.strip_prefix(prefix)
                .filter(|s| !s.is_empty() && !s.contains('/'))
        };
        if let Some(rest) = path.strip_prefix("/api/chat/messages/")
            && let Some(message) = rest.strip_suffix("/reportSpam")
            && !message.is_empty()
            && !message.contains('/')
        {
            return Some((Self::ReportSpam { message }, post, "POST"));
        }
        if let Some(conversation) = one("/api/chat/messages/") {
            return Some((Self::History { conversation }, get, "GET, HEAD"));
        }
        if let Some(conversation) = one("/api/chat/upload/") {
            return Some((Self::Upload { conversation }, post, "POST"));
        }
        let name = one("/uploads/").or_else(|| one("/api/chat/uploads/"))?;
        Some((Self::File { name }, get, "GET, HEAD"))
    }
}

fn refuse(error: RouteError) -> Reply {
    match error {
        RouteError::NotFound => Error::NOT_FOUND.reply(),
        RouteError::MethodNotAllowed(allow) => reply::method_not_allowed(allow),
    }
}

// === Router ===

/// The public port. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    pub parts: Arc<Parts>,
}

/// The handlers behind the public port.
pub struct Parts {
    pub endpoint: Endpoint,
    pub messages: Messages,
    pub uploads: Uploads,
    pub files: Files,
    pub socket_path: String,
    /// Whether polling answers are compressed.
    pub compression: bool,
}

impl Parts {
    async fn answer(&self, request: Request<Body>) -> Reply {
        let uri = request.uri().clone();
        match Route::parse(request.method(), uri.path(), &self.socket_path) {
            Ok(Route::Socket { rest }) => self.socket(rest, request).await,
            Ok(Route::Page) => page::page(),
            Ok(Route::Health) => reply::json(StatusCode::OK, r#"{"status":"ok"}"#),
            Ok(Route::History { conversation }) => {
                self.messages.page(conversation, uri.query()).await
            }
            Ok(Route::ReportSpam { message }) => self.messages.report_spam(message).await,
            Ok(Route::Upload { conversation }) => self.uploads.upload(conversation, request).await,
            Ok(Route::File { name }) => {
                self.files
                    .get(request.method(), name, request.headers())
                    .await
            }
            Err(error) => refuse(error),
        }
    }
}

impl Parts {
    async fn socket(&self, rest: &str, request: Request<Body>) -> Reply {
        let accepted = request.headers().get(ACCEPT_ENCODING).cloned();
        let answer = self.endpoint.serve(rest, request).await;
        match accepted {
            Some(accepted) if self.compression => compress(accepted, answer).await,
            _ => answer,
        }
    }
}

/// Compresses what is worth it, in a way that the client accepts. A client that accepts nothing that we have gets it
/// plain: its packets are gone from the queue.
async fn compress(accepted: HeaderValue, answer: Reply) -> Reply {
    let status = answer.status();
    let mut answer = Some(answer);
    let service = tower::service_fn(move |_: Request<()>| {
        let answer = answer.take().expect("a service that is called once");
        ready(Ok::<_, Infallible>(answer))
    });
    let compression = Compression::new(service)
        .gzip(true)
        .deflate(true)
        .compress_when(SizeAbove::new(COMPRESSED_FROM_BYTES));
    let mut request = Request::new(());
    request.headers_mut().insert(ACCEPT_ENCODING, accepted);
    let answer = compression.oneshot(request).await;
    let mut answer = answer.unwrap_or_else(|never| match never {});
    *answer.status_mut() = status;
    answer.map(reply::boxed)
}

/// As the reference server.
const COMPRESSED_FROM_BYTES: u64 = 1024;

impl Service<Request<Body>> for Router {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let parts = self.parts.clone();
        Box::pin(async move { Ok(parts.answer(request).await) })
    }
}

// === AdminRouter ===

/// The admin listener. Cheap to clone.
#[derive(Clone)]
pub struct AdminRouter {
    pub admin: Arc<Admin>,
}

impl AdminRouter {
    async fn answer(admin: Arc<Admin>, request: Request<Body>) -> Reply {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match (request.uri().path(), request.method()) {
            ("/metrics", _) if get => admin.metrics(),
            ("/health/ready", _) if get => admin.ready().await,
            ("/quote-events", &Method::POST) => admin.quote_event(request).await,
            ("/metrics" | "/health/ready", _) => reply::method_not_allowed("GET, HEAD"),
            ("/quote-events", _) => reply::method_not_allowed("POST"),
            _ => Error::NOT_FOUND.reply(),
        }
    }
}

impl Service<Request<Body>> for AdminRouter {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let admin = self.admin.clone();
        Box::pin(async move { Ok(Self::answer(admin, request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Result<Route<'_>, RouteError> {
        Route::parse(&Method::GET, path, "/socket.io/")
    }

    fn post(path: &str) -> Result<Route<'_>, RouteError> {
        Route::parse(&Method::POST, path, "/socket.io/")
    }

    #[test]
    fn every_path_of_the_contract_has_its_route() {
        assert_eq!(get("/"), Ok(Route::Page));
        assert_eq!(get("/health"), Ok(Route::Health));
        assert_eq!(get("/socket.io/"), Ok(Route::Socket { rest: "" }));
        assert_eq!(post("/socket.io/x"), Ok(Route::Socket { rest: "x" }));
        assert_eq!(
            get("/api/chat/messages/a%3Ab"),
            Ok(Route::History {
                conversation: "a%3Ab"
            })
        );
        assert_eq!(
            post("/api/chat/messages/1/reportSpam"),
            Ok(Route::ReportSpam { message: "1" })
        );
        assert_eq!(
            post("/api/chat/upload/c"),
            Ok(Route::Upload { conversation: "c" })
        );
        assert_eq!(get("/uploads/f.png"), Ok(Route::File { name: "f.png" }));
        assert_eq!(
            get("/api/chat/uploads/f.png"),
            Ok(Route::File { name: "f.png" })
        );
    }

    #[test]
    fn other_methods_are_told_which_would_do() {
        assert_eq!(post("/"), Err(RouteError::MethodNotAllowed("GET, HEAD")));
        assert_eq!(
            get("/api/chat/upload/c"),
            Err(RouteError::MethodNotAllowed("POST"))
        );
        assert_eq!(
            get("/api/chat/messages/1/reportSpam"),
            Err(RouteError::MethodNotAllowed("POST"))
        );
    }

    #[test]
    fn everything_else_is_not_found() {
        for path in [
            "/x",
            "/socket.io",
            "/uploads/",
            "/uploads/a/b",
            "/api/chat/messages/",
            "/metrics",
            "/health/ready",
            "/quote-events",
            "/api/chat/messages//reportSpam",
            "//",
            "",
        ] {
            assert_eq!(get(path), Err(RouteError::NotFound), "{path}");
        }
    }
}
