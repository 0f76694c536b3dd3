//! The first line of a request, without its version: `GET /path?query`.
//!
//! A route says its path again; where a method is refused, those that are named would do; decoding is total.

use chat_svc::http::query;
use chat_svc::router::{Route, RouteError};
use http::{Method, Uri};

const SOCKET_PATH: &str = "/socket.io/";
const NAMES: [&str; 9] = [
    "EIO",
    "transport",
    "sid",
    "t",
    "limit",
    "before",
    "last_message_id",
    "",
    "é",
];

pub fn run(data: &[u8]) {
    let Ok(line) = str::from_utf8(data) else {
        return;
    };
    let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), target.parse::<Uri>())
    else {
        return;
    };
    let path = uri.path();
    match Route::parse(&method, path, SOCKET_PATH) {
        Ok(route) => says_its_path(route, path),
        Err(RouteError::NotFound) => assert!(!path.starts_with(SOCKET_PATH) && path != "/"),
        Err(RouteError::MethodNotAllowed(methods)) => {
            for allowed in methods.split(", ") {
                assert_ne!(allowed, method.as_str());
                let allowed = Method::from_bytes(allowed.as_bytes()).expect("a method is named");
                assert!(Route::parse(&allowed, path, SOCKET_PATH).is_ok());
            }
        }
    }
    decoded(uri.query());
}

fn says_its_path(route: Route<'_>, path: &str) {
    let one_segment = |raw: &str| {
        assert!(!raw.is_empty() && !raw.contains('/'));
        if let Some(text) = query::segment(raw) {
            assert!(text.len() <= raw.len());
        }
    };
    match route {
        Route::Socket { rest } => assert_eq!(path.strip_prefix(SOCKET_PATH), Some(rest)),
        Route::Page => assert_eq!(path, "/"),
        Route::Health => assert_eq!(path, "/health"),
        Route::History { conversation } => {
            one_segment(conversation);
            assert_eq!(path, format!("/api/chat/messages/{conversation}"));
        }
        Route::ReportSpam { message } => {
            one_segment(message);
            assert_eq!(path, format!("/api/chat/messages/{message}/reportSpam"));
        }
        Route::Upload { conversation } => {
            one_segment(conversation);
            assert_eq!(path, format!("/api/chat/upload/{conversation}"));
        }
        Route::File { name } => {
            one_segment(name);
            let place = path.strip_suffix(name);
            assert!(matches!(place, Some("/uploads/" | "/api/chat/uploads/")));
        }
    }
}

fn decoded(raw: Option<&str>) {
    for name in NAMES {
        let value = query::value(raw, name);
        let non_empty = query::non_empty(raw, name);
        assert_eq!(non_empty, value.clone().filter(|value| !value.is_empty()));
        let Some(value) = value else {
            continue;
        };
        let pair = form_urlencoded::Serializer::new(String::new())
            .append_pair(name, &value)
            .finish();
        assert_eq!(query::value(Some(&pair), name), Some(value));
    }
}
