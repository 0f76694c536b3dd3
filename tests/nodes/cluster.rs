//! Server processes on one Kafka and one MongoDB, with a topic, groups and a database of their own.

use std::env;
use std::io::Write;
use std::net::SocketAddr;

use mongodb::Client;

use crate::support::server::Server;

/// What the nodes of one test share.
pub struct Cluster {
    settings: Vec<(&'static str, String)>,
}

impl Cluster {
    /// `None`, said on stderr, when there is no Kafka or MongoDB to test on. That is a failure when
    /// `CHAT_SVC_REQUIRE_SERVICES` is 1.
    pub fn new() -> Option<Cluster> {
        let (Some(brokers), Some(mongo)) = (named("TEST_KAFKA_BROKERS"), named("TEST_MONGO_URI"))
        else {
            return None;
        };
        Some(Self::on(brokers, &mongo))
    }

    /// On these servers.
    pub fn on(brokers: String, mongo: &str) -> Cluster {
        let name = format!("test-{:016x}", getrandom::u64().expect("random"));
        let (server, options) = mongo.split_once('?').unwrap_or((mongo, ""));
        let server = server.trim_end_matches('/');
        let settings = vec![
            ("KAFKA_BROKERS", brokers),
            ("KAFKA_TOPIC_CHAT_MESSAGES", format!("{name}.messages")),
            ("KAFKA_TOPIC_SIGNALS", format!("{name}.signals")),
            ("KAFKA_CLIENT_ID_CHAT_SVC", name.clone()),
            ("KAFKA_PARTITIONS", "4".to_owned()),
            ("MONGO_URI", format!("{server}/{name}?{options}")),
            ("WORKER_THREADS", "2".to_owned()),
        ];
        Cluster { settings }
    }

    pub async fn node(&self) -> Server {
        let settings: Vec<(&str, &str)> = self
            .settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        Server::start(&settings).await
    }

    /// Two nodes; the first makes the topics.
    pub async fn pair(&self) -> [Server; 2] {
        [self.node().await, self.node().await]
    }

    /// Drops the database.
    pub async fn clean(self) {
        let uri = &self.setting("MONGO_URI");
        let client = Client::with_uri_str(uri).await.expect("MongoDB");
        let database = client.default_database().expect("named in the address");
        database.drop().await.expect("dropped");
    }

    pub fn setting(&self, name: &str) -> String {
        let found = self.settings.iter().find(|(known, _)| *known == name);
        found.expect("a setting").1.clone()
    }
}

/// One number of a node's metrics, 0 when it is not there.
pub async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let text = crate::support::http::get(admin, "/metrics").await.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |number| number.parse().expect("a number"))
}

fn named(variable: &str) -> Option<String> {
    let value = env::var(variable).ok();
    if value.is_none() {
        let required = env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
        assert!(
            !required,
            "{variable} is not set, and services are required"
        );
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Not by the macros: what they print is shown of failed tests only.
        let line = format!("skipped: {test} ({variable} is not set)\n");
        std::io::stderr()
            .write_all(line.as_bytes())
            .expect("stderr");
    }
    value
}
