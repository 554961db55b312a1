//! What the broker has sent and the application has not taken: frames in the order in which they came, handed out one delivery after
//! the other. Pure: no lock, no task and no clock; the lock is [`Shared`](super::shared::Shared)'s.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use tokio::time::Instant;

use super::delivery::{Encoded, Handout};
use super::unsent_answers::Ranges;

/// Frames that wait for the application.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    frames: VecDeque<Frame>,
}

#[derive(Debug)]
struct Frame {
    handout: Handout,
    came_at: Instant,
}

/// Deliveries that the application will not get from here, as credit counts them.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) positions: Ranges,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Buffer {
    pub(super) fn push(&mut self, handout: Handout, came_at: Instant) {
        self.frames.push_back(Frame { handout, came_at });
    }

    /// The frame that the next delivery is in.
    pub(super) fn front(&mut self) -> Option<&mut Handout> {
        while self.frames.front()?.handout.is_empty() {
            self.frames.pop_front();
        }
        self.frames.front_mut().map(|frame| &mut frame.handout)
    }

    /// When the oldest came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let mut frames = self.frames.iter();
        let oldest = frames.find(|frame| !frame.handout.is_empty());
        oldest.map(|frame| frame.came_at)
    }

    /// Positions of all that came after `moment`, or of all.
    pub(super) fn positions(&self, moment: Option<Instant>) -> Ranges {
        let mut positions = Ranges::default();
        for frame in &self.frames {
            if moment.is_none_or(|moment| frame.came_at > moment) {
                frame.handout.positions_left(&mut positions);
            }
        }
        positions
    }

    /// Takes out what came at `moment` or before: it is at the front.
    pub(super) fn take_until(&mut self, moment: Instant) -> Left {
        let mut left = Left::default();
        while let Some(frame) = self.frames.pop_front_if(|frame| frame.came_at <= moment) {
            let mut handout = frame.handout;
            handout.positions_left(&mut left.positions);
            while let Some(encoded) = handout.take() {
                left.events += 1;
                left.bytes += encoded.bytes();
            }
        }
        left
    }

    /// The consumer does not hold these any more, which are ascending and disjoint. Those that wait here are passed over when their turn
    /// comes; the others are returned. One pass over what waits, however many ranges there are.
    pub(super) fn void(&mut self, ranges: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
        let mut here = Ranges::default();
        for frame in &mut self.frames {
            frame.handout.void(ranges, &mut here);
        }
        here.gaps(ranges)
    }

    /// The stream that all came on is over: what is delivered again is dropped.
    pub(super) fn drop_stale(&mut self) {
        self.frames
            .retain(|frame| !frame.handout.discard_when_stale);
    }
}

impl Encoded {
    /// Bytes of its events, as credit counts them.
    pub(super) fn bytes(&self) -> u64 {
        self.parts().map(|part| part.len() as u64).sum()
    }
}
