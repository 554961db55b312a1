//! A command that somebody has typed: its input and output are a terminal, so that it may ask, and be answered. It ends with this.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::wait_for;

/// The command, and what its terminal shows.
pub struct TypedCommand {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl TypedCommand {
    /// One that has the terminal to itself.
    ///
    /// # Errors
    /// There is no terminal, or it could not be started.
    pub fn run(command: Command) -> anyhow::Result<Self> {
        Self::start(command, None, true)
    }

    /// One whose standard error goes to a file.
    ///
    /// # Errors
    /// There is no terminal, or it could not be started.
    pub fn run_with_messages(command: Command, messages: File) -> anyhow::Result<Self> {
        Self::start(command, Some(messages), true)
    }

    /// The same, and the terminal is that of another session, so that nothing can be asked on it but by its input and output.
    ///
    /// # Errors
    /// There is no terminal, or it could not be started.
    pub fn run_detached(command: Command, messages: File) -> anyhow::Result<Self> {
        Self::start(command, Some(messages), false)
    }

    fn start(
        mut command: Command,
        messages: Option<File>,
        is_its_own: bool,
    ) -> anyhow::Result<Self> {
        let (keyboard, terminal) = open()?;
        let error = match messages {
            Some(file) => Stdio::from(file),
            None => Stdio::from(terminal.try_clone()?),
        };
        command
            .stdin(terminal.try_clone()?)
            .stdout(terminal)
            .stderr(error);
        // SAFETY: between the fork and the command it only makes system calls.
        unsafe {
            command.pre_exec(move || {
                check(libc::setsid())?;
                if is_its_own {
                    check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        let screen: Arc<Mutex<String>> = Arc::default();
        let (mut shown, written) = (keyboard.try_clone()?, Arc::clone(&screen));
        // Ends with the command, which has the other end of the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(read @ 1..) = shown.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                written
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        Ok(Self {
            child,
            keyboard,
            screen,
        })
    }

    /// All that is shown so far, what was typed included.
    #[must_use]
    pub fn screen(&self) -> String {
        let screen = self.screen.lock();
        screen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this is shown.
    ///
    /// # Errors
    /// It is not.
    pub async fn wait_for(&self, text: &str) -> anyhow::Result<()> {
        let shown = wait_for(format!("`{text}` on the terminal"), async || {
            Ok(self.screen().contains(text).then_some(()))
        });
        shown
            .await
            .map_err(|error| error.context(format!("it shows: {}", self.screen())))
    }

    /// Types a line.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_line(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.keyboard, "{line}")?)
    }

    /// Waits for the end; the exit code.
    ///
    /// # Errors
    /// It does not end.
    pub async fn code(mut self) -> anyhow::Result<i32> {
        let status = wait_for("the command to end", async || Ok(self.child.try_wait()?)).await?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for TypedCommand {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// A terminal from both sides: where somebody sits, and where the command is.
fn open() -> io::Result<(File, OwnedFd)> {
    let (mut outside, mut inside) = (-1, -1);
    let nothing = std::ptr::null_mut();
    // SAFETY: it writes two descriptors to where it is told to, which has room for them, and reads nothing where there is nothing.
    check(unsafe {
        libc::openpty(
            &mut outside,
            &mut inside,
            nothing,
            nothing.cast(),
            nothing.cast(),
        )
    })?;
    // SAFETY: both were just opened, and nobody else has them.
    let (outside, inside) = unsafe { (File::from_raw_fd(outside), OwnedFd::from_raw_fd(inside)) };
    // Commands that are started meanwhile are not to keep it open.
    for descriptor in [outside.as_raw_fd(), inside.as_raw_fd()] {
        // SAFETY: it changes a flag of a descriptor that is open.
        check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok((outside, inside))
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
