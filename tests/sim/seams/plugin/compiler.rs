//! The compiler of scripted plugins, with the names of `host/src/plugin/compiler.rs`: it takes the time that a script says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::compiled_cache::Staged;
use super::engine::{Component, Engine};
use super::error::LoadError;
use super::limits::{CompileLimits, Compiler};
use crate::simulation::{Point, in_charge};

/// How often it looks whether it shall end.
const STEP: Duration = Duration::from_millis(10);

/// Ends a compilation.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    /// Ends what runs, and lets nothing begin.
    pub(super) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Compiler {
    /// Writes the script to `staged`. Blocks until it is done, or `stop` says to end.
    pub(super) fn compile(
        &self,
        _engine: &Engine,
        bytes: &[u8],
        limits: CompileLimits,
        staged: &Staged,
        stop: &Stop,
    ) -> Result<(), LoadError> {
        let script = Component::parse(bytes).map_err(LoadError::Compile)?;
        let mut left = script.compiles.min(limits.time);
        while !left.is_zero() {
            if stop.0.load(Ordering::Relaxed) {
                return Err(LoadError::Stopped);
            }
            in_charge().pause(Point::Rest(left.min(STEP)));
            left = left.saturating_sub(STEP);
        }
        if script.compiles > limits.time {
            return Err(LoadError::CompileTimeout(limits.time));
        }
        staged.write(bytes).map_err(LoadError::unwritable)
    }
}
