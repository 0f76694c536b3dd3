//! The whole service on an S3 server that is away, silent, dies in mid-upload, or was named wrongly; and links to it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

#[path = "support/bucket.rs"]
mod bucket;
mod support;

use std::path::PathBuf;
use std::time::Duration;

use bucket::Bucket;
use support::http::{self, Connection, Multipart, Response};
use support::server::Server;
use support::{DEADLINE, history, within_for};

const PATH: &str = "/api/chat/upload/talk";

/// Longer than all that an upload waits for the server, and than it takes until what is left is removed: in its worst
/// case each request is given up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn while_s3_refuses_or_says_nothing_an_upload_is_told_to_come_back_and_leaves_nothing() {
    let Some(mut bucket) = Bucket::start() else {
        return;
    };
    let server = Server::start(&bucket.settings()).await;

    bucket.kill();
    assert_told_to_come_back(&upload(&server, b"refused").await);
    assert_not_ready(&server).await;
    bucket.up();
    let kept = [upload(&server, b"back").await.expect_status(201)];
    until_only(&server, &bucket, &kept).await;

    bucket.pause();
    assert_told_to_come_back(&upload(&server, b"silent").await);
    bucket.resume();
    let kept = [
        kept[0].clone(),
        upload(&server, b"again").await.expect_status(201),
    ];
    until_files(&bucket, kept.len(), Bucket::files_with_bytes).await;
    assert_whole(&server, &kept).await;
}

#[tokio::test]
async fn an_upload_under_which_s3_dies_is_told_to_come_back_and_its_parts_are_removed_when_it_is_back()
 {
    let Some(mut bucket) = Bucket::start() else {
        return;
    };
    let server = Server::start(&bucket.settings()).await;
    let (mut connection, rest) = half_sent(&server, &bucket).await;
    bucket.kill();
    connection.try_send_bytes(&rest).await.ok();
    assert_told_to_come_back(&answer(&mut connection).await);
    assert!(!bucket.files().is_empty(), "a part that was sent before");
    bucket.up();
    let kept = [upload(&server, b"back").await.expect_status(201)];
    until_only(&server, &bucket, &kept).await;
}

#[tokio::test]
async fn an_upload_whose_client_goes_away_while_s3_is_silent_leaves_nothing_once_it_speaks() {
    let Some(bucket) = Bucket::start() else {
        return;
    };
    let server = Server::start(&bucket.settings()).await;
    let (mut connection, rest) = half_sent(&server, &bucket).await;
    bucket.pause();
    connection.try_send_bytes(&rest).await.ok();
    drop(connection);
    // Nobody else is held up by that: messages go on.
    assert!(history::whole(server.address, "talk").await.is_empty());
    bucket.resume();
    let kept = [upload(&server, b"after").await.expect_status(201)];
    until_only(&server, &bucket, &kept).await;
}

#[tokio::test]
async fn wrong_keys_a_missing_bucket_and_a_wrong_endpoint_are_one_sentence_that_names_what_was_set()
{
    let Some(bucket) = Bucket::start() else {
        return;
    };
    let prefix = "s3://chat-svc-tests/a/prefix";
    for (name, value, said) in [
        (
            "AWS_SECRET_ACCESS_KEY",
            "wr0ng-secret",
            "AWS_SECRET_ACCESS_KEY",
        ),
        ("AWS_ACCESS_KEY_ID", "nobody", "AWS_ACCESS_KEY_ID"),
        (
            "UPLOAD_URL",
            "s3://there-is-no-such-bucket",
            "there-is-no-such-bucket",
        ),
        (
            "AWS_ENDPOINT_URL",
            "http://127.0.0.1:1",
            "http://127.0.0.1:1 (AWS_ENDPOINT_URL)",
        ),
        ("AWS_ALLOW_HTTP", "false", "AWS_ALLOW_HTTP"),
    ] {
        let mut settings = bucket.settings();
        settings.push(("UPLOAD_URL", prefix));
        settings.push((name, value));
        let (status, output) = Server::start_refused(&settings).await;
        assert_eq!(status.code(), Some(1), "{name}: {output}");
        let lines: Vec<_> = output.lines().collect();
        let last = lines.last().copied().unwrap_or_default();
        assert!(
            last.starts_with("err: chat-svc: UPLOAD_URL: "),
            "{name}: {output}"
        );
        assert!(last.contains(said), "{name}: {last}");
        assert!(!output.contains("wr0ng-secret") && !output.contains("UPLOAD_PATH"));
        assert!(!lines.iter().any(|line| line.starts_with("out:")));
    }
}

// === links ===

