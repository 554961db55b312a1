//! What is wrong by plan, and for how long: with the disk, with a link, and with which. What is excused by a fault is excused by what it
//! does and while it does it, and by no other.

use std::path::Path;

use super::causes::{is_of, is_write};
use crate::history::{Blow, Entry, Text, What};
use crate::plan::Fault;
use crate::plan::disk::DiskFault;

/// How late something may be on a link that is slow.
const SLOW_LINK_MS: u64 = 10_000;

/// How much later a sync may be on a disk that is slow: it, and what is done before it.
const SLOW_DISK_MS: u64 = 5_000;
/// How long after it what the disk did is told at the latest.
const STRUCK_TOLD_MS: u64 = 1_000;

/// Faults so far.
#[derive(Default)]
pub(super) struct Troubles {
    faults: Vec<Trouble>,
    /// When a write or a sync of the journal failed.
    ended_writing: Vec<u64>,
}

struct Trouble {
    fault: Fault,
    from_ms: u64,
    until_ms: u64,
}

/// How a link holds somebody up.
struct Lag<'a> {
    of: &'a str,
    /// How late something may be.
    late_ms: u64,
    /// When nothing is late any more.
    over_ms: u64,
}

impl Troubles {
    pub(super) fn see(&mut self, entry: &Entry) {
        match &entry.what {
            What::Troubled { what, until_ms } => self.faults.push(Trouble {
                fault: what.clone(),
                from_ms: entry.ms,
                until_ms: *until_ms,
            }),
            What::Lifted { what } => {
                let mut of_it = self
                    .faults
                    .iter_mut()
                    .filter(|trouble| trouble.fault == *what);
                if let Some(trouble) = of_it.find(|trouble| trouble.until_ms > entry.ms) {
                    trouble.until_ms = entry.ms;
                }
            }
            What::Struck {
                on,
                by: Blow::Io,
                path,
            } if is_write(*on) && is_of(Path::new(&**path), "journal") => {
                self.ended_writing.push(entry.ms);
            }
            // Whatever was wrong is over then.
            What::Healed {} | What::Drains {} => {
                for trouble in &mut self.faults {
                    trouble.until_ms = trouble.until_ms.min(entry.ms);
                }
            }
            _ => {}
        }
    }

    /// Until when something of this kind is wrong, or was last.
    pub(super) fn until(&self, is_it: impl Fn(&Fault) -> bool) -> u64 {
        let of_it = self.faults.iter().filter(|trouble| is_it(&trouble.fault));
        of_it
            .map(|trouble| trouble.until_ms)
            .max()
            .unwrap_or_default()
    }

    /// Whether something of this kind was wrong at some time since then.
    pub(super) fn any_since(&self, ms: u64, is_it: impl Fn(&Fault) -> bool) -> bool {
        let mut of_it = self.faults.iter().filter(|trouble| is_it(&trouble.fault));
        of_it.any(|trouble| trouble.until_ms >= ms)
    }

    /// Whether the disk was full all the time from then until now.
    pub(super) fn was_full(&self, since_ms: u64, now_ms: u64) -> bool {
        self.faults.iter().any(|trouble| {
            is_full(&trouble.fault) && trouble.from_ms <= since_ms && trouble.until_ms >= now_ms
        })
    }

    /// Whether what somebody got then may have been on its way for so long on a link that holds things up.
    pub(super) fn may_come_late(&self, who: &Text, got_ms: u64, late_by_ms: u64) -> bool {
        self.faults.iter().any(|trouble| {
            let Some(lag) = lag(trouble) else {
                return false;
            };
            let until_ms = lag.over_ms.max(trouble.until_ms.saturating_add(late_by_ms));
            *lag.of == **who && lag.late_ms >= late_by_ms && until_ms >= got_ms
        })
    }

