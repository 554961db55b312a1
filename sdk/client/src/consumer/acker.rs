//! Answers from elsewhere: a handle that names deliveries by their positions.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{Shared, Which};

/// Answers deliveries by position, from other tasks. Cheap to clone. Once its consumer is gone or has lost its
/// connection, positions from before mean nothing to the broker any more, and are ignored.
#[derive(Clone, Debug)]
pub struct Acker {
    shared: Arc<Shared>,
}

impl Acker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.count_positions();
        Self { shared }
    }

    /// The event at `position` is done with.
    pub fn ack(&self, position: u64) {
        self.shared
            .settle(at(position), |answers| answers.ack(position));
    }

    /// The event at `position` could not be handled now: deliver it again, after `delay` or, without one, when the
    /// subscription's back-off says.
    pub fn nack(&self, position: u64, delay: Option<Duration>) {
        self.shared
            .settle(at(position), |answers| answers.nack(position, delay));
    }

    /// The event at `position` can never be handled: to the dead-letter topic with it, and `reason`.
    pub fn term(&self, position: u64, reason: &str) {
        self.shared
            .settle(at(position), |answers| answers.term(position, reason));
    }

    /// Still at work on the event at `position`: its ack deadline starts anew.
    pub fn extend(&self, position: u64) {
        self.extend_by(position, None);
    }

    /// The same, for as long as `duration` says: at most a day, which the broker sees to.
    pub fn extend_for(&self, position: u64, duration: Duration) {
        self.extend_by(position, Some(duration));
    }

    fn extend_by(&self, position: u64, duration: Option<Duration>) {
        self.shared.extend(at(position), duration, || false);
    }
}

fn at(position: u64) -> Which {
    Which {
        position,
        of_stream: None,
    }
}
