//! What goes wrong with the disk of a run, for as long as the plan says, and its end: nobody has to be there for that.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::disk::{Failing, Fault, Operation, SimDisk};
use crate::plan::disk::DiskFault;
use crate::simulation;

/// Where the data directory is.
const DATA: &str = "/data";

/// Lets it happen from now on. How long it lasts, in milliseconds.
pub(super) fn inject(disk: &SimDisk, fault: &DiskFault) -> u64 {
    let begun = begin(disk, fault);
    let (disk, lasts_ms) = (disk.clone(), fault.lasts_ms());
    let ends = async move {
        sleep(Duration::from_millis(lasts_ms)).await;
        end(&disk, begun);
    };
    drop(simulation::start("disk fault", ends).detached());
    lasts_ms
}

enum Begun {
    Faults(Vec<u64>),
    Full,
    SlowSyncs,
    Moved,
}

fn begin(disk: &SimDisk, fault: &DiskFault) -> Begun {
    match fault {
        DiskFault::Full { left_bytes, .. } => {
            disk.leave_room(*left_bytes);
            Begun::Full
        }
        DiskFault::Errors {
            on, path, times, ..
        } => Begun::Faults(vec![disk.inject(Fault {
            on: on.operation(),
            path_has: path.clone(),
            times: *times,
            failing: Failing::Io,
        })]),
        DiskFault::NoFiles { .. } => {
            let no_files = |on| {
                disk.inject(Fault {
                    on,
                    path_has: String::new(),
                    times: u32::MAX,
                    failing: Failing::NoFiles,
                })
            };
            Begun::Faults(vec![no_files(Operation::Open), no_files(Operation::Create)])
        }
        DiskFault::SlowSyncs { up_to_ms, .. } => {
            disk.slow_syncs(Duration::from_millis(*up_to_ms));
            Begun::SlowSyncs
        }
        DiskFault::Moved { folder, .. } => {
            disk.move_away(&Path::new(DATA).join(folder));
            Begun::Moved
        }
    }
}

fn end(disk: &SimDisk, begun: Begun) {
    match begun {
        Begun::Faults(faults) => faults.into_iter().for_each(|fault| disk.lift(fault)),
        Begun::Full => disk.leave_all_room(),
        Begun::SlowSyncs => disk.slow_syncs(Duration::ZERO),
        Begun::Moved => disk.move_back(),
    }
}
