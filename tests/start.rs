//! A start that works says where; one that cannot is one sentence and an exit code, never a half-working server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use support::client::Client;
use support::server::Server;
use support::{DEADLINE, history, http};

const BINARY: &str = env!("CARGO_BIN_EXE_chat-svc");

// === started ===

#[tokio::test]
async fn a_start_makes_its_folders_and_says_where_everything_is() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start_in(root.path(), &[]).await;
    assert!(root.path().join("data/journal").is_dir());
    assert!(root.path().join("data/store").is_dir());
    assert!(root.path().join("uploads").is_dir());
    let output = banner(&server).await;
    let lines: Vec<_> = output
        .lines()
        .filter_map(|line| line.strip_prefix("out: "))
        .collect();
    let version = concat!("chat-svc ", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines.first().copied(), Some(version));
    for (name, value) in [
        ("chat", server.address.to_string()),
        ("admin", server.admin.to_string()),
        (
            "log",
            root.path().join("data/journal").display().to_string(),
        ),
        (
            "store",
            root.path().join("data/store").display().to_string(),
        ),
        ("uploads", root.path().join("uploads").display().to_string()),
        ("limits", "100000 connections".to_string()),
    ] {
        let said = |line: &&str| line.trim_start().starts_with(name) && line.contains(&value);
        assert!(lines.iter().any(said), "{name} {value} in:\n{output}");
    }
}

#[tokio::test]
async fn a_file_of_settings_in_the_working_folder_counts_below_the_environment_and_flags() {
    let root = tempfile::tempdir().unwrap();
    let settings = "UPLOAD_BYTES_MAX=1048576\nMAX_PAYLOAD=5000\nPORT=1\n";
    fs::write(root.path().join(".env"), settings).unwrap();
    // The harness sets PORT in the environment, so the file's does not count.
    let server = Server::start_in(root.path(), &[]).await;
    let printed = banner(&server).await;
    assert!(printed.contains("files up to 1 MiB"), "{printed}");
    let client = Client::open_websocket(server.address, "", &[])
        .await
        .unwrap();
    assert_eq!(client.open["maxPayload"], 5000);
    let output = run(root.path(), &[("BATCH_MAX", "7")], &["--batch-max", "0"]);
    assert_refused(&output, 1, "BATCH_MAX");
    fs::write(root.path().join(".env"), "BATCH_MAX=0\n").unwrap();
    assert_refused(&run(root.path(), &[], &[]), 1, "BATCH_MAX");
    fs::write(root.path().join(".env"), "not a setting\n").unwrap();
    assert_refused(&run(root.path(), &[], &[]), 1, ".env");
}

#[tokio::test]
async fn a_file_of_settings_in_a_folder_above_is_not_ours() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(".env"), "BATCH_MAX=0\n").unwrap();
    let inner = root.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let server = Server::start_in(&inner, &[]).await;
    http::get(server.address, "/health")
        .await
        .expect_status(200);
}

#[test]
fn help_tells_every_option_with_its_variable_and_default() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), &[], &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for (option, variable, default) in [
        ("--port", "PORT", "3001"),
        ("--upload-path", "UPLOAD_PATH", "uploads"),
        ("--data-dir", "DATA_DIR", "data"),
        ("--admin-addr", "ADMIN_ADDR", "127.0.0.1:9464"),
        ("--max-payload", "MAX_PAYLOAD", "1000000"),
        ("--ping-interval", "PING_INTERVAL_MS", "25000"),
        ("--upload-bytes-max", "UPLOAD_BYTES_MAX", "26214400"),
    ] {
        assert!(help.contains(option), "{option}");
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
        assert!(help.contains(&format!("[default: {default}]")), "{default}");
    }
    let options = help
        .lines()
        .filter(|line| line.trim_start().starts_with("--"));
    for option in options.filter(|line| !line.contains("--help") && !line.contains("--version")) {
        let name = option.split_whitespace().next().unwrap();
        let after = &help[help.find(option).unwrap()..];
        let end = after.find("\n\n").unwrap_or(after.len());
        assert!(
            after.contains("[env: "),
            "{name} has a variable: {}",
            &after[..end]
        );
    }
    for (name, unit) in [("_MS", "(ms)"), ("_BYTES", "(bytes)")] {
        assert!(help.contains(unit), "{name} says {unit}");
    }
    let output = run(root.path(), &[], &["--version"]);
    let version = concat!("chat-svc ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
    assert!(!root.path().join("data").exists());
}

