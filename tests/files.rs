//! Files of others: served whole or in parts, cached, and never run by a browser or found outside their folder.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::fs;
use std::net::SocketAddr;

use support::http::{self, Connection, Multipart, Response};
use support::server::Server;

const DIGITS: &[u8] = b"0123456789";

#[tokio::test]
async fn a_file_is_served_under_both_paths_and_its_head_alone() {
    let server = Server::start(&[]).await;
    let url = upload(server.address, "a.txt", "text/plain", DIGITS).await;
    let other = url.replace("/uploads/", "/api/chat/uploads/");
    for path in [&url, &other] {
        let whole = http::get(server.address, path).await.expect_status(200);
        assert_eq!(whole.body, DIGITS);
        assert_eq!(whole.header("content-length"), Some("10"));
        let mut connection = Connection::open(server.address).await;
        connection.send("HEAD", path, &[], b"").await;
        let head = connection.response("HEAD").await.expect_status(200);
        let without_date = |answer: &Response| {
            let headers = answer.headers.iter().filter(|(name, _)| name != "date");
            headers.cloned().collect::<Vec<_>>()
        };
        assert_eq!(without_date(&head), without_date(&whole));
        // No byte of a body follows the head.
        connection.send("GET", "/health", &[], b"").await;
        connection.response("GET").await.expect_status(200);
    }
}

#[tokio::test]
async fn what_could_run_is_only_ever_saved() {
    let server = Server::start(&[]).await;
    let cases: [(&str, &str, &[u8], bool); 9] = [
        ("a.html", "text/html", b"<script>alert(1)</script>", false),
        (
            "a.svg",
            "image/svg+xml",
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
            false,
        ),
        (
            "a.svg",
            "image/svg+xml",
            b"<?xml version='1.0'?><svg/>",
            false,
        ),
        ("a.js", "text/javascript", b"alert(1)", false),
        ("a.pdf", "application/pdf", b"%PDF-1.7 x", false),
        ("a.txt", "text/plain", b"words", false),
        ("a.png", "image/png", b"no picture at all", true),
        (
            "a.html",
            "text/html",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            true,
        ),
        ("a.mp4", "video/mp4", b"not a film", true),
    ];
    for (name, claimed, bytes, is_inline) in cases {
        let url = upload(server.address, name, claimed, bytes).await;
        let answer = http::get(server.address, &url).await.expect_status(200);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("sandbox"),
            "{policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let disposition = answer.header("content-disposition").unwrap();
        assert_eq!(
            disposition.starts_with("inline"),
            is_inline,
            "{name} {claimed}: {disposition}"
        );
        assert!(is_inline || disposition.starts_with("attachment"));
        let kind = answer.header("content-type").unwrap();
        let dangerous = ["html", "svg", "xml", "javascript"];
        assert!(
            !dangerous.iter().any(|word| kind.contains(word)),
            "{name}: {kind}"
        );
        assert_eq!(answer.body, bytes);
    }
}

#[tokio::test]
async fn a_range_is_served_as_asked_and_what_is_no_range_as_the_whole() {
    let server = Server::start(&[]).await;
    let url = upload(server.address, "a.txt", "text/plain", DIGITS).await;
    for (range, status, body) in [
        ("bytes=0-0", 206, "0"),
        ("bytes=2-4", 206, "234"),
        ("bytes=5-", 206, "56789"),
        ("bytes=-3", 206, "789"),
        ("bytes=-99", 206, "0123456789"),
        ("bytes=8-99", 206, "89"),
        ("bytes=9-9", 206, "9"),
        ("bytes=0-18446744073709551615", 206, "0123456789"),
        ("bytes=0-99999999999999999999999", 206, "0123456789"),
        ("BYTES=1-1", 206, "1"),
        ("bytes = 1-1", 206, "1"),
        ("bytes=4-2", 200, "0123456789"),
        ("bytes=a-b", 200, "0123456789"),
        ("bytes=", 200, "0123456789"),
        ("lines=1-2", 200, "0123456789"),
        ("bytes=--1", 200, "0123456789"),
        ("bytes=1-2,4-5", 200, "0123456789"),
        ("bytes=0-,0-,0-,0-", 200, "0123456789"),
        ("x", 200, "0123456789"),
        ("bytes=+1-2", 200, "0123456789"),
        ("bytes=10-", 416, ""),
        ("bytes=10-20", 416, ""),
        ("bytes=-0", 416, ""),
        ("bytes=99999999999999999999999-", 416, ""),
    ] {
        let answer = get_with(server.address, &url, &[("Range", range)]).await;
        assert_eq!(answer.status, status, "{range}");
        match status {
            416 => assert_eq!(
                answer.header("content-range"),
                Some("bytes */10"),
                "{range}"
            ),
            206 => {
                assert_eq!(answer.text(), body, "{range}");
                let first: usize = body[..1].parse().unwrap();
                let expected = format!("bytes {first}-{}/10", first + body.len() - 1);
                assert_eq!(
                    answer.header("content-range"),
                    Some(expected.as_str()),
                    "{range}"
                );
                assert_eq!(
                    answer.header("content-length"),
                    Some(body.len().to_string().as_str())
                );
            }
            _ => assert_eq!(
                (answer.text().as_str(), answer.header("content-range")),
                (body, None),
                "{range}"
            ),
        }
        assert!(status == 416 || answer.header("accept-ranges") == Some("bytes"));
    }
}

