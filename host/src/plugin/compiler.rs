//! Who makes native code of a component. Compiling is hostile: what somebody uploads decides how much memory and time it takes. So
//! a broker does it in a process of its own, within limits; here is that choice, and why there is no code; which program that process runs is `program`'s. What becomes of the code
//! is decided by others.

mod child;
pub mod job;
mod program;

pub(super) use self::child::Stop;
use self::child::{Child, Ended};
use self::job::CompileJob;
use super::compiled_cache::Staged;
use super::engine::{Engine, compatibility};
use super::error::LoadError;
use super::limits::{CompileLimits, Compiler};

impl Compiler {
    /// Writes the native code of `bytes` for `engine` to `staged`. Blocks until it is done, or `stop` says to end.
    pub(super) fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
        limits: CompileLimits,
        staged: &Staged,
        stop: &Stop,
    ) -> Result<(), LoadError> {
        let Self::Child(program) = self else {
            let code = job::compile(engine, bytes);
            let code = code.map_err(|(_, why)| LoadError::Compile(why))?;
            return staged.write(&code).map_err(LoadError::unwritable);
        };
        let threads = job::threads();
        let child = Child {
            program,
            threads,
            job: CompileJob {
                module_bytes: bytes.len(),
                memory_bytes_max: limits.memory_bytes_max,
                // Somebody waits for it with a clock; this is for a process whose broker does not come to that.
                cpu_seconds_max: limits
                    .time
                    .as_secs()
                    .saturating_add(1)
                    .saturating_mul(threads as u64),
                compatibility: compatibility(engine),
            },
        };
        let output = staged.output().map_err(LoadError::unwritable)?;
        child.run(bytes, output, stop).map_err(|ended| match ended {
            Ended::Refused(why) => LoadError::Compile(why),
            Ended::OutOfMemory => LoadError::CompileMemory(limits.memory_bytes_max),
            Ended::OutOfTime => LoadError::CompileTimeout(limits.time),
            Ended::Unwritable(why) => LoadError::Unwritable(why),
            Ended::Killed(how) => LoadError::CompilerKilled(how),
            Ended::Failed(why) => {
                tracing::error!(error = why, "the process that compiles plugins failed");
                LoadError::CompilerFailed
            }
            Ended::NotStarted(error) => LoadError::not_started(error),
            Ended::Stopped => LoadError::Stopped,
        })
    }
}
