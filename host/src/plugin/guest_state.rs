//! What wasmtime keeps for an instance while it runs: its time, its memory, and what it sees of the world. Ends a call that takes
//! too much, and says why a call failed.

use std::time::Duration;

use wasmtime::{
    PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline, WasmBacktrace, bail,
};

use super::engine::{TABLE_ELEMENT_BYTES, TABLE_ELEMENTS_MAX, TICK};
use super::guest_fault::{Fault, FaultKind, clip};
use super::guest_output::readable;
use super::instance_budget::{Exhausted, Memory};
use super::wasi::Wasi;

// Frames of a backtrace that are looked at, and functions that are told.
const FRAMES_MAX: usize = 32;
const FUNCTIONS_MAX: usize = 3;
const FUNCTION_BYTES_MAX: usize = 80;
const MANGLED_BYTES_MAX: usize = 512;
// How functions begin that are not the author's.
const RUNTIMES: [&str; 13] = [
    "core::", "std::", "alloc::", "<core::", "<std::", "<alloc::", "__rust", "rust_", "abort",
    "panic", "runtime.", "_start", "__wasm",
];

const ADVICE_TIME: &str =
    "Make it faster, or let it take longer: `deadline_base_ms` under `[plugins.override.NAME]`.";
const ADVICE_MEMORY: &str =
    "Let it take less, or give it more: `memory_bytes_max` under `[plugins.override.NAME]`.";
const ADVICE_STACK: &str = "Let it call itself less often, or keep less on its stack.";
const ADVICE_TRAP: &str =
    "A fresh instance fails as well: try the plugin with this input, and upload one that takes it.";
const ADVICE_REALLOC: &str = "While it allocates memory for what the broker gives it (`cabi_realloc`) it may call nothing outside of it.";
const ADVICE_CALL: &str = "Upload one that does without.";

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

/// Why a call of `export` failed.
pub(super) fn fault(
    store: &mut Store<GuestState>,
    error: &wasmtime::Error,
    allowance: Duration,
    export: &'static str,
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
        let functions = functions(error);
        return Fault::new(
            FaultKind::Timeout,
            format!("{reason}{functions}"),
            ADVICE_TIME,
        )
        .in_export(export);
    }
    let trap = error.downcast_ref::<Trap>();
    let mut reason = match trap {
        Some(trap) => trap.to_string(),
        None => clip(error.root_cause().to_string()),
    };
    let mut advice = match trap {
        Some(Trap::CannotLeaveComponent) => ADVICE_REALLOC,
        Some(Trap::StackOverflow) => ADVICE_STACK,
        Some(_) => ADVICE_TRAP,
        None => ADVICE_CALL,
    };
    if state.memory_refused {
        reason = format!(
            "it asked for more than the {} bytes of memory it may have; {reason}",
            state.memory_bytes_max
        );
        advice = ADVICE_MEMORY;
    }
    let last_words = state.wasi.last_words();
    if !last_words.is_empty() {
        reason = format!("{reason}; it wrote: {last_words}");
    }
    reason += &functions(error);
    Fault::new(FaultKind::Trap, reason, advice).in_export(export)
}

// Where a guest was, by the names of its own functions, the innermost first; of a bounded length.
fn functions(error: &wasmtime::Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    let names = trace.frames().iter().filter_map(|frame| frame.func_name());
    let names: Vec<String> = names.take(FRAMES_MAX).map(function_name).collect();
    let of_its_own = |name: &&String| !RUNTIMES.iter().any(|runtime| name.starts_with(runtime));
    let mut own: Vec<&str> = names
        .iter()
        .filter(of_its_own)
        .map(String::as_str)
        .collect();
    if own.is_empty() {
        own = names.iter().map(String::as_str).collect();
    }
    own.truncate(FUNCTIONS_MAX);
    match own.is_empty() {
        true => String::new(),
        false => format!("; in {}", own.join(", called by ")),
    }
}

fn function_name(name: &str) -> String {
    // Without the hash at its end, as people know it. What is that long was made to be.
    let shown = match name.len() > MANGLED_BYTES_MAX {
        true => name.to_owned(),
        false => format!("{:#}", rustc_demangle::demangle(name)),
    };
    let end = shown.floor_char_boundary(FUNCTION_BYTES_MAX);
    readable(&shown.as_bytes()[..end])
}
