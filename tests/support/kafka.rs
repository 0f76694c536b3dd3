//! A topic of its own for a test, on the Kafka that `TEST_KAFKA_BROKERS` names.

use std::io::Write;

use chat_svc::topic::kafka::KafkaConfig;

/// Settings for a topic and groups that nobody else uses; `None`, said on stderr, when there is no Kafka to test on.
/// That is a failure when `CHAT_SVC_REQUIRE_SERVICES` is 1.
pub fn config() -> Option<KafkaConfig> {
    let Ok(brokers) = std::env::var("TEST_KAFKA_BROKERS") else {
        let required = std::env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|set| set == "1");
        assert!(
            !required,
            "TEST_KAFKA_BROKERS is not set, and services are required"
        );
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Not by the macros: what they print is shown of failed tests only.
        let line = format!("skipped: {test} (TEST_KAFKA_BROKERS is not set)\n");
        std::io::stderr()
            .write_all(line.as_bytes())
            .expect("stderr");
        return None;
    };
    Some(own(&brokers))
}

/// A random topic with one partition on these brokers.
pub fn own(brokers: &str) -> KafkaConfig {
    let suffix = getrandom::u64().expect("random");
    KafkaConfig {
        partitions: 1,
        group_prefix: format!("test-{suffix:016x}."),
        ..KafkaConfig::new(brokers, format!("test.{suffix:016x}"))
    }
}
