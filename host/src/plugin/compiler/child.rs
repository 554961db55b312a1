//! A process that compiles one component: started, fed, listened to and, if need be, killed from here. It ends with whoever waits
//! for it, and with the broker, which holds the other end of its standard input.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{self, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::job::{COMMAND, CompileJob, NoCode};
use crate::domain::plain_text;
use crate::locks::lock;

/// Bytes of what it says that are kept; the rest is read and forgotten.
const SAID_BYTES_MAX: u64 = 4096;
/// Characters of it that go on to others.
const SAID_CHARS_MAX: usize = 1000;

/// How it is run.
pub(super) struct Child<'a> {
    pub(super) program: &'a Path,
    pub(super) threads: usize,
    pub(super) job: CompileJob,
}

/// How it ended, if not with the code.
#[derive(Debug)]
pub(super) enum Ended {
    /// The component is at fault.
    Refused(String),
    OutOfMemory,
    OutOfTime,
    /// The code could not be written.
    Unwritable(String),
    /// By somebody else.
    Killed(String),
    /// By a fault of the compiler or of the broker.
    Failed(String),
    NotStarted(io::Error),
    /// Nobody waits for it any more.
    Stopped,
}

/// Ends a process from another thread than the one that waits for it.
#[derive(Debug, Default)]
pub(in super::super) struct Stop(Mutex<Stage>);

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    // Until it is known how it ended, so that its number is nobody else's.
    Running(process::Child),
    Stopped,
}

impl Child<'_> {
    /// Runs it to its end. The code goes to `output`.
    pub(super) fn run(&self, bytes: &[u8], output: Stdio, stop: &Stop) -> Result<(), Ended> {
        let (pid, mut input, errors) = stop.start(self.command(output))?;
        // If it ends before it has read all, it says why.
        let _ = input.write_all(bytes);
        let said = said(errors);
        let status = stop.ended(pid)?;
        drop(input);
        outcome(status, &said)
    }

    fn command(&self, output: Stdio) -> Command {
        let mut command = Command::new(self.program);
        command
            .arg0("tidegate")
            .arg(COMMAND)
            .args(self.job.arguments())
            .env_clear()
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .current_dir("/")
            // A Ctrl-C in the broker's terminal is the broker's.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::piped());
        command
    }
}

impl Stop {
    /// Kills what runs, and lets nothing begin.
    pub(in super::super) fn stop(&self) {
        let mut stage = lock(&self.0);
        if let Stage::Running(child) = &mut *stage {
            // It is not waited for yet, so this is no other's.
            let _ = child.kill();
        }
        *stage = match std::mem::take(&mut *stage) {
            Stage::Running(child) => Stage::Running(child),
            Stage::Idle | Stage::Stopped => Stage::Stopped,
        };
    }

    fn start(&self, mut command: Command) -> Result<(Pid, ChildStdin, ChildStderr), Ended> {
        let mut stage = lock(&self.0);
        if let Stage::Stopped = *stage {
            return Err(Ended::Stopped);
        }
        let mut child = command.spawn().map_err(Ended::NotStarted)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let parts = (pid, child.stdin.take(), child.stderr.take());
        let (Some(pid), Some(input), Some(errors)) = parts else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Ended::NotStarted(io::ErrorKind::BrokenPipe.into()));
        };
        *stage = Stage::Running(child);
        Ok((pid, input, errors))
    }

    // Waits for its end without the lock, so that it can be killed meanwhile, and without giving its number back.
    fn ended(&self, pid: Pid) -> Result<ExitStatus, Ended> {
        let wait = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), wait) {}
        let mut stage = lock(&self.0);
        match std::mem::take(&mut *stage) {
            Stage::Running(mut child) => child
                .wait()
                .map_err(|error| Ended::Failed(format!("its end is not known: {error}"))),
            Stage::Idle | Stage::Stopped => Err(Ended::Stopped),
        }
    }
}

