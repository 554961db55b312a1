//! What wasmtime keeps for an instance while it runs: its time, its memory, and what it sees of the world. Ends a call that takes
//! too much, and says why a call failed.

use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline, bail};

use super::engine::{TABLE_ELEMENT_BYTES, TABLE_ELEMENTS_MAX, TICK};
use super::guest_fault::{Fault, FaultKind, clip};
use super::instance_budget::{Exhausted, Memory};
use super::wasi::Wasi;

/// What wasmtime keeps for an instance.
pub(super) struct GuestState {
    pub(super) wasi: Wasi,
    // Ticks the current call may still use.
    ticks_left: u64,
    timed_out: bool,
    memory_bytes: usize,
    memory_bytes_max: usize,
    // A growth was refused, which is the likely cause of a trap that follows.
    memory_refused: bool,
    // What all its memories and tables take of what there is for all instances.
    memory: Memory,
    // There was no more of that, which ended the call.
    exhausted: Option<Exhausted>,
}

impl GuestState {
    /// That of an instance which may have so much memory.
    pub(super) fn new(wasi: Wasi, memory: Memory, memory_bytes_max: usize) -> Self {
        Self {
            wasi,
            ticks_left: 0,
            timed_out: false,
            memory_bytes: 0,
            memory_bytes_max,
            memory_refused: false,
            memory,
            exhausted: None,
        }
    }

    // Called by a running guest when the epoch has moved on. The call pays one tick, however long the thread was
    // kept from running by others, and lets the other guests of this thread go first.
    pub(super) fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        if self.ticks_left == 0 {
            self.timed_out = true;
            bail!("out of time");
        }
        self.ticks_left -= 1;
        Ok(UpdateDeadline::Yield(1))
    }

    // Ends the call when there is no more: a guest that is told could go on and answer otherwise than it would have.
    fn take(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if let Err(exhausted) = self.memory.grow(bytes) {
            let reason = exhausted.to_string();
            self.exhausted = Some(exhausted);
            bail!("{reason}");
        }
        Ok(())
    }
}

impl ResourceLimiter for GuestState {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // It fails then anyway, and must not be counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let total = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.memory_refused = true;
            return Ok(false);
        }
        self.take(desired.saturating_sub(current))?;
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired
            > maximum
                .unwrap_or(TABLE_ELEMENTS_MAX)
                .min(TABLE_ELEMENTS_MAX)
        {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current);
        self.take(elements.saturating_mul(TABLE_ELEMENT_BYTES))?;
        Ok(true)
    }
}

/// A call begins, and may take so much time.
pub(super) fn begin(store: &mut Store<GuestState>, allowance: Duration) {
    let state = store.data_mut();
    // The first tick may come right after the start, so it is not counted.
    state.ticks_left = u64::try_from(allowance.as_nanos() / TICK.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1);
    state.timed_out = false;
    state.memory_refused = false;
    state.wasi.begin_call();
    store.set_epoch_deadline(1);
}

/// Why a call failed.
pub(super) fn fault(
    store: &mut Store<GuestState>,
    error: &wasmtime::Error,
    allowance: Duration,
) -> Fault {
    let state = store.data_mut();
    if let Some(exhausted) = state.exhausted.take() {
        return exhausted.into();
    }
    if let Some(limit) = error.downcast_ref::<PoolConcurrencyLimitError>() {
        return Fault::busy(format!("no room for another plugin instance: {limit}"));
    }
    if state.timed_out {
        let reason = format!("it ran longer than the {} ms it may", allowance.as_millis());
        return Fault {
            kind: FaultKind::Timeout,
            reason,
        };
    }
    let mut reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => clip(format!("{error:#}")),
    };
    if state.memory_refused {
        reason = format!(
            "it asked for more than the {} bytes of memory it may have; {reason}",
            state.memory_bytes_max
        );
    }
    if !state.wasi.last_words().is_empty() {
        reason = format!("{reason}; it wrote: {}", state.wasi.last_words());
    }
    Fault {
        kind: FaultKind::Trap,
        reason,
    }
}
