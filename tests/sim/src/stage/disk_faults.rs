//! What goes wrong with the disk of a run, for as long as the plan says, and its end: nobody has to be there for that.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::disk::{Failing, Fault, Operation, SimDisk, Struck};
use crate::history::{History, What};
use crate::plan::disk::DiskFault;
use crate::simulation;

/// Where the data directory is.
const DATA: &str = "/data";

/// Lets it happen from now on. How long it lasts, in milliseconds; `None` if it cannot happen now.
pub(super) fn inject(disk: &SimDisk, fault: &DiskFault) -> Option<u64> {
    let begun = begin(disk, fault)?;
    let (disk, lasts_ms) = (disk.clone(), fault.lasts_ms());
    let ends = async move {
        sleep(Duration::from_millis(lasts_ms)).await;
        begun.into_iter().for_each(|number| disk.lift(number));
    };
    drop(simulation::start("disk fault", ends).detached());
    Some(lasts_ms)
}

/// Says what has failed by plan since this was asked last.
pub(super) fn note_struck(disk: &SimDisk, history: &History) {
    for Struck { on, by, path } in disk.take_struck() {
        let path = path.display().to_string().into();
        history.note("disk", What::Struck { on, by, path });
    }
}

// What it is ended by.
fn begin(disk: &SimDisk, fault: &DiskFault) -> Option<Vec<u64>> {
    Some(match fault {
        DiskFault::Full { left_bytes, .. } => vec![disk.leave_room(*left_bytes)],
        DiskFault::Errors {
            on, path, times, ..
        } => vec![disk.inject(Fault {
            on: on.operation(),
            path_has: path.clone(),
            times: *times,
            failing: Failing::Io,
        })],
        DiskFault::NoFiles { .. } => {
            let no_files = |on| {
                disk.inject(Fault {
                    on,
                    path_has: String::new(),
                    times: u32::MAX,
                    failing: Failing::NoFiles,
                })
            };
            vec![no_files(Operation::Open), no_files(Operation::Create)]
        }
        DiskFault::SlowSyncs { up_to_ms, .. } => {
            vec![disk.slow_syncs(Duration::from_millis(*up_to_ms))]
        }
        DiskFault::Moved { folder, .. } => vec![disk.move_away(&Path::new(DATA).join(folder))?],
    })
}
