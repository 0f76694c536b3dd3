//! Other origins with credentials: `CORS_CREDENTIALS` without a list, with one, and switched off.

use crate::support::http::{self, Response};
use crate::support::server::Server;
use crate::support::websocket::WebSocket;
use crate::{Poll, SOCKETS};

const ORIGIN: &str = "https://a.example";

async fn asked(server: &Server, method: &str, path: &str, origin: &str) -> Response {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-token"),
    ];
    let headers = if method == "OPTIONS" {
        &headers[..]
    } else {
        &headers[..1]
    };
    http::request(server.address, method, path, headers, b"").await
}

fn assert_may(answer: &Response, origin: &str, credentials: bool) {
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed, Some(origin), "{}", answer.text());
    let with = answer.header("access-control-allow-credentials");
    assert_eq!(with, credentials.then_some("true"));
    let varies = |(name, value): &(String, String)| {
        name == "vary" && value.to_ascii_lowercase().contains("origin")
    };
    assert!(answer.headers.iter().any(varies), "{:?}", answer.headers);
}

/// A handshake, a poll, a post, a refusal, a post that ends the session, and a preflight.
async fn all(server: &Server, origin: &str) -> Vec<Response> {
    let open = asked(
        server,
        "GET",
        &format!("{SOCKETS}&transport=polling"),
        origin,
    )
    .await;
    let mut answers = vec![open];
    let (poll, _) = Poll::open(server.address, SOCKETS).await;
    let headers = [("Origin", origin)];
    let posted = http::request(server.address, "POST", &poll.path(), &headers, b"1:2").await;
    answers.push(posted.expect_status(200));
    answers.push(
        asked(server, "GET", &poll.path(), origin)
            .await
            .expect_status(200),
    );
    let over = vec![b'x'; 1_000_001];
    let posted = http::request(server.address, "POST", &poll.path(), &headers, &over).await;
    answers.push(posted.expect_status(413));
    for query in [
        "EIO=3",
        "EIO=9&transport=polling",
        "EIO=3&transport=polling&sid=x",
    ] {
        let path = format!("/socket.io/?{query}");
        answers.push(asked(server, "GET", &path, origin).await.expect_status(400));
    }
    let preflight = asked(server, "OPTIONS", &poll.path(), origin).await;
    assert!(
        matches!(preflight.status, 200 | 204),
        "{}",
        preflight.status
    );
    let allowed = preflight.header("access-control-allow-headers");
    assert_eq!(allowed, Some("x-token"));
    answers.push(preflight);
    answers
}

#[tokio::test]
async fn without_a_list_each_origin_is_named_when_credentials_are_allowed() {
    let server = Server::start(&[("CORS_CREDENTIALS", "true")]).await;
    for origin in [ORIGIN, "http://localhost:8080", "null"] {
        for answer in all(&server, origin).await {
            assert_may(&answer, origin, true);
        }
    }
}

#[tokio::test]
async fn a_list_names_its_origins_and_allows_credentials_unless_told_otherwise() {
    for (setting, credentials) in [(None, true), (Some("true"), true), (Some("false"), false)] {
        let mut settings = vec![("CORS_ORIGINS", "https://a.example,https://b.example")];
        settings.extend(setting.map(|setting| ("CORS_CREDENTIALS", setting)));
        let server = Server::start(&settings).await;
        for answer in all(&server, ORIGIN).await {
            assert_may(&answer, ORIGIN, credentials);
        }
        let path = format!("{SOCKETS}&transport=websocket");
        for (origin, good) in [("https://b.example", true), ("https://c.example", false)] {
            let headers = [("Origin", origin)];
            let opened = WebSocket::open(server.address, &path, &headers).await;
            assert_eq!(opened.is_ok(), good, "{origin}");
        }
        // A session's id in other hands is no way around the list.
        let (poll, _) = Poll::open(server.address, SOCKETS).await;
        let stranger = asked(&server, "GET", &poll.path(), "https://c.example").await;
        assert_eq!(
            (
                stranger.status,
                stranger.header("access-control-allow-origin")
            ),
            (403, None)
        );
        let path = poll.path().replace("polling", "websocket");
        let headers = [("Origin", "https://c.example")];
        let refused = WebSocket::open(server.address, &path, &headers).await;
        assert_eq!(refused.unwrap_err().text(), "Forbidden");
        assert!(poll.is_known().await);
    }
}
