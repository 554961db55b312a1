//! Admission: when the handshake of an attempt to connect is begun. One that cannot be finished in time is not begun: it would take
//! from those that can, and its client would come again. So an attempt that finds no place is asked to prove its address, which tells
//! the client at once that it was heard, and then waits in line; who cannot wait either is refused, and its client comes back later.
//! The one owner of the waiting room. What a handshake is, is not known here.

use std::sync::Arc;

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

/// Attempts that quinn keeps for one listener at most, those among them that wait here; what comes beyond is not answered.
pub(super) const INCOMING_MAX: usize = 2 * WAITING_MAX;

/// Bytes that quinn keeps of what else comes for an attempt that waits: its first packet, sent again some times; and of all of them.
pub(super) const INCOMING_BYTES_MAX: u64 = 4 * 1_500;
pub(super) const INCOMING_TOTAL_BYTES_MAX: u64 = 16 << 20;

/// Decides about attempts.
pub(super) struct Admission {
    context: Arc<ListenerContext>,
    /// Where connections run.
    connections: Spawner,
    room: WaitingRoom<Attempt>,
    attempts: mpsc::Receiver<Attempt>,
}

/// What is done about an attempt that has come.
#[derive(Debug, PartialEq)]
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

/// What is known when an attempt comes.
#[derive(Clone, Copy)]
struct Situation {
    /// All connections are taken.
    is_full: bool,
    /// A handshake could be begun, and nobody waits for that.
    has_place: bool,
    /// There is room for one more of its network to wait.
    has_room: bool,
    /// It has proved its address, now or with an earlier connection.
    is_proved: bool,
    /// It was asked for that now, so its client knows that it was heard.
    was_asked: bool,
    /// Everybody has to, now.
    must_prove: bool,
}

fn decide(situation: Situation) -> Decision {
    let Situation {
        is_full,
        has_place,
        has_room,
        is_proved,
        was_asked,
        must_prove,
    } = situation;
    match has_place {
        _ if is_full => Decision::Full,
        true if is_proved || !must_prove => Decision::Begin,
        true => Decision::Prove,
        false if !has_room => Decision::Busy,
        false if was_asked => Decision::Wait,
        false => Decision::Prove,
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
        let Attempt { incoming, .. } = &attempt;
        let remote = incoming.remote_address();
        let network = Network::from(remote.ip());
        let handshakes = &self.context.handshakes;
        let decision = decide(Situation {
            is_full: self.context.service.is_full(),
            has_place: self.room.is_empty() && handshakes.place_at(now) <= now,
            has_room: self.room.has_room(network),
            is_proved: incoming.remote_address_validated() || !incoming.may_retry(),
            was_asked: !incoming.may_retry(),
            must_prove: handshakes.len() >= self.context.options.handshakes_before_retry,
        });
        match decision {
            Decision::Begin => self.begin(now, attempt),
            Decision::Prove => {
                if attempt.incoming.retry().is_err() {
                    debug!(peer = %remote, "a connection attempt could not be asked to prove its address");
                }
            }
            Decision::Wait => {
                if let Some(attempt) = self.room.push(now, network, attempt) {
                    self.refuse_for_time(attempt, "too many wait");
                }
                self.count_waiting();
            }
            Decision::Full => self.refuse_for_place(attempt),
            Decision::Busy => self.refuse_for_time(attempt, "too many wait"),
        }
    }

    // Those go that have waited for too long, and others begin as far as there are places.
    fn settle(&mut self, now: Instant) {
        if self.room.is_empty() {
            return;
        }
        while let Some(attempt) = self.room.pop_overdue(now) {
            self.refuse_for_time(attempt, "it waited for too long");
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

    fn refuse_for_time(&self, attempt: Attempt, how: &str) {
        let remote = attempt.incoming.remote_address();
        attempt.incoming.refuse();
        self.context.service.stats.handshake_refused();
        let reason = format!("the broker has no time for its handshake, {how}; it comes again");
        self.context.log_refused(remote, &reason);
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
        let idle = Situation {
            is_full: false,
            has_place: true,
            has_room: true,
            is_proved: false,
            was_asked: false,
            must_prove: false,
        };
        let check = |situation, expected| assert_eq!(decide(situation), expected);
        check(idle, Decision::Begin);
        let watchful = Situation {
            must_prove: true,
            ..idle
        };
        let known = |situation| Situation {
            is_proved: true,
            ..situation
        };
        let proved = |situation| Situation {
            was_asked: true,
            ..known(situation)
        };
        check(watchful, Decision::Prove);
        check(known(watchful), Decision::Begin);
        check(proved(watchful), Decision::Begin);
        let busy = Situation {
            has_place: false,
            ..idle
        };
        check(busy, Decision::Prove);
        check(known(busy), Decision::Prove);
        check(proved(busy), Decision::Wait);
        let crowded = Situation {
            has_room: false,
            ..busy
        };
        check(crowded, Decision::Busy);
        check(proved(crowded), Decision::Busy);
        // A place is a place, whoever waits no more.
        check(
            Situation {
                has_room: false,
                ..idle
            },
            Decision::Begin,
        );
        for situation in [idle, watchful, busy, crowded] {
            let full = Situation {
                is_full: true,
                ..situation
            };
            check(full, Decision::Full);
            check(proved(full), Decision::Full);
        }
    }
}