// === refused ===

#[test]
fn usage_that_cannot_be_read_ends_with_2() {
    let root = tempfile::tempdir().unwrap();
    for setting in [
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("HOST", "nohost"),
        ("ADMIN_ADDR", "9464"),
        ("BATCH_MAX", "many"),
        ("PING_INTERVAL_MS", "25s"),
        ("LOG_JSON", "maybe"),
        ("UPLOAD_BYTES_MAX", "-1"),
    ] {
        let output = run(root.path(), &[setting], &[]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{setting:?}: {}",
            text(&output)
        );
        let first = text(&output).lines().next().unwrap_or_default().to_string();
        assert!(
            first.starts_with("error: ") && first.contains(setting.1),
            "{setting:?}: {first}"
        );
    }
    assert_eq!(
        run(root.path(), &[], &["--no-such-flag"]).status.code(),
        Some(2)
    );
    assert_eq!(run(root.path(), &[], &["surplus"]).status.code(), Some(2));
    assert!(!root.path().join("data").exists());
}

#[test]
fn values_that_make_no_sense_are_refused_in_one_sentence() {
    let root = tempfile::tempdir().unwrap();
    let huge = "18446744073709551615";
    for (name, value) in [
        ("KAFKA_PARTITIONS", "0"),
        ("START_TIMEOUT_MS", "0"),
        ("BATCH_MAX", "0"),
        ("CORS_ORIGINS", "chat.example"),
        ("CORS_ORIGINS", "https://a.example/path"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://a.example,null"),
        ("SOCKET_PATH", "socket.io"),
        ("COOKIE", "a b"),
        ("COOKIE", "io=x; Path"),
        ("COOKIE", "sid\u{e9}"),
        ("SERVE_CLIENT", "missing"),
        ("LOG_EPOCH", "0"),
        ("LOG_LEVEL", "chat_svc=loud"),
        ("PAGE_DEFAULT", "201"),
        ("MAX_PAYLOAD", "0"),
        ("MAX_PAYLOAD", huge),
        ("OUTBOX_BYTES_MAX", "1"),
        ("OUTBOX_BYTES_MAX", huge),
        ("LANE_BYTES_MAX", "999999"),
        ("LANE_BYTES_MAX", huge),
        ("WORKER_THREADS", huge),
        ("LANES", huge),
        ("UPLOADS_MAX", huge),
        ("CONNECTIONS_MAX", huge),
        ("PING_INTERVAL_MS", "0"),
        ("PING_INTERVAL_MS", huge),
        ("PING_TIMEOUT_MS", huge),
        ("CONNECT_TIMEOUT_MS", huge),
        ("HEADER_TIMEOUT_MS", "0"),
        ("BODY_IDLE_TIMEOUT_MS", "0"),
        ("UPGRADE_TIMEOUT_MS", "0"),
        ("JOURNAL_SEGMENT_BYTES", "0"),
        ("TAIL_BYTES_MAX", "0"),
        ("UPLOAD_BYTES_MAX", "0"),
        ("BATCH_MAX", huge),
        ("UPLOAD_URL", "ftp://somewhere/x"),
        ("UPLOAD_URL", "nonsense"),
    ] {
        assert_refused(&run(root.path(), &[(name, value)], &[]), 1, name);
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = Server::start(&[]).await;
    let root = tempfile::tempdir().unwrap();
    let port = server.address.port().to_string();
    let output = run(root.path(), &[("PORT", &port)], &[]);
    assert_refused(&output, 1, "PORT");
    assert!(text(&output).contains(&port), "{}", text(&output));
    let admin = server.admin.to_string();
    let output = run(root.path(), &[("ADMIN_ADDR", &admin)], &[]);
    assert_refused(&output, 1, "ADMIN_ADDR");
    http::get(server.address, "/health")
        .await
        .expect_status(200);
}

#[test]
fn folders_that_cannot_be_used_are_named() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    for (name, value) in [
        ("DATA_DIR", "file"),
        ("DATA_DIR", "file/data"),
        ("UPLOAD_PATH", "file"),
        ("UPLOAD_PATH", "file/uploads"),
        ("DATA_DIR", "/proc/nowhere"),
        ("UPLOAD_PATH", "/proc/nowhere"),
    ] {
        let output = run(root.path(), &[(name, value)], &[]);
        assert_refused(&output, 1, name);
        assert!(text(&output).contains(value), "{}", text(&output));
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start_in(root.path(), &[]).await;
    let output = run(root.path(), &[], &[]);
    assert_refused(&output, 1, "DATA_DIR");
    let mut ann = Client::websocket(server.address).await;
    let data = json!({"sender_id": "ann", "receiver_id": "bob", "text_content": "still here"});
    assert_eq!(ann.emit_with_ack("chatMessage", data).await["status"], "ok");
}

#[tokio::test]
async fn a_damaged_journal_is_refused_and_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(root.path(), &[]).await;
    let mut ann = Client::websocket(server.address).await;
    for n in 0..50 {
        let data = json!({"conversation_id": "talk", "sender_id": "ann", "receiver_id": "bob", "text_content": n.to_string()});
        assert_eq!(ann.emit_with_ack("chatMessage", data).await["status"], "ok");
    }
    server.kill9().await;
    let segment = first_segment(&root.path().join("data/journal"));
    let whole = fs::read(&segment).unwrap();
    // In the second block or so: long before the end, so no write can have been cut short there.
    let at = memchr::memmem::find(&whole, b"\"text_content\":\"1\"").unwrap();
    let mut damaged = whole.clone();
    damaged[at + 3] ^= 0x40;
    fs::write(&segment, &damaged).unwrap();
    let output = run(root.path(), &[], &[]);
    assert_refused(&output, 1, "DATA_DIR");
    assert_eq!(fs::read(&segment).unwrap(), damaged);
    fs::write(&segment, &whole).unwrap();
    let server = Server::start_in(root.path(), &[]).await;
    assert_eq!(history::whole(server.address, "talk").await.len(), 50);
}

/// What it printed, once the last line of its banner is there.
async fn banner(server: &Server) -> String {
    server.prints("  limits ", DEADLINE).await;
    server.output()
}

fn first_segment(journal: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(journal)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files
        .filter(|path| path.is_file() && fs::metadata(path).unwrap().len() > 5_000)
        .collect();
    segments.sort();
    segments.into_iter().next().expect("a segment")
}

// === running it ===

/// Runs the binary to its end.
fn run(root: &Path, settings: &[(&str, &str)], flags: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "20", BINARY]).args(flags);
    command.current_dir(root).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs([
        ("PORT", "0"),
        ("HOST", "127.0.0.1"),
        ("ADMIN_ADDR", "127.0.0.1:0"),
    ]);
    command.envs(settings.iter().copied()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One sentence on standard error that names the setting, and this exit code.
fn assert_refused(output: &Output, code: i32, name: &str) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{name}: {text}");
    let sentences: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("chat-svc: "))
        .collect();
    assert!(
        sentences.len() == 1 && sentences[0].contains(name),
        "{name}: {text}"
    );
    assert_eq!(text.lines().last(), Some(sentences[0]), "{name}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(output.stdout.is_empty(), "{name}: nothing was announced");
}