#[tokio::test]
async fn a_link_gives_the_file_with_its_safe_headers_and_none_when_tampered_with_or_out_of_date() {
    let Some(bucket) = Bucket::start() else {
        return;
    };
    let mut settings = bucket.settings();
    settings.extend([
        ("UPLOAD_URL", "s3://chat-svc-tests/a/prefix"),
        ("UPLOAD_LINK_SECONDS", "60"),
    ]);
    let server = Server::start(&settings).await;
    let content = b"<script>alert(1)</script>";
    let form = people().file("attachment", "a.html", "text/html", content);
    let message = form.post(server.address, PATH).await.expect_status(201);
    let path = message.json()["attachment_url"]
        .as_str()
        .unwrap()
        .to_owned();

    let link = linked(&server, &path).await;
    assert!(link.contains("X-Amz-Expires=60"), "{link}");
    let got = follow(&bucket, &link).await.expect_status(200);
    assert_eq!(got.body, content);
    // As this service would have served it: to be saved, not to be run.
    let direct = http::request(server.address, "HEAD", &path, &[], b"").await;
    let direct = direct.expect_status(200);
    for header in ["content-type", "content-disposition"] {
        assert!(direct.header(header).is_some(), "{header}");
        assert_eq!(got.header(header), direct.header(header), "{header}");
    }

    let tampered = [
        link.replace(
            "response-content-disposition=attachment",
            "response-content-disposition=inline",
        ),
        link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"),
        link.replace("a/prefix/", "a/"),
        link.split('?').next().unwrap().to_owned(),
    ];
    for tampered in tampered {
        assert_ne!(tampered, link);
        let answer = follow(&bucket, &tampered).await;
        assert_eq!(answer.status, 403, "{tampered}: {}", answer.text());
        assert_ne!(answer.body, content);
    }
    let unknown = format!("/uploads/{}.png", "0".repeat(32));
    http::get(server.address, &unknown).await.expect_status(404);
}

#[tokio::test]
async fn links_to_a_folder_are_refused_at_start() {
    let (status, output) = Server::start_refused(&[("UPLOAD_LINK_SECONDS", "60")]).await;
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("chat-svc: UPLOAD_LINK_SECONDS"), "{output}");
}

async fn linked(server: &Server, path: &str) -> String {
    let answer = http::get(server.address, path).await.expect_status(307);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.header("location").unwrap().to_owned()
}

/// Gets what a link to the bucket's server gives.
async fn follow(bucket: &Bucket, link: &str) -> Response {
    let endpoint = bucket.variable("AWS_ENDPOINT_URL");
    let path = link.strip_prefix(endpoint).unwrap();
    let address = endpoint.strip_prefix("http://").unwrap();
    http::get(address.parse().unwrap(), path).await
}

// === what scenarios are written in ===

fn people() -> Multipart {
    Multipart::new()
        .field("sender_id", "ann")
        .field("receiver_id", "bob")
}

async fn upload(server: &Server, bytes: &[u8]) -> Response {
    let form = people().file("attachment", "a.txt", "text/plain", bytes);
    let headers = [("Content-Type", Multipart::CONTENT_TYPE)];
    let mut connection = Connection::open(server.address).await;
    connection
        .send("POST", PATH, &headers, &form.finish())
        .await;
    answer(&mut connection).await
}

async fn answer(connection: &mut Connection) -> Response {
    let answer = within_for(PATIENCE, "an answer", connection.next_response("POST"));
    answer.await.unwrap()
}

/// An upload of which the server has a whole part, and what is still to be sent of it.
async fn half_sent(server: &Server, bucket: &Bucket) -> (Connection, Vec<u8>) {
    let form = people().file("attachment", "a.txt", "text/plain", &vec![b'x'; 12 << 20]);
    let mut form = form.finish();
    let length = form.len().to_string();
    let rest = form.split_off(8 << 20);
    let headers = [
        ("Content-Type", Multipart::CONTENT_TYPE),
        ("Content-Length", &length),
    ];
    let mut connection = Connection::open(server.address).await;
    connection.send("POST", PATH, &headers, &form).await;
    let part = async {
        // Under its own name: what the server has not renamed yet, it would leave behind itself when killed.
        let is_first = |file: &PathBuf| file.to_string_lossy().ends_with("-1");
        while !bucket.files().iter().any(is_first) {
            tokio::task::yield_now().await;
        }
    };
    within_for(DEADLINE, "a part on the server's disk", part).await;
    (connection, rest)
}

fn assert_told_to_come_back(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "unavailable");
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
}

async fn assert_not_ready(server: &Server) {
    let mut connection = Connection::open(server.admin).await;
    connection.send("GET", "/health/ready", &[], b"").await;
    let ready = answer(&mut connection).await.expect_status(503).json();
    assert_ne!(ready["uploads"], "ok");
    assert_eq!(ready["log"], "ok");
}

/// Waits until the bucket holds the files of these answers' messages and nothing else, and checks that those messages
/// are all that there are, and that their files can be had.
async fn until_only(server: &Server, bucket: &Bucket, answers: &[Response]) {
    until_files(bucket, answers.len(), Bucket::files).await;
    assert_whole(server, answers).await;
}

async fn until_files(bucket: &Bucket, count: usize, seen: fn(&Bucket) -> Vec<PathBuf>) {
    let alone = async {
        while seen(bucket).len() != count {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, alone).await;
    assert!(waited.is_ok(), "left: {:#?}", bucket.files());
}

async fn assert_whole(server: &Server, answers: &[Response]) {
    let messages = history::whole(server.address, "talk").await;
    let acknowledged: Vec<_> = answers.iter().map(Response::json).collect();
    assert_eq!(messages, acknowledged);
    for message in messages {
        let url = message["attachment_url"].as_str().unwrap();
        http::get(server.address, url).await.expect_status(200);
    }
}
