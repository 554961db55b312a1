//! What the broker and the process that compiles for it say to each other, and what that process does: a component comes on
//! standard input, its native code goes to standard output, which is a file, and why there is none to standard error. How the process
//! keeps within its limits is the command line's.

use wasmtime::{Engine, OutOfMemory};

use super::super::engine::{compatibility, compiling_engine};
use super::super::while_allocating;

/// The command of this program that compiles a component. For the broker alone.
pub const COMMAND: &str = "compile-plugin";

/// Threads that compile one component at most. Each has the function that it works on in memory, and few components have many
/// large ones.
const THREADS_MAX: usize = 8;

/// What such a process is told in its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileJob {
    /// Bytes of the component. Standard input stays open after them, as long as somebody waits.
    pub module_bytes: usize,
    /// Bytes of memory that it may take.
    pub memory_bytes_max: u64,
    /// Seconds of processor time that it may take, over all threads.
    pub cpu_seconds_max: u64,
    /// For which engine.
    pub compatibility: u64,
}

/// Why there is no code: the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCode {
    /// The component is not valid, or is more than the compiler takes.
    Refused = 10,
    /// It takes more memory than it may.
    OutOfMemory = 11,
    /// The code cannot be written.
    Unwritable = 12,
    /// The process cannot do what it is for.
    Unfit = 13,
}

impl CompileJob {
    /// As arguments behind [`COMMAND`].
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        vec![
            format!("--module-bytes={}", self.module_bytes),
            format!("--memory-bytes-max={}", self.memory_bytes_max),
            format!("--cpu-seconds-max={}", self.cpu_seconds_max),
            format!("--compatibility={}", self.compatibility),
        ]
    }
}

impl NoCode {
    pub(super) fn of_exit_code(code: i32) -> Option<Self> {
        let all = [
            Self::Refused,
            Self::OutOfMemory,
            Self::Unwritable,
            Self::Unfit,
        ];
        all.into_iter().find(|no_code| *no_code as i32 == code)
    }
}

/// The native code of a component, for an engine of this compatibility.
///
/// # Errors
///
/// Why there is none, in words for whoever uploaded it.
pub fn compile_for(compatible: u64, bytes: &[u8]) -> Result<Vec<u8>, (NoCode, String)> {
    let unfit = |why: String| (NoCode::Unfit, why);
    let engine = compiling_engine().map_err(|error| unfit(format!("{error:#}")))?;
    if compatibility(&engine) != compatible {
        return Err(unfit("this is not the program that asks for it".into()));
    }
    compile(&engine, bytes)
}

/// The same, for this engine.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, (NoCode, String)> {
    match while_allocating::callable(bytes).map(|bytes| precompile(engine, &bytes)) {
        // Should what stands between the component and WASI not fit it, it does without.
        None | Some(Err((NoCode::Refused, _))) => precompile(engine, bytes),
        Some(compiled) => compiled,
    }
}

fn precompile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, (NoCode, String)> {
    engine.precompile_component(bytes).map_err(|error| {
        let no_code = match error.is::<OutOfMemory>() {
            true => NoCode::OutOfMemory,
            false => NoCode::Refused,
        };
        (no_code, format!("{error:#}"))
    })
}

pub(super) fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.min(THREADS_MAX)
}
