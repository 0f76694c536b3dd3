//! Servers on the Kafka and the MongoDB that `TEST_KAFKA_BROKERS` and `TEST_MONGO_URI` name, each with a topic, groups
//! and a database of its own, so that tests share the services and nothing else.
//!
//! With `CHAT_SVC_TEST_BACKENDS=services` every server of the tests runs on them.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::Write;
use std::path::Path;

/// Environment variables of a server.
pub type Settings = Vec<(String, String)>;

/// What every server whose data are in `root` gets: nothing, unless the whole test run is to be on the services.
pub fn chosen(root: &Path) -> Settings {
    match std::env::var("CHAT_SVC_TEST_BACKENDS") {
        Err(_) => Vec::new(),
        Ok(services) if services == "services" => {
            // The same for each life of this server, and for nobody else.
            let hasher = BuildHasherDefault::<DefaultHasher>::default();
            let name = format!("{:016x}", hasher.hash_one((root, std::process::id())));
            let named = "CHAT_SVC_TEST_BACKENDS needs TEST_KAFKA_BROKERS and TEST_MONGO_URI";
            let log = kafka_at(&service("TEST_KAFKA_BROKERS").expect(named), &name);
            let store = mongo_at(&service("TEST_MONGO_URI").expect(named), &name);
            // A server that was killed and starts again must not wait for its own place in the archive's group.
            let node = owned(&[("KAFKA_INSTANCE_ID", "node-1")]);
            [log, store, node].concat()
        }
        Ok(other) => panic!("CHAT_SVC_TEST_BACKENDS is `services` or not set, not {other:?}"),
    }
}

/// Whether the servers' store can: FerretDB, which stands in for MongoDB, refuses NUL from anybody.
pub fn can_hold(text: &str) -> bool {
    std::env::var_os("CHAT_SVC_TEST_BACKENDS").is_none() || !text.contains('\0')
}

/// A log of one's own on the shared Kafka; `None`, said on stderr, when there is none.
pub fn kafka() -> Option<Settings> {
    Some(kafka_at(&needed("TEST_KAFKA_BROKERS")?, &unique()))
}

/// A store of one's own on the shared MongoDB; `None`, said on stderr, when there is none.
pub fn mongo() -> Option<Settings> {
    Some(mongo_at(&needed("TEST_MONGO_URI")?, &unique()))
}

/// A log called `name` on these brokers.
pub fn kafka_at(brokers: &str, name: &str) -> Settings {
    owned(&[
        ("KAFKA_BROKERS", brokers),
        ("KAFKA_TOPIC_CHAT_MESSAGES", &format!("test.{name}")),
        ("KAFKA_TOPIC_QUOTE_EVENTS", &format!("test.{name}.quotes")),
        ("KAFKA_GROUP_PREFIX", &format!("test-{name}.")),
        ("KAFKA_PARTITIONS", "3"),
    ])
}

/// A store in database `name` of this server.
pub fn mongo_at(uri: &str, name: &str) -> Settings {
    let (server, options) = uri.split_once('?').unwrap_or((uri, ""));
    let server = server.trim_end_matches('/');
    let uri = format!("{server}/test_{name}?{options}");
    owned(&[("MONGO_URI", uri.trim_end_matches('?'))])
}

/// A name that nobody else has.
pub fn unique() -> String {
    format!("{:016x}", getrandom::u64().expect("random"))
}

/// As [`Server::start`](super::server::Server::start) takes them.
pub fn borrowed(settings: &Settings) -> Vec<(&str, &str)> {
    settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn owned(settings: &[(&str, &str)]) -> Settings {
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    settings.iter().map(own).collect()
}

fn service(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

fn needed(variable: &str) -> Option<String> {
    let found = service(variable);
    if found.is_none() {
        skip(&format!("{variable} is not set"));
    }
    found
}

/// Says that this test is left out, and why: a failure when `CHAT_SVC_REQUIRE_SERVICES` is 1.
pub fn skip(why: &str) {
    let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
    assert!(!required, "{why}, and services are required");
    let thread = std::thread::current();
    // Not by the macros: what they print is shown of failed tests only.
    let line = format!("skipped: {} ({why})\n", thread.name().unwrap_or("a test"));
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}
