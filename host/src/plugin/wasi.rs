//! What a guest sees of WASI: no environment, clocks and random numbers that are made up for filters and the broker's for
//! transforms, and somewhere for its output to go. How it gets at them is not known here.

use std::time::{Duration, Instant};

use super::guest_output::GuestOutput;
use crate::runtime::{Clock, Random};

// The seed that every call of a filter starts from.
const SEED: u64 = 0x7469_6465_6761_7465;
// What a monotonic clock shows at the earliest. Runtimes take 0 for a clock that does not work.
const MONOTONIC_START_NS: u64 = 1_000_000_000;
// What a filter's shows when a call begins: later than anything that making the instance can have seen.
const CALL_START_NS: u64 = 3_600_000_000_000;
// How far a filter's clocks go with each look at one of them, so that whoever waits for a time gets there.
const STEP_NS: u64 = 1_000;
// What a filter's wall clock shows as the monotonic one shows nothing: 2020-01-01, after which certificates and calendars are sane.
const PURE_EPOCH_S: u64 = 1_577_836_800;

/// What a guest may know of the world.
#[derive(Clone, Debug)]
pub(super) enum Purity {
    /// Clocks that know of nothing but how often they were looked at in this call, and random numbers of a fixed sequence: both begin
    /// anew with every call.
    Pure,
    /// The broker's clock, and what it has for randomness.
    Live { clock: Clock, random: Random },
}

/// The WASI state of one instance.
pub(super) struct Wasi {
    purity: Purity,
    random: u64,
    // What a pure clock shows.
    pure_ns: u64,
    // Of a live one.
    started: Option<Instant>,
    is_made: bool,
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
            pure_ns: MONOTONIC_START_NS,
            started,
            is_made: false,
            output,
        }
    }

    /// Before an instance is made, and before every call of it, so that what a filter sees does not depend on what was called before.
    pub(super) fn begin_call(&mut self) {
        self.random = SEED;
        self.pure_ns = match std::mem::replace(&mut self.is_made, true) {
            false => MONOTONIC_START_NS,
            true => CALL_START_NS,
        };
        self.output.begin_call();
    }

    /// After every call: a line that was not ended goes to the log.
    pub(super) fn end_call(&mut self) {
        self.output.flush();
    }

    /// The last of what the guest wrote to standard error in this call.
    pub(super) fn last_words(&self) -> String {
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

    /// Never 0, and never less than before in the same call.
    pub(super) fn monotonic_ns(&mut self) -> u64 {
        let (Purity::Live { clock, .. }, Some(started)) = (&self.purity, self.started) else {
            return self.look();
        };
        let elapsed = clock.instant().saturating_duration_since(started);
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        elapsed.saturating_add(MONOTONIC_START_NS)
    }

    /// Seconds since 1970, and nanoseconds.
    pub(super) fn wall_clock(&mut self) -> (u64, u32) {
        let Purity::Live { clock, .. } = &self.purity else {
            let shows = Duration::from_secs(PURE_EPOCH_S) + Duration::from_nanos(self.look());
            return (shows.as_secs(), shows.subsec_nanos());
        };
        let since = clock.since_epoch();
        (since.as_secs(), since.subsec_nanos())
    }

    fn look(&mut self) -> u64 {
        self.pure_ns = self.pure_ns.saturating_add(STEP_NS);
        self.pure_ns
    }
}
