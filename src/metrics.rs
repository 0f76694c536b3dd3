//! Every number the service tells about itself, in Prometheus' terms. Knows numbers, none of the things they count.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type Labels = [(&'static str, &'static str); 1];
type ByLabel = Family<Labels, Counter>;
/// Values that come from outside: whoever adds one has to bound them.
type ByText<const N: usize> = Family<[(&'static str, String); N], Counter>;
type Level = Gauge<i64>;

/// All metrics. Cheap to update from any thread.
pub struct Metrics {
    registry: Registry,
    pub messages_accepted: Counter,
    refused: Vec<Counter>,
    pub messages_resent: Counter,
    pub messages_delivered: Counter,
    pub pushes: Counter,
    pub typing_relayed: Counter,
    pub typing_dropped: Counter,
    pub signals_sent: Counter,
    pub signals_dropped: Counter,
    pub signals_received: Counter,
    pub events_ignored: Counter,
    pub pages_cut_off: Counter,
    pub acks_asked: Counter,
    pub acks_expired: Counter,
    pub acks_ignored: Counter,
    pub quotes_accepted: Counter,
    pub quote_retries: Counter,
    quotes_ignored: ByText<1>,
    quote_types: Mutex<BTreeSet<String>>,
    pub handshakes_polling: Counter,
    pub handshakes_websocket: Counter,
    pub upgrades: Counter,
    pub polling_sessions: Level,
    pub websockets: Level,
    pub connections: Level,
    pub connections_refused: Counter,
    pub sessions_refused: Counter,
    pub rooms: Level,
    closed: ByLabel,
    requests: ByLabel,
    pub request_seconds: Histogram,
    pub spam_reports: Counter,
    pub uploads: Counter,
    pub upload_bytes: Counter,
    pub lane_messages: Level,
    pub lane_bytes: Level,
    pub append_batch: Histogram,
    pub append_seconds: Histogram,
    pub deliver_batch: Histogram,
    pub archive_batch: Histogram,
    pub archive_seconds: Histogram,
    pub archive_retries: Counter,
    dead_letters: ByText<2>,
    pub dead_letter_retries: Counter,
    pub records_unreadable: Counter,
    pub duplicates_hidden: Counter,
    pub tail_messages: Level,
    pub tail_bytes: Level,
    pub recent_ids: Level,
    pub log_end_seconds: Histogram,
    pub log_end_failures: Counter,
    pub catch_up_seconds: Histogram,
    recoveries: ByLabel,
    pub recovery_replayed: Counter,
    pub recovery_messages: Level,
    pub recovery_messages_bytes: Level,
    pub recovery_sessions_bytes: Level,
    pub recovery_sessions_dropped: Counter,
    pub frames_written: Counter,
    pub socket_writes: Counter,
    pub journal_bytes: Gauge<u64, AtomicU64>,
    pub journal_records: Gauge<u64, AtomicU64>,
    pub journal_syncs: Gauge<u64, AtomicU64>,
    pub journal_queued_bytes: Gauge<u64, AtomicU64>,
    pub kafka_records: Gauge<u64, AtomicU64>,
    pub kafka_unknown: Gauge<u64, AtomicU64>,
    pub kafka_queued_records: Gauge<u64, AtomicU64>,
    pub kafka_queued_bytes: Gauge<u64, AtomicU64>,
    pub kafka_brokers_up: Gauge<u64, AtomicU64>,
    pub kafka_errors: Gauge<u64, AtomicU64>,
    pub kafka_round_trip_us: Gauge<u64, AtomicU64>,
    pub archive_lag: Gauge<u64, AtomicU64>,
    pub archive_age: Gauge<u64, AtomicU64>,
    pub disk_free_bytes: Gauge<u64, AtomicU64>,
    pub tasks: Level,
}

impl Metrics {
    /// `refusal_codes`: the labels of refusals, in the order of [`Metrics::refused`]'s index.
    pub fn new(refusal_codes: &[&'static str]) -> Self {
        let mut r = Names(Registry::with_prefix("chat"));
        let refused: ByLabel = r.add("messages_refused", "Messages refused, by code");
        let refused_by = |code: &&'static str| refused.get_or_create(&[("code", *code)]).clone();
        Self {
            messages_accepted: r.add(
                "messages_accepted",
                "Messages acknowledged: durable in the log",
            ),
            refused: refusal_codes.iter().map(refused_by).collect(),
            messages_resent: r.add("messages_resent", "Resends answered with the first message"),
            messages_delivered: r.add(
                "messages_delivered",
                "Messages read from the log for their rooms",
            ),
            pushes: r.add("pushes", "newMessage frames queued to sockets"),
            typing_relayed: r.add("typing_relayed", "typing and stopTyping relayed"),
            typing_dropped: r.add(
                "typing_dropped",
                "typing and stopTyping dropped under pressure or rate",
            ),
            signals_sent: r.add("signals_sent", "typing and stopTyping sent to other nodes"),
            signals_dropped: r.add("signals_dropped", "Such ones dropped on their way"),
            signals_received: r.add("signals_received", "Such ones of other nodes shown here"),
            events_ignored: r.add(
                "events_ignored",
                "Events with a name that clients do not send here",
            ),
            pages_cut_off: r.add(
                "pages_cut_off",
                "History pages told while the log could not tell where it ends",
            ),
            acks_asked: r.add("acks_asked", "Acknowledgements asked of clients"),
            acks_expired: r.add("acks_expired", "Acknowledgements that did not come in time"),
            acks_ignored: r.add("acks_ignored", "Acknowledgements that nobody waited for"),
            quotes_accepted: r.add("quotes_accepted", "Accepted quotes read from Kafka"),
            quote_retries: r.add("quote_retries", "Their system messages tried again"),
            quotes_ignored: r.add("quotes_ignored", "Quote events of other types, by type"),
            quote_types: Mutex::default(),
            handshakes_polling: r.add("handshakes_polling", "Engine.IO sessions begun by polling"),
            handshakes_websocket: r.add(
                "handshakes_websocket",
                "Engine.IO sessions begun by websocket",
            ),
            upgrades: r.add("upgrades", "Sessions upgraded from polling to websocket"),
            polling_sessions: r.add("polling_sessions", "Sessions on polling now"),
            websockets: r.add("websockets", "Sessions on websocket now"),
            connections: r.add("connections", "TCP connections open now"),
            connections_refused: r.add(
                "connections_refused",
                "TCP connections closed at the connection limit",
            ),
            sessions_refused: r.add(
                "sessions_refused",
                "Polling handshakes refused at the connection limit, which bounds sessions too",
            ),
            rooms: r.add("rooms", "Rooms with a member"),
            closed: r.add("sessions_closed", "Sessions closed, by reason"),
            requests: r.add("http_requests", "HTTP requests answered, by status class"),
            request_seconds: r.add_unit(
                "http_request",
                "Time to answer, long polls left out",
                times(),
            ),
            spam_reports: r.add("spam_reports", "Spam reports accepted"),
            uploads: r.add("uploads", "Files uploaded"),
            upload_bytes: r.add("upload_bytes", "Bytes of files uploaded"),
            lane_messages: r.add("lane_messages", "Messages waiting for the log"),
            lane_bytes: r.add("lane_bytes", "Bytes waiting for the log"),
            append_batch: r.add_with("append_batch_messages", "Messages in one append", sizes()),
            append_seconds: r.add_unit("append", "Time of one append, sync included", times()),
            deliver_batch: r.add_with(
                "deliver_batch_messages",
                "Messages in one read of the log",
                sizes(),
            ),
            archive_batch: r.add_with(
                "archive_batch_messages",
                "Messages in one bulk insert",
                sizes(),
            ),
            archive_seconds: r.add_unit("archive", "Time of one bulk insert", times()),
            archive_retries: r.add("archive_retries", "Bulk inserts tried again"),
            dead_letters: r.add("dead_letters", "Records that can never be taken, put aside"),
            dead_letter_retries: r.add(
                "dead_letter_retries",
                "Dead letters tried to be written again",
            ),
            records_unreadable: r.add("records_unreadable", "Records that are no message"),
            duplicates_hidden: r.add(
                "duplicates_hidden",
                "Messages read a second time and not shown again",
            ),
            tail_messages: r.add("tail_messages", "Messages that the store does not have yet"),
            tail_bytes: r.add("tail_bytes", "Their bytes"),
            recent_ids: r.add("recent_ids", "Ids remembered to recognise resends"),
            log_end_seconds: r.add_unit("log_end", "Time to ask a shared log for its end", times()),
            log_end_failures: r.add("log_end_failures", "Such questions without an answer"),
            catch_up_seconds: r.add_unit(
                "catch_up",
                "Time until a shared log's end was known and read",
                times(),
            ),
            recoveries: r.add(
                "recoveries",
                "Sessions that clients asked to take up again, by what came of it",
            ),
            recovery_replayed: r.add(
                "recovery_replayed",
                "Messages sent again to sessions taken up",
            ),
            recovery_messages: r.add("recovery_messages", "Messages kept to be replayed"),
            recovery_messages_bytes: r.add("recovery_messages_bytes", "Their bytes"),
            recovery_sessions_bytes: r.add(
                "recovery_sessions_bytes",
                "Bytes of sessions kept whose connections have ended",
            ),
            recovery_sessions_dropped: r.add(
                "recovery_sessions_dropped",
                "Such sessions given up for want of room",
            ),
            frames_written: r.add("frames_written", "Frames written to websockets"),
            socket_writes: r.add("socket_writes", "System calls that wrote them"),
            journal_bytes: r.add("journal_bytes", "Bytes of the journal on disk"),
            journal_records: r.add(
                "journal_records",
                "Records appended to the journal since start",
            ),
            journal_syncs: r.add("journal_syncs", "Group commits since start"),
            journal_queued_bytes: r.add(
                "journal_queued_bytes",
                "Bytes waiting for the journal's writer",
            ),
            kafka_records: r.add("kafka_records", "Records appended to Kafka since start"),
            kafka_unknown: r.add(
                "kafka_unknown_records",
                "Records that may or may not be in Kafka",
            ),
            kafka_queued_records: r.add("kafka_queued_records", "Records waiting for Kafka"),
            kafka_queued_bytes: r.add("kafka_queued_bytes", "Their bytes"),
            kafka_brokers_up: r.add("kafka_brokers_up", "Brokers connected"),
            kafka_errors: r.add(
                "kafka_errors",
                "Errors that the Kafka client reported since start",
            ),
            kafka_round_trip_us: r.add(
                "kafka_round_trip_microseconds_p99",
                "Slowest broker's round trips",
            ),
            archive_lag: r.add(
                "archive_lag_records",
                "Records that the store does not have yet",
            ),
            archive_age: r.add(
                "archive_watermark_age_seconds",
                "Time since the store got something, 0 while it has everything",
            ),
            disk_free_bytes: r.add("disk_free_bytes", "Free space where the data is"),
            tasks: r.add("tasks", "Tasks running"),
            registry: r.0,
        }
    }

    /// Counts a refusal by the place of its code.
    pub fn refused(&self, index: usize) {
        if let Some(counter) = self.refused.get(index) {
            counter.inc();
        }
    }

    /// Counts a closed session.
    pub fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a quote event of a type that means nothing here. The first types seen have a label of their own.
    pub fn quote_ignored(&self, kind: &str) {
        let mut known = self.quote_types.lock();
        let is_told = known.contains(kind)
            || (known.len() < QUOTE_TYPES_MAX && kind.len() <= QUOTE_TYPE_BYTES_MAX);
        let label = if is_told { kind } else { "other" };
        if is_told && !known.contains(kind) {
            known.insert(kind.to_owned());
        }
        let labels = [("type", label.to_owned())];
        self.quotes_ignored.get_or_create(&labels).inc();
    }

    /// Counts a record put aside: the topic it was read from, and a word for why.
    pub fn dead_lettered(&self, topic: &str, cause: &'static str) {
        let labels = [("topic", topic.to_owned()), ("cause", cause.to_owned())];
        self.dead_letters.get_or_create(&labels).inc();
    }

    /// Counts a client that came back for its session.
    pub fn recovery(&self, outcome: &'static str) {
        self.recoveries.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts an answered request by the class of its status, for example `2xx`.
    pub fn answered(&self, status: u16) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&[("status", class)]).inc();
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

struct Names(Registry);

impl Names {
    fn add<M>(&mut self, name: &str, help: &str) -> M
    where
        M: prometheus_client::registry::Metric + Clone + Default,
    {
        self.add_with(name, help, M::default())
    }

    fn add_with<M>(&mut self, name: &str, help: &str, metric: M) -> M
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn add_unit(&mut self, name: &str, help: &str, metric: Histogram) -> Histogram {
        self.0
            .register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }
}

/// Types of quote events that are counted one by one, and the longest name of one in bytes.
const QUOTE_TYPES_MAX: usize = 32;
const QUOTE_TYPE_BYTES_MAX: usize = 64;

fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.5, 13))
}

fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_scraped() {
        let metrics = Metrics::new(&["busy", "unknown"]);
        metrics.messages_accepted.inc();
        metrics.refused(0);
        metrics.closed("slow");
        metrics.answered(404);
        let text = metrics.encode();
        for line in [
            "chat_messages_accepted_total 1",
            "chat_messages_refused_total{code=\"busy\"} 1",
            "chat_messages_refused_total{code=\"unknown\"} 0",
            "chat_sessions_closed_total{reason=\"slow\"} 1",
            "chat_http_requests_total{status=\"4xx\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn types_from_outside_get_so_many_labels_and_no_more() {
        let metrics = Metrics::new(&[]);
        for number in (0..QUOTE_TYPES_MAX + 3).chain([0]) {
            metrics.quote_ignored(&format!("T{number}"));
        }
        metrics.quote_ignored(&"x".repeat(QUOTE_TYPE_BYTES_MAX + 1));
        let text = metrics.encode();
        for line in ["{type=\"T0\"} 2", "{type=\"T31\"} 1", "{type=\"other\"} 4"] {
            let line = format!("chat_quotes_ignored_total{line}");
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("T32"), "{text}");
    }
}
