//! Admission: when the handshake of an attempt to connect is begun. One that cannot be finished in time is not begun: it would take
//! from those that can, and its client would come again. So an attempt that finds no place is asked to prove its address, which tells
//! the client at once that it was heard, and then waits in line; who cannot wait either is refused, and its client comes back later.
//! The one owner of the waiting room. What a handshake is, is not known here.

use std::sync::Arc;

use quinn::Incoming;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::connection::{self, Attempt};
use super::listener_context::ListenerContext;
use super::waiting_room::{WAITING_MAX, WaitingRoom};
use crate::domain::Network;
use crate::runtime::spawn::Spawner;

/// Attempts that listeners have taken from their sockets and that were not looked at yet. Beyond these, quinn keeps them.
const NEW_MAX: usize = 64;

/// Attempts that quinn keeps for one listener at most, those among them that wait here; what comes beyond is not answered. Each may keep
/// 64 KiB, see [`WAITING_MAX`], so that is 80 MiB at worst.
pub(super) const INCOMING_MAX: usize = WAITING_MAX + 256;

/// Bytes that quinn keeps of what else comes for an attempt that waits: its first packet, sent again some times; and of all of them.
pub(super) const INCOMING_BYTES_MAX: u64 = 4 * 1_500;
pub(super) const INCOMING_TOTAL_BYTES_MAX: u64 = 16 << 20;

/// Why there is no time for an attempt, as the log says it.
const CROWDED: &str = "the broker has no time for its handshake, too many wait; it comes again";
const OVERDUE: &str =
    "the broker has no time for its handshake, it waited for too long; it comes again";

/// Decides about attempts.
pub(super) struct Admission {
    context: Arc<ListenerContext>,
    /// Where connections run.
    connections: Spawner,
    room: WaitingRoom<Attempt>,
    attempts: mpsc::Receiver<Attempt>,
}

/// What is done about an attempt that has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decision {
    Begin,
    /// It has to prove its address, and comes again then.
    Prove,
    Wait,
    /// There is no place for another connection.
    Full,
    /// There is no time for it.
    Busy,
}

/// What there is for an attempt when it comes.
#[derive(Clone, Copy, Debug)]
enum Chance {
    /// Nothing: all connections are taken.
    Full,
    /// A handshake can be begun, and nobody waits for that; where many are under way, for somebody who has proved its address.
    Place { for_proved: bool },
    /// Room for one more of its network to wait.
    Line,
    /// Nothing: too many wait.
    Crowd,
}

/// How an attempt has proved its address.
#[derive(Clone, Copy, Debug)]
enum Proof {
    None,
    /// With a connection that it had before.
    Earlier,
    /// Now, when it was asked to, so its client knows that it was heard.
    Asked,
}

fn decide(chance: Chance, proof: Proof) -> Decision {
    match (chance, proof) {
        (Chance::Full, _) => Decision::Full,
        (Chance::Place { for_proved: true }, Proof::None) => Decision::Prove,
        (Chance::Place { .. }, _) => Decision::Begin,
        (Chance::Line, Proof::Asked) => Decision::Wait,
        (Chance::Line, Proof::None | Proof::Earlier) => Decision::Prove,
        (Chance::Crowd, _) => Decision::Busy,
    }
}

impl Proof {
    fn of(incoming: &Incoming) -> Self {
        match (incoming.may_retry(), incoming.remote_address_validated()) {
            (false, _) => Self::Asked,
            (true, true) => Self::Earlier,
            (true, false) => Self::None,
        }
    }
}

impl Admission {
    /// Decides about what comes by the sender. Connections run on `connections`.
    pub(super) fn new(
        context: Arc<ListenerContext>,
        connections: Spawner,
    ) -> (Self, mpsc::Sender<Attempt>) {
        let (sender, attempts) = mpsc::channel(NEW_MAX);
        let room = WaitingRoom::new(WAITING_MAX, context.options.idle_timeout);
        let admission = Self {
            context,
            connections,
            room,
            attempts,
        };
        (admission, sender)
    }

