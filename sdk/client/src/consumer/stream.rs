//! One stream of a consumer, from the broker's yes to its end: what the broker has left of its credit, how far it was told of
//! what the application got, and what it was asked to confirm. What outlives a stream is the driver's.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_wire::limits::FRAME_BYTES_MAX;
use tidegate_wire::pb;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::stream::Connection;
use tokio::time::Instant;

use super::credit::Credit;
use super::shared::{Shared, State, Waiter};
use crate::error::SubscribeError;
use crate::frames::FrameStream;

/// What the application got is told after this long, if nothing was said in the meantime: seldom enough to cost nothing,
/// and soon enough that the broker mostly knows what a process had in hand when it was killed.
const TELL_AFTER: Duration = Duration::from_millis(10);

pub(super) struct ConsumerStream<C: Connection> {
    pub(super) frames: FrameStream<C>,
    /// What the broker may send in all before it gets more, and what is left of that.
    credit_events_max: u64,
    credit_bytes_max: u64,
    credit_events: i64,
    credit_bytes: i64,
    /// Asked to confirm and not confirmed: the number, and who waits.
    confirms: VecDeque<(u64, Vec<Waiter>)>,
    next_confirm: u64,
    /// The stream wants no answers.
    pub(super) answers_unwanted: bool,
    /// Deliveries that came, and those of them of which the broker was told that the application has got them.
    delivered: u64,
    told: u64,
    /// When to tell the broker of more.
    tell_at: Option<Instant>,
}

impl<C: Connection> ConsumerStream<C> {
    /// A stream on which the broker has `credit`, and wants answers or not.
    pub(super) fn new(frames: FrameStream<C>, credit: &Credit, answers_unwanted: bool) -> Self {
        Self {
            frames,
            credit_events_max: credit.events,
            credit_bytes_max: credit.bytes,
            credit_events: i64::try_from(credit.events).unwrap_or(i64::MAX),
            credit_bytes: i64::try_from(credit.bytes).unwrap_or(i64::MAX),
            confirms: VecDeque::new(),
            next_confirm: 1,
            answers_unwanted,
            delivered: 0,
            told: 0,
            tell_at: None,
        }
    }

    /// Everything said is sent.
    pub(super) fn is_silent(&mut self) -> bool {
        self.frames.queue().is_empty()
    }

    /// When the broker is to be told of what the application got, though nothing else was to be said. Nothing before the
    /// commands on their way are sent.
    pub(super) fn timer(&mut self) -> Option<Instant> {
        let at = self.tell_at;
        at.filter(|_| self.is_silent())
    }

    /// The application may have got more: when that is to be told.
    pub(super) fn note_handed_over(&mut self, state: &State) {
        if self.tell_at.is_none() && state.handed_over > self.told {
            self.tell_at = Some(Instant::now() + TELL_AFTER);
        }
    }

    /// Turns what the application said and took into commands. Returns true when the consumer is gone and there is
    /// nothing left to say.
    pub(super) fn gather(&mut self, shared: &Shared) -> bool {
        let due = self.tell_at.is_some_and(|at| at <= Instant::now());
        let (answers, events, bytes, confirms, detached, handed_over, ask) = {
            let mut state = shared.state();
            // Whatever is taken next wakes us, unless we look at it by ourselves.
            state.tell = self.tell_at.is_none() || due;
            (
                std::mem::take(&mut state.answers),
                std::mem::take(&mut state.taken_events),
                std::mem::take(&mut state.taken_bytes),
                std::mem::take(&mut state.confirms),
                state.detached,
                state.handed_over,
                state.ask.take(),
            )
        };
        if due {
            self.tell_at = None;
        }
        let (events, bytes) = if detached { (0, 0) } else { (events, bytes) };
        let handed_over = handed_over.max(ask.unwrap_or_default());
        let tell = handed_over > self.told && (due || detached);
        if events > 0 || bytes > 0 || tell || ask.is_some() {
            self.grant(events, bytes, handed_over, ask.is_some());
        }
        let confirm = match confirms.is_empty() {
            true => 0,
            false => self.confirm(confirms),
        };
        for command in answers.into_commands(confirm) {
            self.frames.queue().push(&command);
        }
        detached && self.is_silent()
    }

    fn grant(&mut self, events: u64, bytes: u64, handed_over: u64, confirm_handed_over: bool) {
        self.told = self.told.max(handed_over);
        self.credit_events = self.credit_events.saturating_add_unsigned(events);
        self.credit_bytes = self.credit_bytes.saturating_add_unsigned(bytes);
        let credit = Command::Credit(pb::Credit {
            events,
            bytes,
            handed_over: self.told,
            confirm_handed_over,
        });
        self.frames.queue().push(&pb::ConsumerCommand {
            command: Some(credit),
        });
    }

    /// Deliveries came, so many and of so many bytes: takes them off the broker's credit. Returns how many came on this stream
    /// so far. One delivery may overdraw the bytes, and a broker that sends whole frames may overdraw a little more.
    ///
    /// # Errors
    /// When the broker ignores the credit, which would fill the memory.
    pub(super) fn deliver(&mut self, events: u64, bytes: u64) -> Result<u64, SubscribeError> {
        self.delivered += events;
        self.credit_events = self.credit_events.saturating_sub_unsigned(events);
        self.credit_bytes = self.credit_bytes.saturating_sub_unsigned(bytes);
        let slack = self.credit_bytes_max.saturating_add(FRAME_BYTES_MAX as u64);
        let events_over = is_overdrawn(self.credit_events, self.credit_events_max);
        if events_over || is_overdrawn(self.credit_bytes, slack) {
            return Err(SubscribeError::Protocol(
                "the broker ignores the consumer's credit".into(),
            ));
        }
        Ok(self.delivered)
    }

    /// A number for a confirmation that `waiters` wait for.
    fn confirm(&mut self, waiters: Vec<Waiter>) -> u64 {
        let number = self.next_confirm;
        self.next_confirm += 1;
        self.confirms.push_back((number, waiters));
        number
    }

    /// The broker has confirmed these.
    pub(super) fn confirmed(&mut self, numbers: &[u64], shared: &Shared) {
        for number in numbers {
            let asked = self.confirms.iter().position(|(asked, _)| asked == number);
            let Some((_, waiters)) = asked.and_then(|index| self.confirms.remove(index)) else {
                continue;
            };
            for waiter in waiters {
                // Nobody may be waiting any more.
                let _ = waiter.send(Ok(()));
            }
        }
        let nothing_asked = self.confirms.is_empty() && self.is_silent();
        let mut state = shared.state();
        if nothing_asked && state.answers.is_empty() {
            state.unconfirmed = false;
        }
    }

    /// The stream is over. Returns who waits for confirmations that will not come.
    pub(super) fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.confirms.into_iter().flat_map(|(_, waiters)| waiters)
    }
}

fn is_overdrawn(left: i64, by: u64) -> bool {
    left < -i64::try_from(by).unwrap_or(i64::MAX)
}
