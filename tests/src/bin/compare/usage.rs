//! What a broker's process and the loopback interface used, as Linux tells it under `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Length of a tick in `/proc/PID/stat`: 1/100 s on every Linux that matters.
const TICK: Duration = Duration::from_millis(10);

/// Everything so far, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at: Instant,
    cpu: Duration,
    wire_bytes: u64,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// Time between them.
    pub(crate) seconds: f64,
    /// Processor time of the broker, user and system, in microseconds.
    pub(crate) cpu_us: f64,
    /// Bytes that went over the loopback interface, both ways together, headers included. Everything else that uses
    /// the interface meanwhile is in it.
    pub(crate) wire_bytes: f64,
}

impl Reading {
    /// Reads what process `pid` and the interface have used.
    pub(crate) fn now(pid: u32) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: cpu(pid)?,
            wire_bytes: wire_bytes()?,
        })
    }

    /// What was used since.
    pub(crate) fn until(self, later: Self) -> Spent {
        Spent {
            seconds: (later.at - self.at).as_secs_f64().max(f64::EPSILON),
            cpu_us: later.cpu.saturating_sub(self.cpu).as_secs_f64() * 1e6,
            wire_bytes: later.wire_bytes.saturating_sub(self.wire_bytes) as f64,
        }
    }
}

/// Most memory that process `pid` ever had resident, in bytes.
pub(crate) fn resident_bytes_max(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kibibytes.context("no VmHWM")?.parse::<u64>()? * 1024)
}

// Fields 14 and 15; the second field is the program's name in parentheses and may hold spaces.
fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the broker has ended")?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u32>()?;
    }
    Ok(TICK * ticks)
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
