//! Forms that are taken: order, limits, names, types, and the same form again.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::support::client::Client;
use super::support::history;
use super::support::http::{self, Connection, Multipart};
use super::support::server::Server;
use super::{PATH, PNG, assert_error, file, files, people, post_chunked, settled};

#[tokio::test]
async fn an_upload_is_a_message_to_its_receiver_and_a_file() {
    let server = Server::start(&[]).await;
    let mut bob = Client::websocket(server.address).await;
    bob.join("bob").await;
    let form = people()
        .file("attachment", "cat.png", "image/png", PNG)
        .field("text_content", "look\u{2028}");
    let message = sent(form, &server, 201).await;
    assert_eq!(bob.event_named("newMessage").await, message);
    assert_eq!(
        history::whole(server.address, "talk").await,
        std::slice::from_ref(&message)
    );
    for (field, value) in [
        ("message_type", "attachment"),
        ("text_content", "look\u{2028}"),
        ("sender_id", "ann"),
        ("receiver_id", "bob"),
        ("conversation_id", "talk"),
        ("attachment_filename", "cat.png"),
        ("attachment_mimetype", "image/png"),
    ] {
        assert_eq!(message[field], value, "{message}");
    }
    let url = message["attachment_url"].as_str().unwrap();
    let name = url.strip_prefix("/uploads/").unwrap();
    assert!(
        name.len() == 36
            && name.ends_with(".png")
            && name[..32].bytes().all(|b| b.is_ascii_hexdigit())
    );
    assert_eq!(
        http::get(server.address, url).await.expect_status(200).body,
        PNG
    );
    assert_eq!(files(&server), [name]);
}

#[tokio::test]
async fn fields_may_come_in_any_order_and_the_first_of_each_counts() {
    let server = Server::start(&[]).await;
    let forms = [
        file(Multipart::new(), b"x")
            .field("receiver_id", "bob")
            .field("sender_id", "ann"),
        file(Multipart::new().field("receiver_id", "bob"), b"x").field("sender_id", "ann"),
        file(
            people()
                .field("sender_id", "eve")
                .field("receiver_id", "eve"),
            b"x",
        )
        .file("attachment", "2.txt", "text/plain", b"second"),
        file(
            people()
                .field("surplus", "y")
                .field("_id", "0")
                .field("is_spam", "true")
                .field("sender_id[$ne]", ""),
            b"x",
        ),
    ];
    for form in forms {
        let message = sent(form, &server, 201).await;
        assert_eq!(
            (&message["sender_id"], &message["receiver_id"]),
            (&json!("ann"), &json!("bob"))
        );
        assert_eq!(
            (&message["is_spam"], &message["text_content"]),
            (&json!(false), &json!(""))
        );
        let url = message["attachment_url"].as_str().unwrap();
        assert_eq!(http::get(server.address, url).await.body, b"x");
    }
    assert_eq!(files(&server).len(), 4);
}

