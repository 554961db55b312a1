//! Why the plugin service refuses: to start, to take bytes for a plugin, to take a configuration. Each message says what to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::guest_fault::{Fault, FaultKind};
use crate::domain::Digest;

/// Bytes of a configuration: it travels in a subscription's specification and is kept in the catalog.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Why the plugin service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PluginStartError {
    /// wasmtime does not accept its settings on this machine.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Engine(String),
    /// No threads.
    #[error("cannot start the plugin threads")]
    Threads(#[source] std::io::Error),
    /// The folder for compiled plugins.
    #[error("cannot use {} for compiled plugins", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
}

/// Why bytes are refused as a plugin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Larger than the broker accepts.
    #[error(
        "the component has {bytes} bytes; at most {max} are accepted (plugins.module_bytes_max; \
         plugins.override.NAME.module_bytes_max for one plugin)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not WebAssembly.
    #[error("this is not a WebAssembly component: it does not start with one's magic number")]
    NotWasm,
    /// A core module.
    #[error(
        "this is a core WebAssembly module; a plugin is a component: build for the target wasm32-wasip2, or run \
         `wasm-tools component new`"
    )]
    CoreModule,
    /// Cranelift or its validation says no.
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    /// An instance of it would be larger than any may be.
    #[error(
        "the component is more than an instance of a plugin may be: {0}; memory is limited by plugins.memory_bytes_max, and by \
         plugins.override.NAME.memory_bytes_max for one plugin"
    )]
    Instance(String),
    /// Compiling took too long.
    #[error(
        "compiling it was stopped after {} s (plugins.compile_timeout_ms); on a machine with less to do it may be faster, and large \
         functions take longest", .0.as_secs()
    )]
    CompileTimeout(Duration),
    /// Compiling needs too much memory.
    #[error(
        "compiling it takes more than {} MiB of memory (plugins.compile_memory_bytes_max); large functions take most: split them, or \
         have that limit raised", .0 >> 20
    )]
    CompileMemory(u64),
    /// Others are being compiled, and take long.
    #[error("other plugins are being compiled; upload it again later")]
    Busy,
    /// Somebody killed the process that compiles, or the system did for want of memory.
    #[error(
        "the process that compiles it was killed ({0}), by somebody or because the machine has no memory left; upload it again later"
    )]
    CompilerKilled(String),
    /// The compiler failed, as it would again.
    #[error("compiling it failed by a fault of the broker's own; its log says more")]
    CompilerFailed,
    /// No thread or process for it.
    #[error("nothing can be started to compile it")]
    NotStarted(#[source] Arc<std::io::Error>),
    /// There is no room for its code.
    #[error("its compiled form cannot be written: {0}")]
    Unwritable(String),
    /// It exports neither world.
    #[error(
        "the component exports neither tidegate:plugin/filtering@0.1.0 nor tidegate:plugin/transforming@0.1.0; it \
         exports {}", list(.0)
    )]
    NoWorld(Vec<String>),
    /// It exports both worlds.
    #[error("the component exports both filtering and transforming; make it two plugins")]
    BothWorlds,
    /// An export is missing or has another type.
    #[error("the export {name} {problem}")]
    Export {
        /// Interface and function.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It imports what no plugin gets.
    #[error(
        "the component imports {}; a plugin may import tidegate:plugin/types@0.1.x and interfaces of WASI 0.2, \
         nothing else", list(.0)
    )]
    Imports(Vec<String>),
    /// wasmtime cannot link it.
    #[error("the component cannot be linked: {0}")]
    Link(String),
    /// The service is stopping.
    #[error("the plugin service is stopping")]
    Stopped,
}

/// Why a plugin does not take a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// Not loaded.
    #[error("plugin {0} is not loaded")]
    NotLoaded(Digest),
    /// Nor can it be now, which says nothing of it. Later it may.
    #[error("plugin {0} cannot be loaded now; the broker tries again")]
    NotYetLoaded(Digest),
    /// A filter was to be used as a transform, or the other way round.
    #[error("the plugin is a {is}, not a {wanted}")]
    WrongWorld {
        /// What it is.
        is: &'static str,
        /// What it was to be.
        wanted: &'static str,
    },
    /// Too long.
    #[error("the configuration has {0} bytes; at most {CONFIG_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// The plugin's own message.
    #[error("{0}")]
    Refused(String),
    /// The plugin failed on it.
    #[error("the plugin failed on its configuration: {0}")]
    Fault(String),
    /// The broker has no instance left. Later it may.
    #[error("{0}")]
    Busy(String),
    /// The service is stopping.
    #[error("the plugin service is stopping")]
    Stopped,
}

impl LoadError {
    pub(super) fn not_started(error: std::io::Error) -> Self {
        Self::NotStarted(Arc::new(error))
    }

    pub(super) fn unwritable(error: std::io::Error) -> Self {
        Self::Unwritable(error.to_string())
    }

    /// Whether it says nothing of the plugin, so that the same bytes may be taken later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::CompileTimeout(_)
                | Self::CompilerKilled(_)
                | Self::Busy
                | Self::NotStarted(_)
                | Self::Unwritable(_)
                | Self::Stopped
        )
    }
}

impl ConfigureError {
    /// Whether it says nothing of the plugin or the configuration and goes away by itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::NotYetLoaded(_) | Self::Stopped)
    }
}

impl From<ConfigureError> for Fault {
    fn from(error: ConfigureError) -> Self {
        let kind = match error.is_passing() {
            true => FaultKind::Busy,
            false => FaultKind::Trap,
        };
        Self::new(kind, error.to_string(), "")
    }
}

impl From<Fault> for ConfigureError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Busy => Self::Busy(fault.reason),
            FaultKind::Trap | FaultKind::Timeout | FaultKind::Nonsense => {
                Self::Fault(fault.explained())
            }
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".into()
    } else {
        names.join(", ")
    }
}
