//! What a process has used, as Linux tells it under `/proc`.

use std::fs;
use std::time::Duration;

/// Length of a tick in `/proc/PID/stat`: 1/100 s on every Linux that matters.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Most memory it ever had resident, in bytes.
    pub resident_bytes_max: u64,
}

impl ProcessUsage {
    /// That of process `pid`. `None` when there is no such process, or the system does not tell.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            cpu: parse_cpu(&stat)?,
            resident_bytes_max: parse_resident_max(&status)?,
        })
    }

    /// What was used since `before`: the processor time between the two; the most memory is that of the whole time.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            ..self
        }
    }
}

// Fields 14 and 15, in ticks; the second field is the program's name in parentheses and may hold spaces.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    TICK.checked_mul(user.checked_add(system)?)
}

fn parse_resident_max(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_files_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu("7 (x"), None);
        let status = "Name:\ttidegate\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_resident_max(status), Some(2 << 20));
        assert_eq!(parse_resident_max("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_used_something_and_none_that_ended_has() {
        let now = ProcessUsage::of(std::process::id()).expect("it runs");
        assert!(now.resident_bytes_max > 1 << 20);
        assert_eq!(now.since(now).cpu, Duration::ZERO);
        assert_eq!(ProcessUsage::of(u32::MAX), None);
    }
}
