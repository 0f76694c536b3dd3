//! What every request passes on its way in, and every answer on its way out: the tower layers, outermost first.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, CONTENT_LENGTH, CONTENT_RANGE, ETAG, ORIGIN, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, layer::layer_fn};
use tower_http::ServiceBuilderExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::http::limit::Limit;
use crate::http::observe::Observe;
use crate::http::query;
use crate::http::reply::{self, Body, Error, Reply};
use crate::metrics::Metrics;

/// A whole stack: what a connection serves.
pub type Stack = BoxCloneSyncService<Request<Incoming>, Reply, Infallible>;

/// What the layers are told.
#[derive(Clone)]
pub struct StackOptions {
    pub metrics: Arc<Metrics>,
    /// Path prefix of Socket.IO, whose requests wait on purpose.
    pub socket_path: Arc<str>,
    /// Origins that may use the service from a browser; none: any.
    pub cors_origins: Vec<String>,
    /// Whether those origins may send cookies.
    pub cors_credentials: Credentials,
    /// How long a request's body may stand still.
    pub body_idle_timeout: Duration,
}

/// Who may send cookies from another origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    Always,
    /// Socket.IO clients 1.x and 2.x, which cannot do without.
    OldClients,
    Never,
}

/// Puts the layers around the router.
pub fn stack<S>(router: S, options: &StackOptions) -> Stack
where
    S: Service<Request<Body>, Response = Reply, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let StackOptions {
        metrics,
        socket_path,
        body_idle_timeout,
        ..
    } = options.clone();
    let service = ServiceBuilder::new()
        // Outermost, so that it counts what the layers below refuse as well.
        .layer(layer_fn(move |inner| {
            Observe::new(inner, metrics.clone(), socket_path.clone())
        }))
        .map_response_body(reply::boxed)
        // A fault in one request is a 500 for that request, and in the log; the connection goes on.
        .layer(CatchPanicLayer::custom(on_panic))
        // An origin that is not on the list gets no CORS header at all.
        .map_response(without_half_cors)
        // Outside of all that can refuse: a browser shows an error's body only if it carries these headers.
        .layer(cors(options))
        // No answer of ours is to be taken for another type than it says.
        .insert_response_header_if_not_present(
            X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        )
        // Malformed requests end here, before any handler looks at them.
        .layer(layer_fn(Limit::new))
        // A sender that stops in mid-body costs a connection for so long at most.
        .layer(RequestBodyTimeoutLayer::new(body_idle_timeout))
        .map_request_body(reply::boxed)
        .service(router);
    BoxCloneSyncService::new(service)
}

/// Which browsers' origins may read answers. Without a list: any, each named as it asks, since browsers take no `*`
/// with credentials.
fn cors(options: &StackOptions) -> CorsLayer {
    let StackOptions {
        cors_origins: origins,
        cors_credentials: credentials,
        socket_path,
        ..
    } = options;
    let layer = CorsLayer::new()
        .allow_methods(AllowMethods::list([
            Method::GET,
            Method::HEAD,
            Method::POST,
        ]))
        .expose_headers([
            ACCEPT_RANGES,
            CONTENT_LENGTH,
            CONTENT_RANGE,
            ETAG,
            RETRY_AFTER,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(Duration::from_secs(600));
    let layer = if origins.is_empty() {
        layer.allow_origin(AllowOrigin::mirror_request())
    } else {
        let list = origins
            .iter()
            .filter_map(|origin| HeaderValue::from_str(origin).ok());
        layer.allow_origin(AllowOrigin::list(list))
    };
    match *credentials {
        Credentials::Always => layer.allow_credentials(true),
        Credentials::Never => layer,
        Credentials::OldClients => {
            let socket_path = socket_path.clone();
            layer.allow_credentials(AllowCredentials::predicate(move |_, request| {
                request.uri.path().starts_with(&*socket_path)
                    && query::value(request.uri.query(), "EIO").as_deref() == Some("3")
            }))
        }
    }
}

/// The layer below withholds `Access-Control-Allow-Origin` from other origins, and only that: this takes the rest away.
fn without_half_cors<B>(mut reply: http::Response<B>) -> http::Response<B> {
    let headers = reply.headers_mut();
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        for name in [
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ] {
            headers.remove(name);
        }
    }
    reply
}

/// Whether a request's origin may use the service: it names none, or one of the list, or there is no list.
pub fn is_allowed_origin<B>(request: &Request<B>, origins: &[String]) -> bool {
    let mut given = request.headers().get_all(ORIGIN).iter();
    origins.is_empty() || given.all(|origin| origins.iter().any(|allowed| allowed == origin))
}

fn on_panic(panic: Box<dyn Any + Send + 'static>) -> http::Response<http_body_util::Full<Bytes>> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("unknown"), "a request failed");
    let error = Error::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "something went wrong",
    );
    let (parts, _) = error.reply().into_parts();
    let body = r#"{"error":{"code":"internal","message":"something went wrong"}}"#;
    http::Response::from_parts(parts, http_body_util::Full::from(body))
}
