//! The subscriptions without filters that follow the end of the log together, and up to where they have been shown it. One joins
//! when it has seen what the others have, and leaves when its filters change. Who shows it to them, the router, is not known here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::live_subscription::LiveSubscription;
use crate::domain::Position;
use crate::locks::lock;

/// Whether a subscription could join.
pub(crate) enum Join {
    /// It is shown what comes from here on.
    Joined,
    /// It has not seen what comes before this position, which the others have.
    Behind(Position),
    /// It is not, or will not be for long, a subscription without filters.
    Changing,
}

/// How far they are. Which they are, each knows itself.
pub(crate) struct Followers {
    // First position that they have not been shown. Whoever holds it is the only one who shows them anything, or lets one of
    // them join or leave.
    next: Mutex<Position>,
    // The same for those who wait for it.
    routed_before: watch::Sender<Position>,
    version: AtomicU64,
}

/// The right to show them something, as long as it lives.
pub(crate) struct Turn<'a> {
    followers: &'a Followers,
    next: MutexGuard<'a, Position>,
}

impl Followers {
    /// Those who have been shown everything before `next`.
    pub(super) fn new(next: Position) -> Self {
        Self {
            next: Mutex::new(next),
            routed_before: watch::Sender::new(next),
            version: AtomicU64::new(1),
        }
    }

    /// Another one whenever a subscription comes, goes, joins or leaves.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// First position that they have not been shown.
    pub(crate) fn next(&self) -> Position {
        *self.routed_before.borrow()
    }

    /// Follows [`next`](Self::next).
    pub(crate) fn routed_before(&self) -> watch::Receiver<Position> {
        self.routed_before.subscribe()
    }

    /// Lets nobody else show them anything, or join or leave.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn {
            followers: self,
            next: lock(&self.next),
        }
    }

    /// Lets `live` follow from here on, if it has no filters and has seen everything that the others have.
    pub(crate) fn join(&self, live: &LiveSubscription) -> Join {
        let turn = self.turn();
        let seen = {
            let state = live.read();
            if state.stages() > 0 || state.judges_until() != Position(u64::MAX) {
                return Join::Changing;
            }
            state.evaluated_through().next()
        };
        if seen < turn.next() && !planted!(JoinedBehind) {
            reached!(CatchesUp);
            return Join::Behind(turn.next());
        }
        reached!(JoinedRouter);
        live.routed.store(true, Ordering::Release);
        self.changed();
        Join::Joined
    }

    /// Tells each of them how far they are, so that their checkpoints say it. Returns the first position that they have not been
    /// shown.
    pub(super) fn tell(&self, all: &[Arc<LiveSubscription>]) -> Position {
        let turn = self.turn();
        for live in all.iter().filter(|live| live.is_routed()) {
            turn.tell(live);
        }
        turn.next()
    }
}

impl Turn<'_> {
    pub(crate) fn next(&self) -> Position {
        *self.next
    }

    /// They have been shown everything before `next`.
    pub(crate) fn end(mut self, next: Position) {
        *self.next = next;
        self.followers.routed_before.send_replace(next);
    }

    /// Lets one of them leave: it has been shown everything that the others have, and somebody else is to feed it from here on.
    pub(super) fn leave(&self, live: &LiveSubscription) {
        if !live.routed.swap(false, Ordering::AcqRel) {
            return;
        }
        reached!(LeftRouter);
        self.followers.changed();
        self.tell(live);
        // What is left of its present chain needs a catch-up.
        live.forget_followed();
    }

    fn tell(&self, live: &LiveSubscription) {
        if let Some(through) = self.next.0.checked_sub(1).map(Position) {
            live.apply(|state, _| state.observe(through, std::iter::empty()));
        }
    }
}
