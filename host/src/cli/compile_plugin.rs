//! `tidegate compile-plugin`: the process in which a broker compiles one component. Not for people. Before it reads anything it
//! limits itself: memory, processor time, and what it has of the broker's. What it compiles is whatever somebody uploaded.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::{fs, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plugin::job::{self, NoCode};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Bytes of the component
    #[arg(long)]
    module_bytes: usize,
    /// Bytes of memory it may take
    #[arg(long)]
    memory_bytes_max: u64,
    /// Seconds of processor time it may take
    #[arg(long)]
    cpu_seconds_max: u64,
    /// For which engine
    #[arg(long)]
    compatibility: u64,
}

/// Does it. To be called before other threads are started.
pub(super) fn run(args: &Args) -> ExitCode {
    match compile(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((no_code, why)) => {
            eprintln!("{why}");
            ExitCode::from(no_code as u8)
        }
    }
}

fn compile(args: &Args) -> Result<(), (NoCode, String)> {
    let unfit = |error: io::Error| (NoCode::Unfit, error.to_string());
    close_inherited();
    // The system is to kill this rather than the broker.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    limit(args).map_err(unfit)?;
    let mut module = Vec::new();
    module
        .try_reserve_exact(args.module_bytes)
        .map_err(|error| (NoCode::OutOfMemory, error.to_string()))?;
    module.resize(args.module_bytes, 0);
    io::stdin().read_exact(&mut module).map_err(unfit)?;
    end_with_broker().map_err(unfit)?;
    let code = job::compile_for(args.compatibility, &module)?;
    let mut output = io::stdout().lock();
    let written = output.write_all(&code).and_then(|()| output.flush());
    written.map_err(|error| (NoCode::Unwritable, error.to_string()))
}

fn limit(args: &Args) -> io::Result<()> {
    // Memory that is written to, and nothing that is only mapped or reserved.
    set(Resource::Data, args.memory_bytes_max, args.memory_bytes_max)?;
    // At the first a signal says why, the second is for certain.
    let seconds = args.cpu_seconds_max;
    set(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    // It would be as large as the memory that was too much.
    set(Resource::Core, 0, 0)
}

// Never more than whoever runs the broker lets it have.
fn set(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let inherited = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit {
        current: Some(current.min(inherited)),
        maximum: Some(maximum.min(inherited)),
    };
    setrlimit(resource, limit).map_err(io::Error::from)
}

// Whoever waits for the code keeps standard input open.
fn end_with_broker() -> io::Result<()> {
    let watch = || {
        while io::stdin().read(&mut [0]).is_ok_and(|read| read > 0) {}
        std::process::exit(NoCode::Unfit as i32);
    };
    thread::Builder::new().spawn(watch).map(drop)
}

// What the broker has open is closed for this process by itself. Whoever started the broker may have left it more.
#[cfg(target_os = "linux")]
fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: nothing in this process has opened a descriptor yet, beyond the standard ones that are left, so nothing owns one
    // of these. The call takes no pointer.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
}

#[cfg(not(target_os = "linux"))]
fn close_inherited() {}
