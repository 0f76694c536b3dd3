//! What each part on the way of a message costs: `cargo bench --bench parts`, one alone with `-- codec`.

mod batches;
mod codec;
mod end_to_end;
mod handler;
mod outbox;
mod rooms;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod topic;

use criterion::Criterion;

/// The server's: with another one the figures would be of another server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// By the name that its benches' names begin with.
const PARTS: [(&str, fn()); 7] = [
    ("codec", codec::benches),
    ("handler", handler::benches),
    ("outbox", outbox::benches),
    ("rooms", rooms::benches),
    ("topic", topic::benches),
    ("store", store::benches),
    ("end to end", end_to_end::benches),
];

/// Of what is asked for, criterion runs no other bench, but would set all of them up.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_named = |part: &str| arguments.iter().any(|argument| argument.starts_with(part));
    let is_any_named = PARTS.iter().any(|(part, _)| is_named(part));
    for (part, benches) in PARTS {
        if !is_any_named || is_named(part) {
            benches();
        }
    }
    Criterion::default().configure_from_args().final_summary();
}

// === Surroundings ===

/// As the server has it: a thread a core.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A folder where the build is: on a disk, which a system's temporary folder need not be.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// The server that an environment variable names. Without it the bench named here is left out, and that is said; with
/// `CHAT_SVC_REQUIRE_SERVICES=1` it is a failure.
fn service(variable: &str, bench: &str) -> Option<String> {
    let server = std::env::var(variable).ok();
    if server.is_none() {
        let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
        assert!(
            !required,
            "{variable} is not set, and services are required"
        );
        eprintln!("skipped: {bench} ({variable} is not set)");
    }
    server
}
