//! What a change of the state makes necessary outside of it. The state notes it as it changes, whoever changes it takes it along
//! and does it: a consumer that is not waked, or a deadline for which nobody looks at the clock, is a stall that nothing else
//! ends. Nothing is done here.

use std::ops::RangeInclusive;

use super::came_back::CameBack;
use crate::domain::{Millis, Position};

/// All of it, since it was taken last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Who was handed nothing may get something now, or find something else changed that it waits for.
    pub wakes: bool,
    /// The earliest moment at which [`tick`](super::SubscriptionState::tick) has something to do that it had not before.
    pub deadline: Option<Millis>,
    /// Some events were given up and wait for being [taken](super::SubscriptionState::take_given_up).
    pub has_given_up: bool,
    /// What is done with and is to be written down, rising as far as it came so.
    pub acked: Vec<RangeInclusive<Position>>,
    /// What came back and is to be written down, each after what was said of it before.
    pub came_back: Vec<CameBack>,
    /// To be written down: whether it is [paused](super::SubscriptionState::paused). By then it may be otherwise again.
    pub paused: bool,
    /// The next chain of filters judges.
    pub took_over: bool,
    /// Consumers that get nothing more until their applications go on, and did before.
    pub stalled: u64,
    /// The limits it has reached are these now, and were others.
    pub strain: Option<Strain>,
}

impl Effects {
    pub(super) fn arm(&mut self, deadline: Option<Millis>) {
        self.deadline = self.deadline.into_iter().chain(deadline).min();
    }
}

/// Limits that a subscription has reached, and that make it less exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// So many events wait for another attempt that they may wait a quarter longer than they should.
    pub coarse_delays: bool,
    /// So many events wait for their dead letter that further ones share their reasons, and of many different ones only the
    /// kind is kept.
    pub coarse_reasons: bool,
}

impl Strain {
    /// The names of those that are reached, as they are shown.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let coarse = self.coarse_delays.then_some("coarse_delays");
        let reasons = self.coarse_reasons.then_some("coarse_reasons");
        coarse.into_iter().chain(reasons)
    }
}
