//! How it is drawn what the disk is like, and what goes wrong with it.

use super::Draw;
use crate::plan::disk::{DiskFault, DiskShape, Strikes};
use crate::plan::{Fault, Timed};

impl Draw {
    pub(super) fn disk(self) -> DiskShape {
        DiskShape {
            sector: self.among("sector", 0, &[(512, 3), (4_096, 1)]),
            latency_us: self.among("latency", 0, &[(0, 3), (200, 1), (3_000, 1)]),
            tears: self.among("tears", 0, &[(false, 7), (true, 1)]),
        }
    }

    /// Of a third of the runs.
    pub(super) fn disk_faults(self, lasts_ms: u64) -> Vec<Timed<Fault>> {
        let many = match self.number("disk fails", 0, 3) {
            0 => 1 + self.number("disk faults", 0, 3),
            _ => 0,
        };
        let fault = |of| Timed {
            after_ms: self.number("disk fault at", of, lasts_ms),
            does: Fault::Disk(self.disk_fault(of)),
        };
        (0..many).map(fault).collect()
    }

    fn disk_fault(self, of: u64) -> DiskFault {
        let lasts_ms = self.among("disk fault", of, &[(200, 1), (2_000, 2), (12_000, 1)]);
        let lasts_ms = 1 + self.number("of disk fault", of, lasts_ms);
        match self.number("which disk fault", of, 8) {
            0..=2 => DiskFault::Full {
                left_bytes: self.among("left", of, &[(0, 2), (4_096, 1), (100_000, 1)]),
                lasts_ms,
            },
            3 | 4 => DiskFault::Errors {
                on: self.among(
                    "errors on",
                    of,
                    &[
                        (Strikes::Open, 1),
                        (Strikes::Read, 2),
                        (Strikes::Write, 2),
                        (Strikes::Sync, 2),
                        (Strikes::SyncFolder, 1),
                        (Strikes::Name, 1),
                    ],
                ),
                path: self
                    .among(
                        "errors at",
                        of,
                        &[("", 2), ("journal", 1), ("generations", 1)],
                    )
                    .to_owned(),
                times: self.among("errors", of, &[(1, 2), (4, 1), (u32::MAX, 1)]),
                lasts_ms,
            },
            5 => DiskFault::NoFiles { lasts_ms },
            6 => DiskFault::SlowSyncs {
                up_to_ms: self.among("syncs", of, &[(300, 1), (3_000, 2), (10_000, 1)]),
                lasts_ms,
            },
            _ => DiskFault::Moved {
                folder: self
                    .among("moved", of, &[("store", 1), ("store/journal", 1)])
                    .to_owned(),
                lasts_ms,
            },
        }
    }
}
