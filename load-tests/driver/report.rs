//! What was seen: counts, latencies, and what the server used for it.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::archive::Stored;
use crate::process::{self, Reading};

/// One run's result.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub mode: String,
    pub clients: u32,
    /// Seconds measured.
    pub seconds: f64,
    /// Open loop: events a second that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Of the pair that floods, in none of the other numbers but the server's CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<Traffic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    /// Milliseconds; by name (`ack`, `delivery`, `last` of a room, `connect`).
    pub latency_ms: BTreeMap<&'static str, Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// This driver's own CPU time over the time measured, in cores.
    pub driver_cores: f64,
}

/// Counts of the whole run, warm-up and end included; rates of the time measured.
#[derive(Debug, Default, Serialize)]
pub struct Traffic {
    pub sent: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    /// Refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Due and never sent: the driver could not get rid of it.
    pub unsent: u64,
    /// Neither acknowledged nor refused when the run ended.
    pub unacknowledged: u64,
    /// Typing in a closed loop: not seen within a second, and another sent in its place.
    pub given_up: u64,
    /// Acknowledged (typing: sent) and not delivered; rooms: by each member that lacks it.
    pub lost: u64,
    /// Acknowledged or delivered twice.
    pub doubled: u64,
    pub reordered: u64,
    /// Connections that ended in the run.
    pub cut: u64,
    pub acknowledged_per_second: f64,
    pub delivered_per_second: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Connections {
    pub opened: u64,
    pub failed: u64,
    pub opened_per_second: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Server {
    /// CPU time over the time measured, in cores.
    pub cores: f64,
    /// CPU time per message delivered (rooms: to one member), or per connection opened.
    pub cpu_us_per_unit: Option<f64>,
    /// Rooms only: CPU time per message acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_message: Option<f64>,
    pub resident_before_bytes: u64,
    pub resident_after_bytes: u64,
    /// Idle only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes_per_connection: Option<f64>,
}

/// Latencies in nanoseconds, three digits exact, up to a minute.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that fit")
}

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Percentiles {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() as f64 / 1e6,
        }
    }
}

impl Server {
    /// What process `pid` used for `units` messages or connections; `None` when there is no such process.
    pub fn of(
        pid: Option<u32>,
        reading: &Reading,
        units: u64,
        before: Option<u64>,
    ) -> Option<Server> {
        let used = reading.server_cpu.as_secs_f64();
        Some(Server {
            cores: used / reading.measured.as_secs_f64(),
            cpu_us_per_unit: (units > 0).then(|| used * 1e6 / units as f64),
            cpu_us_per_message: None,
            resident_before_bytes: before.unwrap_or_default(),
            resident_after_bytes: process::resident(pid?)?,
            resident_bytes_per_connection: None,
        })
    }
}

impl Report {
    /// Nothing lost, doubled, out of order, unanswered or cut. Lost typing is no fault: it is volatile.
    pub fn is_clean(&self) -> bool {
        let mut traffic = self.traffic.iter().chain(&self.flood);
        traffic.all(|traffic| traffic.is_clean(self.mode == "typing"))
            && self
                .connections
                .as_ref()
                .is_none_or(|connections| connections.failed == 0)
    }

    pub fn print(&self) {
        let rate = self
            .rate
            .map(|rate| format!(", {rate}/s asked for"))
            .unwrap_or_default();
        println!(
            "{}: {} clients, {:.1} s{rate}",
            self.mode, self.clients, self.seconds
        );
        if let Some(traffic) = &self.traffic {
            traffic.print();
        }
        if let Some(flood) = &self.flood {
            println!("  flood:");
            flood.print();
        }
        if let Some(connections) = &self.connections {
            println!(
                "  opened {}  failed {}  {:.0}/s",
                connections.opened, connections.failed, connections.opened_per_second
            );
        }
        for (name, at) in &self.latency_ms {
            println!(
                "  {name:<9} ms  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}  ({})",
                at.p50, at.p90, at.p99, at.p99_9, at.max, at.count
            );
        }
        if let Some(server) = &self.server {
            server.print();
        }
        if let Some(stored) = &self.stored {
            stored.print();
        }
        println!("  driver    {:.2} cores", self.driver_cores);
    }
}

impl Traffic {
    fn is_clean(&self, volatile: bool) -> bool {
        let lost = if volatile { 0 } else { self.lost };
        lost + self.doubled + self.reordered + self.unacknowledged + self.cut == 0
    }

    fn print(&self) {
        println!(
            "  sent {}  acknowledged {} ({:.0}/s)  delivered {} ({:.0}/s)",
            self.sent,
            self.acknowledged,
            self.acknowledged_per_second,
            self.delivered,
            self.delivered_per_second
        );
        println!(
            "  lost {}  given up {}  doubled {}  reordered {}  unacknowledged {}  unsent {}  cut {}  refused {:?}",
            self.lost,
            self.given_up,
            self.doubled,
            self.reordered,
            self.unacknowledged,
            self.unsent,
            self.cut,
            self.refused
        );
    }
}

impl Server {
    fn print(&self) {
        let unit = self
            .cpu_us_per_unit
            .map(|us| format!("  {us:.2} us each"))
            .unwrap_or_default();
        let message = self
            .cpu_us_per_message
            .map(|us| format!("  {us:.1} us a message"))
            .unwrap_or_default();
        println!("  server    {:.2} cores{unit}{message}", self.cores);
        let each = self
            .resident_bytes_per_connection
            .map(|bytes| format!(", {bytes:.0} bytes each"));
        println!(
            "  resident  {:.1} -> {:.1} MiB{}",
            mebibytes(self.resident_before_bytes),
            mebibytes(self.resident_after_bytes),
            each.unwrap_or_default()
        );
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
