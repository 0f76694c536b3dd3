//! Server processes on one Kafka and one MongoDB, with a topic, groups and a database of their own.

use std::net::SocketAddr;

use mongodb::Client;

use crate::support::server::Server;
use crate::support::services::{self, Settings};

/// What the nodes of one test share.
pub struct Cluster {
    settings: Settings,
}

impl Cluster {
    /// `None`, said on stderr, when there is no Kafka or MongoDB to test on. That is a failure when
    /// `CHAT_SVC_REQUIRE_SERVICES` is 1.
    pub fn new() -> Option<Cluster> {
        let (log, store) = (services::kafka()?, services::mongo()?);
        let signals = format!("test.{}.signals", services::unique());
        let own = [("KAFKA_TOPIC_SIGNALS", &*signals), ("WORKER_THREADS", "2")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = [log, store, own.to_vec()].concat();
        Some(Cluster { settings })
    }

    pub async fn node(&self) -> Server {
        Server::start(&services::borrowed(&self.settings)).await
    }

    /// Two nodes; the first makes the topics.
    pub async fn pair(&self) -> [Server; 2] {
        [self.node().await, self.node().await]
    }

    /// Drops the database.
    pub async fn clean(self) {
        let mut settings = self.settings.iter();
        let uri = settings.find(|(name, _)| name == "MONGO_URI");
        let (_, uri) = uri.expect("a setting");
        let client = Client::with_uri_str(uri).await.expect("MongoDB");
        let database = client.default_database().expect("named in the address");
        database.drop().await.expect("dropped");
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
