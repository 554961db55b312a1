//! What a guest sees of WASI: no environment, a clock and random numbers that are fixed for filters and the broker's for
//! transforms, and somewhere for its output to go. How it gets at them is not known here.

use std::time::Instant;

use super::guest_output::GuestOutput;
use crate::runtime::{Clock, Random};

// The seed that every call of a filter starts from.
const SEED: u64 = 0x7469_6465_6761_7465;

/// What a guest may know of the world.
#[derive(Clone, Debug)]
pub(super) enum Purity {
    /// The clock stands still and random numbers are a fixed sequence, begun anew with every call.
    Pure,
    /// The broker's clock, and what it has for randomness.
    Live { clock: Clock, random: Random },
}

/// The WASI state of one instance.
pub(super) struct Wasi {
    purity: Purity,
    random: u64,
    // Of a live one.
    started: Option<Instant>,
    pub(super) output: GuestOutput,
}

impl Wasi {
    pub(super) fn new(purity: Purity, output: GuestOutput) -> Self {
        let started = match &purity {
            Purity::Pure => None,
            Purity::Live { clock, .. } => Some(clock.instant()),
        };
        Self {
            purity,
            random: SEED,
            started,
            output,
        }
    }

    /// Before every call, so that what a filter sees does not depend on what was called before.
    pub(super) fn begin_call(&mut self) {
        self.random = SEED;
        self.output.begin_call();
    }

    /// After every call: a line that was not ended goes to the log.
    pub(super) fn end_call(&mut self) {
        self.output.flush();
    }

    /// What the guest wrote to standard error in this call.
    pub(super) fn last_words(&self) -> &str {
        self.output.last_words()
    }

    // SplitMix64, which needs no more state than a number.
    pub(super) fn random(&mut self) -> u64 {
        if let Purity::Live { random, .. } = &self.purity {
            return random.number();
        }
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn monotonic_ns(&self) -> u64 {
        let (Purity::Live { clock, .. }, Some(started)) = (&self.purity, self.started) else {
            return 0;
        };
        let elapsed = clock.instant().saturating_duration_since(started);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn wall_clock(&self) -> (u64, u32) {
        let Purity::Live { clock, .. } = &self.purity else {
            return (0, 0);
        };
        let since = clock.since_epoch();
        (since.as_secs(), since.subsec_nanos())
    }
}