#[tokio::test]
async fn validators_save_what_the_client_has_and_guard_its_ranges() {
    let server = Server::start(&[]).await;
    let url = upload(server.address, "a.txt", "text/plain", DIGITS).await;
    let whole = http::get(server.address, &url).await;
    let etag = whole.header("etag").unwrap().to_string();
    let date = whole.header("last-modified").unwrap().to_string();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    let list = format!("\"other\", W/{etag}");
    for headers in [
        [("If-None-Match", etag.as_str())],
        [("If-None-Match", "*")],
        [("If-None-Match", &list)],
        [("If-Modified-Since", &date)],
        [("If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT")],
    ] {
        let answer = get_with(server.address, &url, &headers).await;
        assert_eq!(answer.status, 304, "{headers:?}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert!(answer.body.is_empty());
    }
    for headers in [
        [("If-None-Match", "\"other\""), ("X", "")],
        [
            ("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT"),
            ("X", ""),
        ],
        [("If-Modified-Since", "nonsense"), ("X", "")],
        [("If-None-Match", "\"other\""), ("If-Modified-Since", &date)],
    ] {
        let answer = get_with(server.address, &url, &headers).await;
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, DIGITS),
            "{headers:?}"
        );
    }
    let weak = format!("W/{etag}");
    for (condition, status) in [
        (etag.as_str(), 206),
        (&date, 206),
        (&weak, 200),
        ("\"other\"", 200),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 200),
        ("nonsense", 200),
    ] {
        let headers = [("Range", "bytes=1-2"), ("If-Range", condition)];
        assert_eq!(
            get_with(server.address, &url, &headers).await.status,
            status,
            "{condition}"
        );
    }
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder_or_to_an_unfinished_file() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("secret"), "secret").unwrap();
    let server = Server::start_in(root.path(), &[]).await;
    fs::create_dir(server.uploads().join("sub")).unwrap();
    fs::write(server.uploads().join("sub/secret"), "secret").unwrap();
    fs::write(server.uploads().join(".hidden"), "secret").unwrap();
    fs::write(
        server
            .uploads()
            .join("0123456789abcdef0123456789abcdef.txt#1"),
        "secret",
    )
    .unwrap();
    let long = "x".repeat(256);
    let longer = "x".repeat(8_000);
    for name in [
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "..%5csecret",
        "..\\secret",
        "%2e%2e",
        "..",
        ".",
        "%2e",
        "..%00",
        "a%00.txt",
        "%00",
        "sub",
        "sub%2fsecret",
        "sub/secret",
        "%252e%252e%252fsecret",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        ".hidden",
        "%2ehidden",
        "0123456789abcdef0123456789abcdef.txt%231",
        "%ff",
        "%C0%AE%C0%AE",
        "..;/secret",
        "CON",
        "missing.txt",
        " ",
        "%20",
        "%0a",
        "~",
        "*",
        "?",
        &long,
        &longer,
    ] {
        for folder in ["/uploads/", "/api/chat/uploads/"] {
            let answer = http::get(
                server.address,
                &format!("{folder}{name}").replace(' ', "%20"),
            )
            .await;
            assert_eq!(answer.status, 404, "{folder}{name:.40}: {}", answer.text());
            assert_eq!(answer.json()["error"]["code"], "not_found");
            assert!(
                !answer.text().contains("secret") && !answer.text().contains("tmp"),
                "{}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn files_that_an_earlier_service_left_are_served() {
    let server = Server::start(&[]).await;
    for (name, path) in [
        (
            "1700000000000-cat photo.PNG",
            "1700000000000-cat%20photo.PNG",
        ),
        ("no-extension", "no-extension"),
        ("ünï.txt", "%C3%BCn%C3%AF.txt"),
        ("a%2Fb.txt", "a%252Fb.txt"),
    ] {
        fs::write(server.uploads().join(name), name).unwrap();
        let answer = http::get(server.address, &format!("/uploads/{path}")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, name));
    }
    fs::write(server.uploads().join("empty.txt"), "").unwrap();
    let answer = http::get(server.address, "/uploads/empty.txt")
        .await
        .expect_status(200);
    assert_eq!(answer.header("content-length"), Some("0"));
    let answer = get_with(
        server.address,
        "/uploads/empty.txt",
        &[("Range", "bytes=0-0")],
    )
    .await;
    assert_eq!(answer.status, 416);
}

async fn upload(address: SocketAddr, name: &str, claimed: &str, bytes: &[u8]) -> String {
    let form = Multipart::new()
        .field("sender_id", "ann")
        .field("receiver_id", "bob");
    let form = form.file("attachment", name, claimed, bytes);
    let message = form
        .post(address, "/api/chat/upload/talk")
        .await
        .expect_status(201)
        .json();
    message["attachment_url"].as_str().unwrap().to_string()
}

async fn get_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    http::request(address, "GET", path, headers, b"").await
}
