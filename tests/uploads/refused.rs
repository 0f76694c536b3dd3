//! Forms that are refused: 4xx, and neither file nor message.

use super::support::http::{self, Multipart};
use super::support::server::Server;
use super::{PATH, assert_error, file, people, people_named, settled};

#[tokio::test]
async fn forms_that_lack_something_are_refused_and_leave_nothing() {
    let server = Server::start(&[]).await;
    let long = "x".repeat(1025);
    for (form, status) in [
        (people(), 400),
        (Multipart::new(), 400),
        (file(Multipart::new().field("sender_id", "ann"), b"x"), 400),
        (
            file(Multipart::new().field("receiver_id", "bob"), b"x"),
            400,
        ),
        (file(people_named("", "bob"), b"x"), 400),
        (file(people_named("ann", &long), b"x"), 413),
        (file(people(), b""), 400),
        (
            people().part(
                "Content-Disposition: form-data; name=\"sender_id\"\r\n",
                b"\xff\xfe",
            ),
            400,
        ),
        (
            file(people(), b"x").field("text_content", &"x".repeat(65_537)),
            413,
        ),
        (file(people(), b"x").field("client_message_id", &long), 413),
    ] {
        let answer = form.post(server.address, PATH).await;
        let code = if status == 400 {
            "invalid"
        } else {
            "too_large"
        };
        assert_error(&answer, status, code);
    }
    let unknown = file(people(), b"x")
        .post(server.address, &format!("/api/chat/upload/{long}"))
        .await;
    assert_error(&unknown, 400, "invalid");
    settled(&server, 0).await;
}

#[tokio::test]
async fn a_form_has_32_parts_at_most_and_bounded_part_headers() {
    let server = Server::start(&[]).await;
    let parts =
        |count: usize| (3..count).fold(people(), |form, n| form.field(&format!("f{n}"), "x"));
    file(parts(32), b"x")
        .post(server.address, PATH)
        .await
        .expect_status(201);
    assert_error(
        &file(parts(33), b"x").post(server.address, PATH).await,
        413,
        "too_large",
    );
    let header = |bytes: usize| {
        format!(
            "Content-Disposition: form-data; name=\"y\"\r\nX-Long: {}\r\n",
            "x".repeat(bytes)
        )
    };
    file(people().part(&header(8 << 10), b"x"), b"x")
        .post(server.address, PATH)
        .await
        .expect_status(201);
    for bytes in [17 << 10, 200 << 10, 900 << 10] {
        let answer = file(people().part(&header(bytes), b"x"), b"x")
            .post(server.address, PATH)
            .await;
        assert!(
            matches!(answer.status, 400 | 413),
            "{bytes}: {}",
            answer.status
        );
    }
    settled(&server, 2).await;
}

#[tokio::test]
async fn a_boundary_has_70_bytes_at_most() {
    let server = Server::start(&[]).await;
    for (bytes, status) in [(1, 201), (70, 201), (71, 400), (5000, 400)] {
        let boundary = "b".repeat(bytes);
        let body = file(people(), b"x").finish();
        let body = String::from_utf8(body)
            .unwrap()
            .replace("chat-svc-test-boundary", &boundary);
        let kind = format!("multipart/form-data; boundary={boundary}");
        let answer = http::request(
            server.address,
            "POST",
            PATH,
            &[("Content-Type", &kind)],
            body.as_bytes(),
        )
        .await;
        assert_eq!(answer.status, status, "{bytes}: {}", answer.text());
    }
    for kind in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=x",
        "text/plain",
        "application/json",
        "multipart/form-data; boundary=\"",
        "x",
    ] {
        let answer = http::request(
            server.address,
            "POST",
            PATH,
            &[("Content-Type", kind)],
            b"--x--\r\n",
        )
        .await;
        assert!(
            matches!(answer.status, 400 | 415),
            "{kind}: {}",
            answer.status
        );
    }
    let answer = http::request(server.address, "POST", PATH, &[], b"x").await;
    assert_error(&answer, 415, "unsupported_media_type");
    settled(&server, 2).await;
}

#[tokio::test]
async fn a_form_cut_short_anywhere_is_refused_and_leaves_nothing() {
    let server = Server::start(&[]).await;
    let whole = file(people(), b"content of the file").finish();
    let headers = [("Content-Type", Multipart::CONTENT_TYPE)];
    // The last two bytes are the line end after the closing boundary, which may be missing.
    for length in (0..whole.len() - 2).rev() {
        let answer = http::request(server.address, "POST", PATH, &headers, &whole[..length]).await;
        assert_error(&answer, 400, "invalid");
    }
    settled(&server, 0).await;
}

#[tokio::test]
async fn malformed_forms_of_many_kinds_are_refused() {
    let server = Server::start(&[]).await;
    let b = "--chat-svc-test-boundary";
    let d = "Content-Disposition: form-data; name=\"attachment\"; filename=\"a\"";
    for body in [
        format!("{b}\n{d}\n\nx\n{b}--\n"),
        format!("{b}\r\n{d}\r\nx\r\n{b}--\r\n"),
        format!("{b}\r\n\r\nno headers\r\n{b}--\r\n"),
        format!("{b}\r\n{d}\r\nBad Header\r\n\r\nx\r\n{b}--\r\n"),
        format!("{b}\r\n{d}\r\n: empty\r\n\r\nx\r\n{b}--\r\n"),
        format!("{b}\r\nContent-Disposition: form-data\r\n\r\nx\r\n{b}--\r\n"),
        format!("{b}\r\nContent-Disposition: form-data; name=\r\n\r\nx\r\n{b}--\r\n"),
        format!("{b}\r\nContent-Disposition: form-data; name=\"\"\r\n\r\nx\r\n{b}--\r\n"),
        format!(
            "{b}\r\nContent-Disposition: form-data; name=\"attachment; filename=\"\r\n\r\nx\r\n{b}--\r\n"
        ),
        format!(
            "{b}\r\nContent-Disposition: attachment; name=\"attachment\"\r\n\r\nx\r\n{b}--\r\n"
        ),
        format!(
            "{b}\r\nContent-Type: multipart/mixed; boundary=y\r\n{d}\r\n\r\n--y\r\n\r\n{b}--\r\n"
        ),
        format!("{b}{b}\r\n{d}\r\n\r\nx\r\n{b}--\r\n"),
        format!("{b}--\r\n"),
        format!("{b}--\r\n{b}\r\n{d}\r\n\r\nafter the end\r\n{b}--\r\n"),
        format!("{b}\0\r\n{d}\r\n\r\nx\r\n{b}--\r\n"),
        "\r\n\r\n\r\n".into(),
        "-".repeat(5000),
        format!("{b}\r\n").repeat(5000),
        "\0".repeat(5000),
    ] {
        let headers = [("Content-Type", Multipart::CONTENT_TYPE)];
        let answer = http::request(server.address, "POST", PATH, &headers, body.as_bytes()).await;
        assert!(
            (400..500).contains(&answer.status),
            "{}: {body:.200}",
            answer.status
        );
        assert!(answer.json()["error"]["code"].is_string());
    }
    settled(&server, 0).await;
}