    /// Whether a link held somebody up, perhaps for so long, at some time since then.
    pub(super) fn held_up(&self, who: &Text, since_ms: u64, for_ms: u64) -> bool {
        self.faults
            .iter()
            .filter_map(lag)
            .any(|lag| *lag.of == **who && lag.late_ms >= for_ms && lag.over_ms >= since_ms)
    }

    /// Whether nothing was wrong with somebody's link in that time, and nothing has held it up since.
    pub(super) fn is_well(&self, who: &Text, from_ms: u64, until_ms: u64) -> bool {
        let is_wrong = |trouble: &Trouble| {
            let is_theirs = trouble.fault.actor().is_some_and(|of| *of == **who);
            is_theirs && trouble.from_ms <= until_ms && trouble.until_ms >= from_ms
        };
        !self.faults.iter().any(is_wrong) && !self.held_up(who, from_ms, 0)
    }

    /// By when somebody has heard of what happened then, over a link that may hold it up.
    pub(super) fn heard_by(&self, who: &Text, ms: u64) -> u64 {
        let lags = self.faults.iter().filter_map(lag);
        let of = lags.filter(|lag| *lag.of == **who && lag.over_ms >= ms);
        of.map(|lag| lag.over_ms.min(ms.saturating_add(lag.late_ms)))
            .fold(ms, u64::max)
    }

    /// By when what was written then is synced at the latest, if that takes so long on a disk that is well. The life that there is, or was
    /// last, serves since. A disk that is full, opens no file or has a folder moved away syncs as ever.
    pub(super) fn synced_by(&self, ms: u64, takes_ms: u64, serves_since: u64) -> u64 {
        let mut by = ms.saturating_add(takes_ms);
        for trouble in &self.faults {
            let late_ms = match trouble.fault {
                Fault::SlowDisk { .. } => SLOW_DISK_MS,
                // The sync that is under way, and the one after it.
                Fault::Disk(DiskFault::SlowSyncs { up_to_ms, .. }) => up_to_ms.saturating_mul(2),
                _ => continue,
            };
            let ends_ms = trouble.until_ms.saturating_add(late_ms);
            if trouble.from_ms <= by && ends_ms >= ms {
                by = by.saturating_add(late_ms);
            }
        }
        // After a failed write or sync nothing is written before a restart, and that begins to write again.
        for struck_ms in &self.ended_writing {
            if *struck_ms <= by.saturating_add(STRUCK_TOLD_MS) {
                let well_since = match serves_since > *struck_ms {
                    true => serves_since,
                    false => u64::MAX,
                };
                by = by.max(well_since.saturating_add(takes_ms));
            }
        }
        by
    }

    /// Whether the disk took longer for what it did at some time since then.
    pub(super) fn was_slow_since(&self, ms: u64) -> bool {
        self.any_since(ms, |fault| {
            matches!(
                fault,
                Fault::SlowDisk { .. } | Fault::Disk(DiskFault::SlowSyncs { .. })
            )
        })
    }
}

/// Whether it is one of the disk.
pub(super) fn is_of_disk(fault: &Fault) -> bool {
    matches!(fault, Fault::SlowDisk { .. } | Fault::Disk(_))
}

/// Whether it fills the disk.
pub(super) fn is_full(fault: &Fault) -> bool {
    matches!(fault, Fault::Disk(DiskFault::Full { .. }))
}

// Whom it holds up without ending the connection.
fn lag(trouble: &Trouble) -> Option<Lag<'_>> {
    match &trouble.fault {
        Fault::Outage {
            actor, lasts_ms, ..
        } => Some(Lag {
            of: actor,
            late_ms: *lasts_ms,
            over_ms: trouble.until_ms,
        }),
        // What is under way does not get faster.
        Fault::Slow { actor, .. } => Some(Lag {
            of: actor,
            late_ms: SLOW_LINK_MS,
            over_ms: trouble.until_ms.saturating_add(SLOW_LINK_MS),
        }),
        _ => None,
    }
}
