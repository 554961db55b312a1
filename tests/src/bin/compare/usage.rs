//! What a broker's process and the loopback interface used, as Linux tells it under `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use ::tidegate::cli::process_usage::ProcessUsage;
use anyhow::Context;

/// Everything so far, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at: Instant,
    cpu: Duration,
    client_cpu: Duration,
    wire_bytes: u64,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// Time between them.
    pub(crate) seconds: f64,
    /// Processor time of the broker, user and system, in microseconds.
    pub(crate) cpu_us: f64,
    /// The same of this process, which has all the clients.
    pub(crate) client_cpu_us: f64,
    /// Bytes that went over the loopback interface, both ways together, headers included. Everything else that uses
    /// the interface meanwhile is in it.
    pub(crate) wire_bytes: f64,
}

impl Reading {
    /// Reads what process `pid` and the interface have used.
    pub(crate) fn now(pid: u32) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: of_process(pid)?.cpu,
            client_cpu: of_process(std::process::id())?.cpu,
            wire_bytes: wire_bytes()?,
        })
    }

    /// What was used since.
    pub(crate) fn until(self, later: Self) -> Spent {
        Spent {
            seconds: (later.at - self.at).as_secs_f64().max(f64::EPSILON),
            cpu_us: micros(self.cpu, later.cpu),
            client_cpu_us: micros(self.client_cpu, later.client_cpu),
            wire_bytes: later.wire_bytes.saturating_sub(self.wire_bytes) as f64,
        }
    }
}

fn micros(before: Duration, after: Duration) -> f64 {
    after.saturating_sub(before).as_secs_f64() * 1e6
}

/// Most memory that process `pid` ever had resident, in bytes.
pub(crate) fn resident_bytes_max(pid: u32) -> anyhow::Result<u64> {
    Ok(of_process(pid)?.resident_bytes_max)
}

fn of_process(pid: u32) -> anyhow::Result<ProcessUsage> {
    ProcessUsage::of(pid).context("the process has ended")
}

// What is sent on loopback is received on it, so one of the two counters is all traffic once.
fn wire_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"))
        .context("no loopback interface")?;
    let received = line.split_whitespace().next();
    Ok(received.context("no counter")?.parse()?)
}
