//! What a consumer, its deliveries and its driver share: what came and waits for the application, what that said and took, until the
//! driver tells the broker, and how the stream fares. No task and no stream here.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::ahead::Ahead;
use super::buffer::Buffer;
use super::come_again::ComeAgain;
use super::delivery::Encoded;
use super::in_hand::InHand;
use super::not_held::NotHeld;
use super::unsent_answers::Answers;
use super::wanted::Wanted;
use crate::error::SubscribeError;

/// Whether acks are durable.
pub(super) type Confirmation = Result<(), SubscribeError>;

/// Somebody who waits for a confirmation.
pub(super) type Waiter = oneshot::Sender<Confirmation>;

/// The broker lets nothing be held for longer without another word.
const HELD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a consumer, its deliveries and its driver share.
pub(super) struct Shared {
    /// From when the clock of deadlines counts.
    epoch: Instant,
    state: Mutex<State>,
    /// Something for the driver to send, or the consumer is gone.
    pub(super) wake: Notify,
}

/// What there is for the application.
pub(super) enum Next {
    /// The delivery `number` of its stream. `late` says that some time has passed since the one before, so that it is worth a look
    /// at the clock.
    Delivery {
        encoded: Encoded,
        number: u64,
        late: bool,
        /// 0 when it has none.
        ack_deadline_ms: u64,
    },
    /// There will be no more, since this happened.
    Failed(SubscribeError),
    /// There will be no more.
    Ended,
    /// Nothing yet.
    Wait,
    /// The broker has to hear, or be told, first that the application gets it.
    NotHeard,
}

/// Which delivery is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Which {
    pub(super) position: u64,
    /// The generation of its stream and its number there, where its handle is at hand; otherwise it is of the stream there is now.
    pub(super) of_stream: Option<(u64, u64)>,
}

/// What is changed under the lock. The longest that takes is one pass over what waits for the application, when the broker says what is
/// not held any more or what waits is extended.
#[derive(Default)]
pub(super) struct State {
    /// What came and waits for the application.
    pub(super) buffer: Buffer,
    /// The application waits for it to be filled.
    waiting: Option<Waker>,
    /// What the application is told in the end, and that it is the end.
    failure: Option<SubscribeError>,
    is_closed: bool,
    pub(super) answers: Answers,
    /// What was answered and not held any more.
    pub(super) not_held: NotHeld,
    /// What came on the present stream more than once.
    pub(super) come_again: ComeAgain,
    /// Milliseconds of the subscription's ack deadline.
    pub(super) ack_deadline_ms: u64,
    /// Why nothing comes at present.
    pub(super) obstacle: Option<String>,
    /// Counts the streams; answers to what an earlier one delivered are dropped.
    pub(super) generation: u64,
    /// The subscription wants no answers.
    pub(super) answers_unwanted: bool,
    /// How many deliveries there may be for the application.
    pub(super) wanted: Wanted,
    /// Credit to grant: events and bytes.
    pub(super) taken_events: u64,
    pub(super) taken_bytes: u64,
    /// The same of what was given back to the broker before the application took it. It is granted once that takes something again.
    pub(super) parked_events: u64,
    pub(super) parked_bytes: u64,
    /// Whoever waits for confirmation of all acks so far.
    pub(super) confirms: Vec<Waiter>,
    /// Counts the answers, and those of them that are confirmed, or lost for good.
    answered: u64,
    confirmed: u64,
    /// Unconfirmed acks went down with a connection, and nobody was told.
    pub(super) acks_lost: bool,
    /// Deliveries of the present stream that the application has got, or that were passed over, and what it still has of them.
    pub(super) handed_over: u64,
    pub(super) in_hand: InHand,
    /// How far it may go ahead of what the broker was told of that.
    pub(super) ahead: Ahead,
    /// The present stream moves to another connection, and hands nothing over: what waits for the application is given back.
    pub(super) moves: bool,
    /// The driver wants to be woken when that rises.
    pub(super) tell: bool,
    /// The application waits until the broker has heard that so many are handed over.
    pub(super) ask: Option<u64>,
    /// So many the broker has heard of.
    pub(super) heard: u64,
    /// The application, when it waits for that.
    pub(super) waits_for_heard: Option<Waker>,
    /// The same, when it waits for the next word of what was handed over.
    pub(super) waits_for_word: Option<Waker>,
    /// The consumer is gone; the driver ends.
    pub(super) detached: bool,
    /// It went down with a panic, and perhaps because of what it had in hand.
    pub(super) failed: bool,
    /// The driver has ended, and why.
    pub(super) ended: Option<SubscribeError>,
}

