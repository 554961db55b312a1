//! The signals that ask a program to end: Ctrl-C, and what service managers send. Each command that waits for them owns its
//! own, made before its work begins, so that none is missed however busy the command is.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of an interrupted command: 128 + SIGINT, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// SIGTERM and SIGINT, from the moment this was made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// With SIGHUP, which closing a terminal sends: for who has something to put away. Unless whoever started this program has it go on
    /// then (`nohup`).
    pub(super) fn with_hangups() -> std::io::Result<Self> {
        let hangup = match ignores_hangups() {
            true => None,
            false => Some(hangups()?),
        };
        Ok(Self {
            hangup,
            ..Self::new()?
        })
    }

    /// The next one's name. Cancel-safe: what came in between is returned by the next call.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            Some(_) = received(&mut self.hangup) => "SIGHUP",
        }
    }
}

async fn received(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// SIGHUPs, from now on. They do not end the program any more by themselves.
pub(super) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Whether whoever started this program had it ignore SIGHUPs.
pub(super) fn ignores_hangups() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action it only writes the present one to where it is told to, which has room for it; and zeros are one
    // as well, should it fail.
    unsafe {
        let asked = libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr());
        asked == 0 && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
