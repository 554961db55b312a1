//! Keeps the machine's cores from halting, for every broker alike. On a virtual machine, waking a halted core can take longer
//! than each step of what is measured, and how long it takes is the host's business.

use std::fs::{File, OpenOptions};
use std::io::Write;

use anyhow::Context;

/// Where Linux takes requests for how fast cores have to wake up (its documentation's `power/pm_qos_interface`).
const REQUESTS: &str = "/dev/cpu_dma_latency";

/// As long as this lives, idle cores poll instead of halting.
pub(crate) struct Awake {
    /// The request holds until it is closed.
    _request: File,
}

impl Awake {
    /// # Errors
    /// Without root, or without Linux.
    pub(crate) fn keep() -> anyhow::Result<Self> {
        let request = || {
            let mut request = OpenOptions::new().write(true).open(REQUESTS)?;
            // Microseconds that waking up may take.
            request.write_all(&0_i32.to_ne_bytes())?;
            Ok::<_, std::io::Error>(request)
        };
        let request = request().with_context(|| {
            format!("--awake writes to {REQUESTS}, which takes Linux and root; leave it out, or run this as root")
        })?;
        Ok(Self { _request: request })
    }
}