impl State {
    /// Frames came, or the end: whoever waits for that looks again.
    pub(super) fn wake_waiting(&mut self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// The stream ends, or all of it: whoever waits for what is said or heard on it looks again.
    fn wake_told(&mut self) {
        let waiting = [self.waits_for_heard.take(), self.waits_for_word.take()];
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// The stream is over: what came on it, and is delivered again, is nothing to the application any more.
    pub(super) fn lose_stream(&mut self) {
        self.generation += 1;
        self.buffer.drop_stale();
        self.answers = Answers::default();
        (self.taken_events, self.taken_bytes) = (0, 0);
        (self.parked_events, self.parked_bytes) = (0, 0);
        (self.handed_over, self.heard, self.ask) = (0, 0, None);
        self.ahead = Ahead::default();
        self.moves = false;
        self.in_hand.reset();
        self.not_held.forget_stream();
        self.come_again.forget_stream();
        self.wake_told();
    }

    /// So many answers were recorded so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// So many of them, when some are not confirmed.
    pub(super) fn unconfirmed(&self) -> Option<u64> {
        (self.answered > self.confirmed).then_some(self.answered)
    }

    /// The broker has confirmed the first `answered` of all answers.
    pub(super) fn confirm_first(&mut self, answered: u64) {
        self.confirmed = self.confirmed.max(answered);
    }

    /// No answer so far will be confirmed any more. Returns whether some would have had to be.
    pub(super) fn lose_unconfirmed(&mut self) -> bool {
        let lost = self.answered > self.confirmed;
        self.confirmed = self.answered;
        lost
    }

    /// Asks for confirmation; `None` when there is nothing to confirm. What was not held is told along with the confirmation, so that
    /// everything else is durable once it is told.
    pub(super) fn confirm(
        &mut self,
    ) -> Result<Option<oneshot::Receiver<Confirmation>>, SubscribeError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        if std::mem::take(&mut self.acks_lost) {
            return Err(SubscribeError::AcksLost);
        }
        if self.answered == self.confirmed {
            return self.not_held.take_error().map_or(Ok(None), Err);
        }
        let (sender, receiver) = oneshot::channel();
        self.confirms.push(sender);
        Ok(Some(receiver))
    }
}

impl State {
    /// So long the application may have what it gets or extends at this moment.
    fn held_ms(&self, extend_for: Option<Duration>) -> u64 {
        held_ms(self.ack_deadline_ms, extend_for)
    }

    // The application takes something again: the broker may send in place of what was given back meanwhile.
    fn unpark(&mut self) -> bool {
        let parked = self.parked_events > 0;
        self.wanted.passed_over(self.parked_events);
        self.taken_events += std::mem::take(&mut self.parked_events);
        self.taken_bytes += std::mem::take(&mut self.parked_bytes);
        parked
    }

    fn nothing(&mut self, context: &Context<'_>) -> Next {
        if let Some(error) = self.failure.take() {
            return Next::Failed(error);
        }
        if self.is_closed {
            return Next::Ended;
        }
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(context.waker()),
            waiting => *waiting = Some(context.waker().clone()),
        }
        Next::Wait
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        formatter
            .debug_struct("Shared")
            .field("generation", &state.generation)
            .field("detached", &state.detached)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// A panic elsewhere while the lock was held leaves the state usable: it is only moved in whole steps.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the last answer to a delivery.
    pub(super) fn settle(&self, which: Which, record: impl FnOnce(&mut Answers)) {
        self.answer(which, |state| {
            record(&mut state.answers);
            let number = which.of_stream.map(|(_, number)| number);
            state.in_hand.settle(number, which.position);
            state.come_again.settle(which.position);
            true
        });
    }

    /// Records that the deadline of one is extended, unless `is_answered` says that this is over. Returns when it passes then, as for
    /// [`expires_after`](Self::expires_after).
    pub(super) fn extend(
        &self,
        which: Which,
        extend_for: Option<Duration>,
        is_answered: impl FnOnce() -> bool,
    ) -> Option<u64> {
        let now_ms = self.clock_ms(Instant::now());
        let mut expires_ms = None;
        self.answer(which, |state| {
            if is_answered() {
                return false;
            }
            let until_ms = now_ms.saturating_add(state.held_ms(extend_for));
            let number = which.of_stream.map(|(_, number)| number);
            state
                .in_hand
                .extend(number, which.position, until_ms, now_ms);
            state.answers.extend(which.position, extend_for);
            expires_ms = Some(until_ms);
            true
        });
        expires_ms
    }

    // Records what `record` does, if that says that it is an answer.
    fn answer(&self, which: Which, record: impl FnOnce(&mut State) -> bool) {
        let wake = {
            let mut state = self.state();
            if state.answers_unwanted || state.ended.is_some() || state.detached {
                return;
            }
            let generation = which.of_stream.map(|(generation, _)| generation);
            if generation.is_some_and(|generation| generation != state.generation) {
                state.acks_lost = true;
                return;
            }
            let number = which.of_stream.map(|(_, number)| number);
            if number.is_some_and(|number| state.come_again.has_since(which.position, number)) {
                // By its position the broker would take it for an answer to what came since.
                state.not_held.add_earlier(which.position);
                return;
            }
            let wake = state.answers.is_empty();
            let is_answer = record(&mut state);
            state.answered += u64::from(is_answer);
            wake && is_answer
        };
        if wake {
            self.wake.notify_one();
        }
    }

