//! Kafka in place of the journal: where it is, what its topics are called, how we show who we are.

use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

use super::parse::millis;

/// Kafka as the log, in place of the embedded journal.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kafka, in place of the journal")]
pub struct KafkaOptions {
    /// Brokers, host:port, comma-separated; not set: the embedded journal
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: Option<String>,

    /// Name of this service to the brokers
    #[arg(long, env = "KAFKA_CLIENT_ID_CHAT_SVC", default_value = "chat-svc")]
    pub kafka_client_id: String,

    /// Topic of the messages; made when missing
    #[arg(
        long,
        env = "KAFKA_TOPIC_CHAT_MESSAGES",
        default_value = "chat.messages"
    )]
    pub kafka_topic_chat_messages: String,

    /// Topic of the quote events; made when missing, empty: not read
    #[arg(long, env = "KAFKA_TOPIC_QUOTE_EVENTS", default_value = "quote.events")]
    pub kafka_topic_quote_events: String,

    /// Begins the names of our consumer groups: one a service, the same on each of its nodes
    #[arg(long, env = "KAFKA_GROUP_PREFIX", default_value = "chat-svc.")]
    pub kafka_group_prefix: String,

    /// Name of this node that it keeps over restarts, never two nodes': after a crash the archive goes on at once, not
    /// after 10 s
    #[arg(long, env = "KAFKA_INSTANCE_ID")]
    pub kafka_instance_id: Option<String>,

    /// Topic of typing between nodes; made when missing; empty: typing stays on its node
    #[arg(long, env = "KAFKA_TOPIC_SIGNALS", default_value = "chat.signals")]
    pub kafka_topic_signals: String,

    /// Partitions of a topic that is made
    #[arg(long, env = "KAFKA_PARTITIONS", default_value_t = 12)]
    pub kafka_partitions: u32,

    /// Replicas of a topic that is made; not set: as the brokers have it
    #[arg(long, env = "KAFKA_REPLICATION")]
    pub kafka_replication: Option<u16>,

    /// Replicas that must have a message, of a topic that is made; not set: as the brokers have it
    #[arg(long, env = "KAFKA_MIN_INSYNC_REPLICAS")]
    pub kafka_min_insync_replicas: Option<u16>,

    /// Time until an append that nobody confirmed is told as unknown (ms)
    #[arg(long = "kafka-delivery-timeout-ms", value_name = "MS", env = "KAFKA_DELIVERY_TIMEOUT_MS", default_value = "30000", value_parser = millis)]
    pub kafka_delivery_timeout: Duration,

    /// plaintext, ssl, sasl_plaintext or sasl_ssl
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", default_value = "plaintext")]
    pub kafka_security_protocol: String,

    /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER
    #[arg(long, env = "KAFKA_SASL_MECHANISM")]
    pub kafka_sasl_mechanism: Option<String>,

    /// User for SASL
    #[arg(long, env = "KAFKA_SASL_USERNAME")]
    pub kafka_sasl_username: Option<String>,

    /// Password for SASL
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true)]
    pub kafka_sasl_password: Option<String>,

    /// For OAUTHBEARER: file of a token, a JWT, that others renew; read at each refresh
    #[arg(long, env = "KAFKA_OAUTH_TOKEN_FILE")]
    pub kafka_oauth_token_file: Option<PathBuf>,

    /// For OAUTHBEARER: token endpoint that is asked by the client credentials grant; https, or http on this machine
    #[arg(long, env = "KAFKA_OAUTH_TOKEN_URL", hide_env_values = true)]
    pub kafka_oauth_token_url: Option<String>,

    /// Who we are to the token endpoint
    #[arg(long, env = "KAFKA_OAUTH_CLIENT_ID")]
    pub kafka_oauth_client_id: Option<String>,

    /// Our secret with the token endpoint
    #[arg(long, env = "KAFKA_OAUTH_CLIENT_SECRET", hide_env_values = true)]
    pub kafka_oauth_client_secret: Option<String>,

    /// Scope to ask the token endpoint for; not set: its default
    #[arg(long, env = "KAFKA_OAUTH_SCOPE")]
    pub kafka_oauth_scope: Option<String>,

    /// File of the authorities to trust, instead of the system's
    #[arg(long, env = "KAFKA_SSL_CA")]
    pub kafka_ssl_ca: Option<PathBuf>,

    /// File of our certificate
    #[arg(long, env = "KAFKA_SSL_CERT")]
    pub kafka_ssl_cert: Option<PathBuf>,

    /// File of its key
    #[arg(long, env = "KAFKA_SSL_KEY")]
    pub kafka_ssl_key: Option<PathBuf>,
}