fn said(mut errors: ChildStderr) -> String {
    let mut said = Vec::new();
    let _ = errors.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut said);
    let _ = io::copy(&mut errors, &mut io::sink());
    plain(&String::from_utf8_lossy(&said))
}

// One line that no terminal takes for anything else: a component's names are in it.
fn plain(said: &str) -> String {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = words.chars().take(SAID_CHARS_MAX).collect();
    plain_text(&shown).into_owned()
}

fn outcome(status: ExitStatus, said: &str) -> Result<(), Ended> {
    use rustix::process::Signal;
    let how = || format!("{status}: {said}");
    // The allocator, and the threads that are started first, end the process by themselves when there is no more memory.
    let no_memory = [
        "memory allocation of",
        "Cannot allocate memory",
        "Resource temporarily unavailable",
    ];
    let signal = status.signal().and_then(Signal::from_named_raw);
    Err(match (status.code(), signal) {
        (Some(0), _) => return Ok(()),
        (_, Some(Signal::XCPU)) => Ended::OutOfTime,
        (_, Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT)) => {
            Ended::Killed(status.to_string())
        }
        (code, _) => match code.and_then(NoCode::of_exit_code) {
            Some(NoCode::Refused) => Ended::Refused(said.to_owned()),
            Some(NoCode::OutOfMemory) => Ended::OutOfMemory,
            Some(NoCode::Unwritable) => Ended::Unwritable(said.to_owned()),
            Some(NoCode::Unfit) => Ended::Failed(how()),
            None if no_memory.iter().any(|words| said.contains(words)) => Ended::OutOfMemory,
            None => Ended::Failed(how()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_ended_is_told_apart() {
        let check = |raw: i32, said: &str, expected: &str| {
            let ended = outcome(ExitStatus::from_raw(raw), said);
            let ended = ended.map_or_else(|ended| format!("{ended:?}"), |()| "done".into());
            assert!(ended.starts_with(expected), "{raw} {said}: {ended}");
        };
        let exit = |code: NoCode| (code as i32) << 8;
        check(0, "", "done");
        check(
            exit(NoCode::Refused),
            "memory allocation of",
            "Refused(\"memory",
        );
        check(exit(NoCode::OutOfMemory), "", "OutOfMemory");
        check(
            exit(NoCode::Unwritable),
            "no space",
            "Unwritable(\"no space",
        );
        check(exit(NoCode::Unfit), "not the program", "Failed(\"exit");
        check(101 << 8, "thread main panicked", "Failed(\"exit");
        check(
            101 << 8,
            "IOError(Os { message: \"Resource temporarily unavailable\" })",
            "OutOfMemory",
        );
        check(6, "memory allocation of 8 bytes failed", "OutOfMemory");
        check(6, "", "Failed(\"signal: 6");
        check(11, "", "Failed(\"signal: 11");
        check(24, "", "OutOfTime");
        check(9, "", "Killed(\"signal: 9");
    }

    #[test]
    fn what_it_says_is_one_plain_line() {
        assert_eq!(
            plain(" a\n\tb \x1b[2J\u{7}c\u{202e}d "),
            "a b \\u{1b}[2J\\u{7}c\\u{202e}d"
        );
        assert_eq!(plain(&"x".repeat(5000)).len(), SAID_CHARS_MAX);
    }

    #[test]
    fn nothing_begins_after_a_stop_and_what_runs_ends() {
        let stop = Stop::default();
        stop.stop();
        let started = stop.start(Command::new("true")).map(|(pid, ..)| pid);
        assert!(matches!(started, Err(Ended::Stopped)), "{started:?}");

        let stop = Stop::default();
        let mut command = Command::new("cat");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // As long as its input is open, it does not end by itself.
        let (pid, _input, _errors) = stop.start(command).expect("started");
        let status = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.ended(pid));
            stop.stop();
            waiting.join().expect("no panic").expect("an end")
        });
        assert_eq!(status.signal(), Some(9));
    }
}