    /// From now on deliveries may be answered by their positions.
    pub(super) fn count_positions(&self) {
        let mut state = self.state();
        let handed_over = state.handed_over;
        state.in_hand.count_positions(handed_over);
    }

    /// What there is for the application, which gets it. `context` is woken when there is more, or when the broker has heard what
    /// it must hear of first.
    pub(super) fn next(&self, context: &Context<'_>) -> Next {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut wakes = state.unpark();
        let next = loop {
            let Some(front) = state.buffer.front() else {
                break state.nothing(context);
            };
            let has_deadlines = front.discard_when_stale;
            if has_deadlines && state.moves {
                break state.nothing(context);
            }
            let hear_first = front.hear_first.filter(|_| has_deadlines);
            if let Some(deliveries) = hear_first.filter(|heard| *heard > state.heard) {
                state.ask = Some(deliveries);
                state.waits_for_heard = Some(context.waker().clone());
                wakes = true;
                break Next::NotHeard;
            }
            if has_deadlines && !state.ahead.may_hand_over(state.handed_over + 1) {
                state.waits_for_word = Some(context.waker().clone());
                wakes = true;
                break Next::NotHeard;
            }
            let late = front.is_whole() || state.tell;
            let Some(encoded) = front.take() else {
                continue;
            };
            if !has_deadlines {
                break Next::Delivery {
                    encoded,
                    number: 0,
                    late: true,
                    ack_deadline_ms: 0,
                };
            }
            wakes |= std::mem::take(&mut state.tell);
            if encoded.is_void {
                // Nobody gets it here, and its credit is for another.
                state.handed_over += 1;
                state.ahead.pass_over(1);
                state.wanted.passed_over(1);
                state.taken_events += 1;
                state.taken_bytes += encoded.bytes();
                wakes = true;
                continue;
            }
            state.handed_over += 1;
            state.wanted.took(1);
            wakes |= state.ahead.handed_over(state.handed_over);
            state.in_hand.hand_over(state.handed_over, encoded.position);
            break Next::Delivery {
                encoded,
                number: state.handed_over,
                late,
                ack_deadline_ms: state.ack_deadline_ms,
            };
        };
        drop(guard);
        if wakes {
            self.wake.notify_one();
        }
        next
    }

    /// Something came.
    pub(super) fn fill(&self, fill: impl FnOnce(&mut State)) {
        let mut state = self.state();
        fill(&mut state);
        state.wake_waiting();
    }

    /// There will be no more; `failure` says why, when the application is to be told.
    pub(super) fn close(&self, failure: Option<SubscribeError>) {
        let mut state = self.state();
        state.failure = state.failure.take().or(failure);
        state.is_closed = true;
        state.wake_waiting();
        state.wake_told();
    }

    /// A look at the clock: from now on the deadlines count of what the application got since the last one.
    pub(super) fn look_at_clock(&self, state: &mut State) {
        if state.in_hand.is_any_fresh() {
            let now_ms = self.clock_ms(Instant::now());
            let lasts_ms = state.held_ms(None);
            state.in_hand.look(state.handed_over, now_ms, lasts_ms);
        }
    }

    /// Until when the application holds any of what it has in hand, if it answers nothing; `None` when it holds nothing.
    pub(super) fn held_until(&self, state: &State) -> Option<Instant> {
        let now_ms = self.clock_ms(Instant::now());
        let until_ms = state.in_hand.until_ms(now_ms, state.held_ms(None))?;
        self.epoch.checked_add(Duration::from_millis(until_ms))
    }

    /// When the ack deadline passes of what was handed over at `moment`, in milliseconds of the consumer's clock; `u64::MAX` when there is
    /// none.
    pub(super) fn expires_after(&self, moment: Instant, ack_deadline_ms: u64) -> u64 {
        match ack_deadline_ms {
            0 => u64::MAX,
            _ => self
                .clock_ms(moment)
                .saturating_add(held_ms(ack_deadline_ms, None)),
        }
    }

    fn clock_ms(&self, moment: Instant) -> u64 {
        let at = moment.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    /// Whether delivery `number` of a stream, at `position`, is not this consumer's any more, as far as is known here.
    pub(super) fn is_expired(
        &self,
        generation: u64,
        number: u64,
        position: u64,
        expires_ms: u64,
    ) -> bool {
        let state = self.state();
        if expires_ms == u64::MAX {
            return false;
        }
        if state.generation != generation
            || state.not_held.names(position, number)
            || state.come_again.has_since(position, number)
        {
            return true;
        }
        let extended_ms = state.in_hand.extended_until_ms(position);
        self.clock_ms(Instant::now()) >= expires_ms.max(extended_ms.unwrap_or_default())
    }

    pub(super) fn detach(&self) {
        self.state().detached = true;
        self.wake.notify_one();
    }
}

fn held_ms(ack_deadline_ms: u64, extend_for: Option<Duration>) -> u64 {
    let lasts = extend_for.unwrap_or(Duration::from_millis(ack_deadline_ms));
    u64::try_from(lasts.min(HELD_MAX).as_millis()).unwrap_or(u64::MAX)
}