#[tokio::test]
async fn a_file_of_exactly_the_limit_is_taken_and_a_byte_more_is_not() {
    let server = Server::start(&[("UPLOAD_BYTES_MAX", "300000")]).await;
    let whole = vec![b'x'; 300_000];
    let message = sent(file(people(), &whole), &server, 201).await;
    let url = message["attachment_url"].as_str().unwrap();
    assert_eq!(http::get(server.address, url).await.body, whole);
    let more = vec![b'x'; 300_001];
    assert_error(
        &file(people(), &more).post(server.address, PATH).await,
        413,
        "too_large",
    );
    let chunked = post_chunked(server.address, &file(people(), &more).finish()).await;
    assert_error(&chunked, 413, "too_large");
    settled(&server, 1).await;
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_any_of_it_is_sent() {
    let server = Server::start(&[("UPLOAD_BYTES_MAX", "1000")]).await;
    let mut connection = Connection::open(server.address).await;
    let headers = [
        ("Content-Type", Multipart::CONTENT_TYPE),
        ("Content-Length", "1049577"),
    ];
    connection.send("POST", PATH, &headers, b"").await;
    assert_error(&connection.response("POST").await, 413, "too_large");
    settled(&server, 0).await;
}

#[tokio::test]
async fn a_chunked_form_is_read_as_any_other() {
    let server = Server::start(&[]).await;
    let answer = post_chunked(server.address, &file(people(), b"chunks").finish())
        .await
        .expect_status(201);
    let url = answer.json()["attachment_url"].clone();
    assert_eq!(
        http::get(server.address, url.as_str().unwrap()).await.body,
        b"chunks"
    );
}

#[tokio::test]
async fn uploads_one_after_another_on_one_connection_are_all_taken() {
    let server = Server::start(&[]).await;
    let mut connection = Connection::open(server.address).await;
    let form = file(people(), &[b'x'; 100_000]).finish();
    let headers = [("Content-Type", Multipart::CONTENT_TYPE)];
    for _ in 0..20 {
        connection.send("POST", PATH, &headers, &form).await;
        connection.response("POST").await.expect_status(201);
    }
    settled(&server, 20).await;
}

#[tokio::test]
async fn a_file_name_is_kept_without_its_path_and_what_would_hide() {
    let server = Server::start(&[]).await;
    let long = "é".repeat(150);
    for (given, kept) in [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\Users\\\\ann\\\\cat.png", "cat.png"),
        ("..", "file"),
        (".", "file"),
        ("/", "file"),
        (".hidden", ".hidden"),
        ("a\u{9}b.txt", "ab.txt"),
        ("猫 — résumé.txt", "猫 — résumé.txt"),
        ("gpj\u{202e}.exe", "gpj.exe"),
        ("  spaced  ", "spaced"),
        ("a%2Fb", "a%2Fb"),
        ("<b>.txt", "<b>.txt"),
        ("CON", "CON"),
        (&long, &long[..254]),
    ] {
        let answer = people()
            .file("attachment", given, "text/plain", b"x")
            .post(server.address, PATH)
            .await;
        assert_eq!(answer.status, 201, "{given:?}: {}", answer.text());
        assert_eq!(answer.json()["attachment_filename"], kept, "{given:?}");
    }
    for name in files(&server) {
        assert!(name.len() == 36 && name.ends_with(".txt"), "{name}");
    }
}

#[tokio::test]
async fn a_type_is_what_the_bytes_say_else_what_the_client_says() {
    let server = Server::start(&[]).await;
    for (bytes, claimed, expected) in [
        (PNG, "text/html", "image/png"),
        (b"%PDF-1.7\nx", "image/png", "application/pdf"),
        (b"just words", "text/csv; charset=x", "text/csv"),
        (b"just words", "nonsense", "text/plain"),
        (b"GIF89a------", "application/x-evil", "image/gif"),
    ] {
        let form = people().file("attachment", "name.txt", claimed, bytes);
        let message = sent(form, &server, 201).await;
        assert_eq!(message["attachment_mimetype"], expected, "{claimed}");
    }
}

#[tokio::test]
async fn an_upload_sent_again_is_the_first_message_and_leaves_no_second_file() {
    let mut server = Server::start(&[]).await;
    let form = || file(people().field("client_message_id", "c1"), b"once");
    let first = sent(form(), &server, 201).await;
    for _ in 0..3 {
        assert_eq!(sent(form(), &server, 200).await, first);
    }
    settled(&server, 1).await;
    server.kill9().await;
    let server = server.restart().await;
    assert_eq!(sent(form(), &server, 200).await, first);
    settled(&server, 1).await;
    let url = first["attachment_url"].as_str().unwrap();
    assert_eq!(
        http::get(server.address, url).await.expect_status(200).body,
        b"once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_upload_many_times_at_once_is_one_message_and_one_file() {
    let server = Server::start(&[]).await;
    let address = server.address;
    let mut posts = JoinSet::new();
    for _ in 0..8 {
        let form = file(people().field("client_message_id", "c1"), b"once");
        posts.spawn(async move { form.post(address, PATH).await });
    }
    let answers = posts.join_all().await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.json() == answers[0].json())
    );
    settled(&server, 1).await;
    let url = answers[0].json()["attachment_url"].clone();
    http::get(address, url.as_str().unwrap())
        .await
        .expect_status(200);
}

/// Uploads the form; the message in the answer.
async fn sent(form: Multipart, server: &Server, status: u16) -> Value {
    let answer = form.post(server.address, PATH).await;
    answer.expect_status(status).json()
}