impl KafkaOptions {
    /// What no single value shows. No sentence holds a secret.
    pub(super) fn check(&self) -> Result<(), String> {
        let of_server = [
            &self.kafka_oauth_client_id,
            &self.kafka_oauth_client_secret,
            &self.kafka_oauth_scope,
        ];
        let [id, secret, scope] = of_server.map(|value| given(value).is_some());
        let file = self.kafka_oauth_token_file.as_ref();
        let file = file.is_some_and(|file| !file.as_os_str().is_empty());
        match given(&self.kafka_oauth_token_url) {
            Some(_) if file => Err(
                "KAFKA_OAUTH_TOKEN_FILE and KAFKA_OAUTH_TOKEN_URL must not both be set".into(),
            ),
            Some(_) if !(id && secret) => Err(
                "KAFKA_OAUTH_TOKEN_URL needs KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET"
                    .into(),
            ),
            Some(url) if !is_private(url) => Err(
                "KAFKA_OAUTH_TOKEN_URL must be an https URL without a password; http on this machine only"
                    .into(),
            ),
            None if id || secret || scope => Err(
                "KAFKA_OAUTH_CLIENT_ID, KAFKA_OAUTH_CLIENT_SECRET and KAFKA_OAUTH_SCOPE are for KAFKA_OAUTH_TOKEN_URL, \
                 which is not set"
                    .into(),
            ),
            Some(_) | None => Ok(()),
        }
    }
}

/// A variable that is set to nothing is not set.
fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

/// Whether nobody on the way reads what is sent there.
fn is_private(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let bare = url.username().is_empty() && url.password().is_none();
    bare && (url.scheme() == "https" || (url.scheme() == "http" && here))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::config::Config;

    fn check(args: &[&str]) -> Result<(), String> {
        Config::try_parse_from(std::iter::once("chat-svc").chain(args.iter().copied()))
            .unwrap()
            .check()
    }

    #[test]
    fn tokens_come_from_one_source_that_is_whole() {
        let server = |url| {
            let id = ["--kafka-oauth-client-id", "chat"];
            let secret = ["--kafka-oauth-client-secret", "hunter2"];
            [["--kafka-oauth-token-url", url], id, secret].concat()
        };
        for url in [
            "https://id.example/token",
            "http://127.0.0.1:1/token",
            "http://[::1]/token",
        ] {
            assert_eq!(check(&server(url)), Ok(()), "{url}");
        }
        assert_eq!(check(&["--kafka-oauth-token-file", "token"]), Ok(()));
        let both = [
            server("https://id.example/"),
            vec!["--kafka-oauth-token-file", "t"],
        ]
        .concat();
        let faulty = [
            (both, "must not both"),
            (server("http://id.example/token"), "https"),
            (server("https://chat:hunter2@id.example/token"), "https"),
            (server("id.example"), "https"),
            (server("https://id.example/")[..4].to_vec(), "needs"),
            (server("")[2..].to_vec(), "not set"),
            (vec!["--kafka-oauth-scope", "kafka"], "not set"),
        ];
        for (args, word) in faulty {
            let fault = check(&args).unwrap_err();
            assert!(fault.contains(word) && !fault.contains('\n'), "{fault}");
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }
}
