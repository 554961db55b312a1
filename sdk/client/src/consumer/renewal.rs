//! Renewal: how the ack deadlines of what waits in the client are kept from passing, for how long, and how what waits for too long is given
//! back. When to do it, and what to say then; the stream says it. While the application goes on, the broker sees to that by itself.

use std::time::Duration;

use tidegate_wire::pb;
use tidegate_wire::pb::consumer_command::Command;
use tokio::time::Instant;

use super::shared::State;

/// However short the ack deadline is, a broker keeps what it knows to wait in a client for this long at least.
const UNSEEN_MIN: Duration = Duration::from_secs(2);

pub(super) struct Renewal {
    /// So long the broker waits for a sign.
    lasts: Duration,
    /// So long a delivery may wait for the application.
    buffered_max: Duration,
    /// The broker takes back what waits for longer.
    gives_back: bool,
    /// The last sign.
    renewed_at: Instant,
    /// When the next thing is to be done.
    due_at: Option<Instant>,
}

impl Renewal {
    pub(super) fn new(ready: &pb::SubscribeReady, buffered_max: Duration) -> Self {
        Self {
            lasts: Duration::from_millis(ready.ack_deadline_ms).max(UNSEEN_MIN),
            buffered_max,
            gives_back: ready.takes_give_back,
            renewed_at: Instant::now(),
            due_at: None,
        }
    }

    /// When it is due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// It is.
    pub(super) fn is_due(&self) -> bool {
        self.due_at.is_some_and(|at| at <= Instant::now())
    }

    /// The broker gets a sign by something else, or nothing waits yet.
    pub(super) fn renewed(&mut self) {
        self.renewed_at = Instant::now();
    }

    /// Says when it is due, now that what waits has changed.
    pub(super) fn plan(&mut self, state: &State) {
        let oldest = state.buffer.oldest();
        let back = oldest.and_then(|came_at| came_at.checked_add(self.waits_max(state)));
        self.due_at = oldest.map(|_| {
            let extend = self.renewed_at + self.lasts / 3;
            back.filter(|_| self.gives_back)
                .map_or(extend, |back| back.min(extend))
        });
    }

    // A stream that moves hands nothing over, and what waits on it is for others.
    fn waits_max(&self, state: &State) -> Duration {
        match state.moves {
            true => Duration::ZERO,
            false => self.buffered_max,
        }
    }

    /// What is to be said now: what waits for the application is extended, or, when it waits for too long, given back. That comes first,
    /// and after the broker was told how much was handed over.
    pub(super) fn commands(&mut self, state: &mut State) -> Vec<Command> {
        let now = Instant::now();
        let mut commands = Vec::new();
        // Of what came at this moment or before, the application gets no more.
        let too_old = now.checked_sub(self.waits_max(state));
        if let Some(too_old) = too_old.filter(|_| self.gives_back) {
            let left = state.buffer.take_until(too_old);
            // They are passed over in the count of those handed over, see `GiveBack`.
            state.handed_over += left.events;
            state.parked_events += left.events;
            state.parked_bytes += left.bytes;
            let chunks = left.positions.chunks().into_iter();
            commands.extend(chunks.map(|positions| Command::GiveBack(pb::GiveBack { positions })));
        }
        if self.renewed_at + self.lasts / 3 <= now {
            let extend_for_ms = u64::try_from(self.lasts.as_millis()).ok();
            let waiting = state.buffer.positions(too_old).chunks().into_iter();
            commands.extend(waiting.map(|positions| {
                Command::Extend(pb::Extend {
                    positions,
                    extend_for_ms,
                })
            }));
            self.renewed_at = now;
        }
        self.plan(state);
        commands
    }
}