    /// Runs until the shutdown. Who still waits then is refused.
    pub(super) async fn run(mut self) {
        let context = Arc::clone(&self.context);
        loop {
            self.settle(Instant::now());
            let due = self.due_at(Instant::now());
            let due = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = context.service.shutdown.cancelled() => break,
                () = context.handshakes.ended() => {}
                attempt = self.attempts.recv() => match attempt {
                    Some(attempt) => self.arrive(Instant::now(), attempt),
                    None => break,
                },
                () = due => {}
            }
        }
        while let Some(attempt) = self.room.pop() {
            attempt.incoming.refuse();
        }
        self.count_waiting();
    }

    // When something is to be done even if nothing happens.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        let overdue = self.room.overdue_at()?;
        Some(overdue.min(self.context.handshakes.place_at(now)))
    }

    fn arrive(&mut self, now: Instant, attempt: Attempt) {
        let remote = attempt.incoming.remote_address();
        let network = Network::from(remote.ip());
        let decision = decide(self.chance(now, network), Proof::of(&attempt.incoming));
        match decision {
            Decision::Begin => self.begin(now, attempt),
            Decision::Prove => {
                if attempt.incoming.retry().is_err() {
                    debug!(peer = %remote, "a connection attempt could not be asked to prove its address");
                }
            }
            Decision::Wait => {
                if let Some(attempt) = self.room.push(now, network, attempt) {
                    self.refuse_for_time(attempt, CROWDED);
                }
                self.count_waiting();
            }
            Decision::Full => self.refuse_for_place(attempt),
            Decision::Busy => self.refuse_for_time(attempt, CROWDED),
        }
    }

    fn chance(&self, now: Instant, network: Network) -> Chance {
        let handshakes = &self.context.handshakes;
        if self.context.service.is_full() {
            Chance::Full
        } else if self.room.is_empty() && handshakes.place_at(now) <= now {
            let before_retry = self.context.options.handshakes_before_retry;
            Chance::Place {
                for_proved: handshakes.len() >= before_retry,
            }
        } else if self.room.has_room(network) {
            Chance::Line
        } else {
            Chance::Crowd
        }
    }

    // Those go that have waited for too long, and others begin as far as there are places.
    fn settle(&mut self, now: Instant) {
        if self.room.is_empty() {
            return;
        }
        while let Some(attempt) = self.room.pop_overdue(now) {
            self.refuse_for_time(attempt, OVERDUE);
        }
        while self.context.handshakes.place_at(now) <= now {
            match self.room.pop() {
                Some(attempt) if self.context.service.is_full() => self.refuse_for_place(attempt),
                Some(attempt) => self.begin(now, attempt),
                None => break,
            }
        }
        self.count_waiting();
    }

    fn begin(&self, now: Instant, attempt: Attempt) {
        let network = attempt.incoming.remote_address().ip().into();
        let handshake = self.context.handshakes.begin(now, network);
        let serve = connection::serve(Arc::clone(&self.context), attempt, handshake);
        drop(self.connections.serving("connection", serve));
    }

    fn refuse_for_place(&self, attempt: Attempt) {
        let remote = attempt.incoming.remote_address();
        attempt.incoming.refuse();
        let reason = "all connections are taken (limits.connections_max)";
        self.context.log_refused(remote, reason);
    }

    fn refuse_for_time(&self, attempt: Attempt, reason: &'static str) {
        let remote = attempt.incoming.remote_address();
        attempt.incoming.refuse();
        self.context.service.stats.handshake_refused();
        self.context.log_refused(remote, reason);
    }

    fn count_waiting(&self) {
        self.context
            .service
            .stats
            .handshakes_waiting(self.room.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_begin_prove_themselves_wait_or_are_refused() {
        let place = |for_proved| Chance::Place { for_proved };
        for (chance, by_proof) in [
            (place(false), [Decision::Begin; 3]),
            (
                place(true),
                [Decision::Prove, Decision::Begin, Decision::Begin],
            ),
            (
                Chance::Line,
                [Decision::Prove, Decision::Prove, Decision::Wait],
            ),
            (Chance::Crowd, [Decision::Busy; 3]),
            (Chance::Full, [Decision::Full; 3]),
        ] {
            let decided =
                [Proof::None, Proof::Earlier, Proof::Asked].map(|proof| decide(chance, proof));
            assert_eq!(decided, by_proof, "{chance:?}");
        }
    }
}
