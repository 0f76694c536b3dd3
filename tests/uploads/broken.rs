//! Uploads that break off, stand still, are too many or too quick.

use super::support::http::{self, Connection, Multipart};
use super::support::server::Server;
use super::support::within;
use super::{PATH, assert_error, file, files, people, settled, until_files};

#[tokio::test]
async fn a_connection_cut_in_mid_upload_leaves_nothing() {
    let server = Server::start(&[]).await;
    let idle = tasks(&server).await;
    let whole = file(people(), &vec![b'x'; 900_000]).finish();
    for length in [10, 200, 5_000, 400_000, whole.len() - 30, whole.len() - 3] {
        for is_announced in [true, false] {
            let mut connection = Connection::open(server.address).await;
            let total = whole.len().to_string();
            let framing = if is_announced {
                ("Content-Length", total.as_str())
            } else {
                ("Transfer-Encoding", "chunked")
            };
            let headers = [("Content-Type", Multipart::CONTENT_TYPE), framing];
            connection.send("POST", PATH, &headers, b"").await;
            if !is_announced {
                connection
                    .send_bytes(format!("{:x}\r\n", whole.len()).as_bytes())
                    .await;
            }
            connection.send_bytes(&whole[..length]).await;
            drop(connection);
        }
    }
    until_idle(&server, &idle).await;
    assert_eq!(files(&server), [""; 0]);
    settled(&server, 0).await;
}

/// Waits until every request sent before has ended, those whose clients have gone too.
async fn until_idle(server: &Server, idle: &str) {
    // Connections are accepted in turn: when this one is served, none of those before still waits for its task.
    http::get(server.address, "/health")
        .await
        .expect_status(200);
    let ended = async { while tasks(server).await != idle {} };
    within("the requests to end", ended).await;
}

/// Tasks running in the server, that of this very question among them.
async fn tasks(server: &Server) -> String {
    let metrics = http::get(server.admin, "/metrics").await.text();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("chat_tasks "))
        .unwrap();
    line.to_string()
}

#[tokio::test]
async fn uploads_beyond_the_limit_are_told_to_come_back() {
    let server = Server::start(&[("UPLOADS_MAX", "2")]).await;
    let whole = file(people(), &[b'x'; 2_000]).finish();
    let (most, rest) = whole.split_at(whole.len() - 100);
    let length = whole.len().to_string();
    let headers = [
        ("Content-Type", Multipart::CONTENT_TYPE),
        ("Content-Length", &length),
    ];
    let mut slow = Vec::new();
    for count in 1..=2 {
        let mut connection = Connection::open(server.address).await;
        connection.send("POST", PATH, &headers, most).await;
        slow.push(connection);
        until_files(&server, count).await;
    }
    let refused = file(people(), b"x").post(server.address, PATH).await;
    assert_error(&refused, 503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("2"));
    for connection in &mut slow {
        connection.send_bytes(rest).await;
        connection.response("POST").await.expect_status(201);
    }
    file(people(), b"x")
        .post(server.address, PATH)
        .await
        .expect_status(201);
    settled(&server, 3).await;
}

#[tokio::test]
async fn an_upload_that_stands_still_is_ended_and_leaves_nothing() {
    let server = Server::start(&[("BODY_IDLE_TIMEOUT_MS", "1000")]).await;
    let whole = file(people(), &vec![b'x'; 600_000]).finish();
    let total = whole.len().to_string();
    let headers = [
        ("Content-Type", Multipart::CONTENT_TYPE),
        ("Content-Length", &total),
    ];
    let mut begun = Vec::new();
    for length in [0, 100, 500_000] {
        let mut connection = Connection::open(server.address).await;
        connection
            .send("POST", PATH, &headers, &whole[..length])
            .await;
        begun.push(connection);
    }
    for connection in &mut begun {
        assert_error(&connection.response("POST").await, 408, "timeout");
        connection.closed().await;
    }
    settled(&server, 0).await;
}

#[tokio::test]
async fn a_quick_sender_of_a_large_file_does_not_fill_the_memory() {
    let server = Server::start(&[]).await;
    file(people(), b"warm")
        .post(server.address, PATH)
        .await
        .expect_status(201);
    let before = resident_kib(&server, "VmHWM");
    let large = vec![b'x'; 25 << 20];
    let message = file(people(), &large)
        .post(server.address, PATH)
        .await
        .expect_status(201)
        .json();
    let grown = resident_kib(&server, "VmHWM") - before;
    assert!(grown < 12 << 10, "{grown} KiB more at the peak");
    let url = message["attachment_url"].as_str().unwrap();
    assert!(http::get(server.address, url).await.body == large);
    let grown = resident_kib(&server, "VmHWM") - before;
    assert!(
        grown < 12 << 10,
        "{grown} KiB more at the peak after reading"
    );
}

fn resident_kib(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let server = Server::start(&[("UPLOAD_BYTES_MAX", "1000")]).await;
    let form = file(people(), &vec![b'x'; 8 << 20]).finish();
    let headers = [("Content-Type", Multipart::CONTENT_TYPE)];
    for _ in 0..10 {
        let mut connection = Connection::open(server.address).await;
        connection
            .try_send("POST", PATH, &headers, &form)
            .await
            .ok();
        assert_error(&connection.response("POST").await, 413, "too_large");
    }
}

#[tokio::test]
async fn without_its_folder_uploads_are_unavailable_and_readiness_names_them() {
    let server = Server::start(&[]).await;
    std::fs::remove_dir_all(server.uploads()).unwrap();
    std::fs::write(server.uploads(), "no folder").unwrap();
    let answer = file(people(), b"x").post(server.address, PATH).await;
    assert_error(&answer, 503, "unavailable");
    assert!(!answer.text().contains("uploads/") && !answer.text().contains("os error"));
    let ready = http::get(server.admin, "/health/ready")
        .await
        .expect_status(503)
        .json();
    assert_ne!(ready["uploads"], "ok");
    assert_eq!(ready["log"], "ok");
    assert!(
        super::support::history::whole(server.address, "talk")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn whenever_clients_go_away_files_and_messages_agree() {
    let server = Server::start(&[]).await;
    let idle = tasks(&server).await;
    let headers = [("Content-Type", Multipart::CONTENT_TYPE)];
    for round in 0..40 {
        let form = file(
            people().field("client_message_id", &round.to_string()),
            b"once",
        );
        let form = form.finish();
        let mut connections = Vec::new();
        for _ in 0..4 {
            let mut connection = Connection::open(server.address).await;
            connection.send("POST", PATH, &headers, &form).await;
            connections.push(connection);
        }
        // One is read to its answer, the others are gone in the midst of whatever was happening to them.
        let mut first = connections.remove(round % 4);
        drop(connections);
        assert!(first.response("POST").await.status < 300);
    }
    until_idle(&server, &idle).await;
    settled(&server, 40).await;
    for message in super::support::history::whole(server.address, "talk").await {
        let url = message["attachment_url"].as_str().unwrap();
        http::get(server.address, url).await.expect_status(200);
    }
}
