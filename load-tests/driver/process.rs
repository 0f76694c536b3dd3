//! What a process has used, as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of a process so far, user and system; its resolution is a clock tick (10 ms as a rule).
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold blanks; utime and stime are the 12th and 13th field after it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks_a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs(1) * (user + system) as u32 / ticks_a_second as u32)
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024)
}

/// As many open descriptors as this process may have.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        eprintln!("load: at most {:?} descriptors", limit.current);
    }
}

// === Meter ===

/// CPU time used between two moments, by the server and by this driver.
pub struct Meter {
    server: Option<u32>,
    started: Instant,
    server_cpu: Duration,
    own_cpu: Duration,
}

/// What a [`Meter`] has measured, in cores, and the server's CPU time.
pub struct Reading {
    pub measured: Duration,
    pub server_cpu: Duration,
    pub driver_cores: f64,
}

impl Meter {
    pub fn start(server: Option<u32>) -> Meter {
        Meter {
            server,
            started: Instant::now(),
            server_cpu: server.and_then(cpu).unwrap_or_default(),
            own_cpu: cpu(std::process::id()).unwrap_or_default(),
        }
    }

    pub fn read(&self) -> Reading {
        let measured = self.started.elapsed();
        let server_cpu = self.server.and_then(cpu).unwrap_or_default();
        let own_cpu = cpu(std::process::id()).unwrap_or_default();
        let own_cpu = own_cpu.saturating_sub(self.own_cpu);
        Reading {
            measured,
            server_cpu: server_cpu.saturating_sub(self.server_cpu),
            driver_cores: own_cpu.as_secs_f64() / measured.as_secs_f64(),
        }
    }
}
