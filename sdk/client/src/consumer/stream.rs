//! One stream of a consumer, from the broker's yes to its end: what the broker has left of its credit, how far it was told of
//! what the application got, and what it was asked to confirm. What outlives a stream is the driver's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tidegate_wire::compact::Unpacker;
use tidegate_wire::limits::FRAME_BYTES_MAX;
use tidegate_wire::pb;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::stream::Connection;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::ahead::TELL_AFTER;
use super::credit::Credit;
use super::renewal::Renewal;
use super::shared::{Shared, State, Waiter};
use super::unsent_answers::Answers;
use crate::error::SubscribeError;
use crate::frames::FrameStream;
use crate::hello::Established;

/// How long the application has for what is in its hands, at most, when the consumer is to move since the broker has said goodbye but not
/// for how long it takes answers; it may end the stream sooner.
const ANSWERS_MAX: Duration = Duration::from_secs(5);

/// How long nothing is handed out, at most, when the consumer is to move to a connection that is only better: as long as the ack deadline
/// is by default. After that it goes on for a while, and pauses again, since an application that always has several in hand has an end
/// of them only when it gets no more. It moves whenever it happens to have nothing in hand.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long it goes on between two pauses: so long that they cost a tenth of its time, where it holds something for as long as that.
const BETWEEN_PAUSES: Duration = Duration::from_secs(270);

pub(super) struct ConsumerStream<C: Connection> {
    pub(super) frames: FrameStream<C>,
    /// What the broker says shorter since it said it before.
    pub(super) unpacker: Unpacker,
    pub(super) established: Arc<Established<C>>,
    _runs: TaskTrackerToken,
    /// What the broker may send in all before it gets more, and what is left of that.
    credit_events_max: u64,
    credit_bytes_max: u64,
    credit_events: i64,
    credit_bytes: i64,
    /// To where the first two grow.
    credit_events_grown: u64,
    credit_bytes_grown: u64,
    /// When it was given back last.
    granted_at: Instant,
    /// Asked to confirm and not confirmed.
    confirms: VecDeque<Confirm>,
    next_confirm: u64,
    /// The stream wants no answers.
    pub(super) answers_unwanted: bool,
    /// Deliveries that came, and those of them of which the broker was told that the application has got them.
    delivered: u64,
    told: u64,
    /// When to tell the broker of more.
    tell_at: Option<Instant>,
    /// How what waits for the application is kept; nothing where that is not held.
    renewal: Option<Renewal>,
    /// Since when it is to move to another connection, which it does when the application has answered what it has in hand. The
    /// application gets nothing new meanwhile, for a while (`State::moves`).
    moves_since: Option<Instant>,
    /// When to look whether the time for that is over.
    moves_at: Option<Instant>,
}

/// What is said of deliveries that the application has got.
struct Word {
    handed_over: u64,
    /// There will not be more before the next word; 0 says nothing.
    handed_over_max: u64,
    /// The broker is to say that it has heard it.
    confirm: bool,
}

/// What the broker was asked to confirm.
struct Confirm {
    number: u64,
    /// It covers the first so many answers of the consumer.
    answered: u64,
    waiters: Vec<Waiter>,
}

impl<C: Connection> ConsumerStream<C> {
    /// A stream of the connection of `established` on which the broker has `credit`, and wants answers or not.
    pub(super) fn new(
        established: Arc<Established<C>>,
        runs: TaskTrackerToken,
        frames: FrameStream<C>,
        unpacker: Unpacker,
        credit: &Credit,
        answers_unwanted: bool,
        renewal: Option<Renewal>,
    ) -> Self {
        Self {
            frames,
            unpacker,
            established,
            _runs: runs,
            credit_events_max: credit.events,
            credit_bytes_max: credit.bytes,
            credit_events: i64::try_from(credit.events).unwrap_or(i64::MAX),
            credit_bytes: i64::try_from(credit.bytes).unwrap_or(i64::MAX),
            credit_events_grown: credit.events_grown,
            credit_bytes_grown: credit.bytes_grown,
            granted_at: Instant::now(),
            confirms: VecDeque::new(),
            next_confirm: 1,
            answers_unwanted,
            delivered: 0,
            told: 0,
            tell_at: None,
            renewal,
            moves_since: None,
            moves_at: None,
        }
    }

    /// Everything said is sent.
    pub(super) fn is_silent(&mut self) -> bool {
        self.frames.queue().is_empty()
    }

    /// When the broker is to be told of what the application got, or has not got yet, though nothing else was to be said: nothing
    /// before the commands on their way are sent. Or when a stream that moves waits for no more answers, whatever is on its way.
    pub(super) fn timer(&mut self) -> Option<Instant> {
        let renew_at = self.renewal.as_ref().and_then(Renewal::due_at);
        let tell_at = self.tell_at.into_iter().chain(renew_at).min();
        let tell_at = tell_at.filter(|_| self.is_silent());
        tell_at.into_iter().chain(self.moves_at).min()
    }

    /// The application may have got more: when that is to be told.
    pub(super) fn note_handed_over(&mut self, state: &State) {
        if let Some(renewal) = &mut self.renewal {
            renewal.plan(state);
        }
        if self.tell_at.is_none() && state.handed_over > self.told {
            self.tell_at = Some(Instant::now() + TELL_AFTER);
        }
    }

    /// There is another connection. The application gets no more from this stream, and has time to answer what it has in hand: as long as
    /// the broker takes answers when that has said goodbye, and otherwise as long as it holds any of that, though not without anything new.
    pub(super) fn begin_to_move(&mut self, shared: &Shared) {
        self.moves_since = Some(Instant::now());
        self.hand_nothing_over(shared, &mut shared.state());
    }

    /// It is to move.
    pub(super) fn moves(&self) -> bool {
        self.moves_since.is_some()
    }

    /// It moves now: nothing is in the application's hands any more, or its time is over, and the last that it said is on its way. All
    /// answers are asked to be confirmed then.
    pub(super) fn leaves(&mut self, shared: &Shared) -> bool {
        let Some(since) = self.moves_since else {
            return false;
        };
        let (is_silent, now) = (self.is_silent(), Instant::now());
        let is_answered = {
            let mut state = shared.state();
            let held_until = shared.held_until(&state);
            let is_answered = held_until.is_none() && is_silent && state.answers.is_empty();
            let leaves_at = self.leaves_at(since, held_until.unwrap_or(now));
            if !is_answered && now < leaves_at {
                self.moves_at = Some(self.pause(shared, &mut state, since, leaves_at));
                return false;
            }
            state.moves = true;
            is_answered
        };
        if !is_answered {
            // Whoever is gone is seen by the driver.
            let _is_gone = self.gather(shared);
        }
        if let Some(answered) = shared.state().unconfirmed() {
            let confirm = self.confirm(answered, Vec::new());
            for command in Answers::default().into_commands(confirm) {
                self.frames.queue().push(&command);
            }
        }
        true
    }

    // When it leaves, whatever is answered until then, of which the application holds something until `held_until`.
    fn leaves_at(&self, since: Instant, held_until: Instant) -> Instant {
        self.established
            .goodbye
            .get()
            .map_or(held_until, |goodbye| {
                let begun = since.max(goodbye.came_at);
                goodbye.answers_until.unwrap_or(begun + ANSWERS_MAX)
            })
    }

    // Hands nothing over until it leaves, but not for long where it can as well stay. Returns when to look again.
    fn pause(
        &mut self,
        shared: &Shared,
        state: &mut State,
        since: Instant,
        leaves_at: Instant,
    ) -> Instant {
        if self.established.goodbye.initialized() {
            self.hand_nothing_over(shared, state);
            return leaves_at;
        }
        let now = Instant::now();
        let (pauses, lasts) = pause_at(now - since);
        if pauses {
            self.hand_nothing_over(shared, state);
        } else if std::mem::take(&mut state.moves) {
            state.wake_waiting();
            // It grants what was not granted meanwhile.
            shared.wake.notify_one();
        }
        leaves_at.min(now + lasts)
    }

    fn hand_nothing_over(&mut self, shared: &Shared, state: &mut State) {
        if std::mem::replace(&mut state.moves, true) {
            return;
        }
        // What the broker has not heard of yet is not waited for any longer.
        shared.look_at_clock(state);
        if let Some(renewal) = &mut self.renewal {
            renewal.plan(state);
        }
    }

    /// What came on a stream that moves is for others.
    pub(super) fn give_back(&mut self, shared: &Shared) {
        if let Some(renewal) = &mut self.renewal {
            renewal.plan(&shared.state());
        }
        self.renew(shared);
    }

    /// Turns what the application said and took into commands. Returns true when the consumer is gone and there is
    /// nothing left to say.
    pub(super) fn gather(&mut self, shared: &Shared) -> bool {
        self.renew(shared);
        let mut guard = shared.state();
        let state = &mut *guard;
        let is_due = self.tell_at.is_some_and(|at| at <= Instant::now());
        if is_due || state.ahead.is_wanted() {
            self.tell_at = None;
        }
        // Whatever is taken next wakes us, unless we look at it by ourselves.
        state.tell = self.tell_at.is_none();
        shared.look_at_clock(state);
        let waits_for_word = match self.say_word(state, is_due) {
            true => state.waits_for_word.take(),
            false => None,
        };
        let answers = std::mem::take(&mut state.answers);
        let (answered, waiters) = (state.answered(), std::mem::take(&mut state.confirms));
        let detached = state.detached;
        drop(guard);
        waits_for_word.into_iter().for_each(Waker::wake);
        let confirm = match waiters.is_empty() {
            true => 0,
            false => self.confirm(answered, waiters),
        };
        for command in answers.into_commands(confirm) {
            self.frames.queue().push(&command);
        }
        detached && self.is_silent()
    }

    // Grants what the application took, and says how far it has got and will go, when there is a reason. Returns whether there was.
    fn say_word(&mut self, state: &mut State, is_due: bool) -> bool {
        // A stream that moves needs no more.
        let (mut events, mut bytes) = match state.detached || state.moves {
            true => (0, 0),
            false => (
                std::mem::take(&mut state.taken_events),
                std::mem::take(&mut state.taken_bytes),
            ),
        };
        let ask = state.ask.take();
        let handed_over = state.handed_over.max(ask.unwrap_or_default());
        let (more_events, more_bytes) = self.grow(events, bytes);
        (events, bytes) = (events + more_events, bytes + more_bytes);
        if events > 0 {
            events = state.wanted.grant(events);
        }
        let is_new = handed_over > self.told && (is_due || state.detached);
        let has_credit = events > 0 || bytes > 0;
        if !(has_credit || is_new || ask.is_some() || state.ahead.is_wanted()) {
            return false;
        }
        let handed_over = handed_over.max(self.told);
        let round_trip = self.established.connection.round_trip();
        let word = Word {
            handed_over,
            handed_over_max: state.ahead.say(handed_over, is_due, round_trip),
            confirm: ask.is_some(),
        };
        self.grant(events, bytes, &word);
        true
    }

    /// What waits for the application is extended, or given back.
    fn renew(&mut self, shared: &Shared) {
        let Some(renewal) = self.renewal.as_mut().filter(|renewal| renewal.is_due()) else {
            return;
        };
        let round_trip = self.established.connection.round_trip();
        let (commands, word) = {
            let mut state = shared.state();
            if state.detached {
                return;
            }
            let before = state.handed_over;
            let commands = renewal.commands(&mut state);
            let given_back = state.handed_over - before;
            state.ahead.pass_over(given_back);
            let handed_over = state.handed_over.max(self.told);
            let word = Word {
                handed_over,
                handed_over_max: state.ahead.bound(handed_over, round_trip),
                confirm: false,
            };
            (commands, word)
        };
        if matches!(commands.first(), Some(Command::GiveBack(_))) {
            self.grant(0, 0, &word);
        }
        for command in commands {
            let command = Some(command);
            self.frames.queue().push(&pb::ConsumerCommand { command });
        }
    }

    /// The application took so much since the last time: how much more than that the broker should have, so that it never waits for
    /// credit that is on its way. That is the case when all of it lasts for two round trips.
    fn grow(&mut self, events: u64, bytes: u64) -> (u64, u64) {
        let (events_grown, bytes_grown) = (self.credit_events_grown, self.credit_bytes_grown);
        let is_grown =
            self.credit_events_max >= events_grown && self.credit_bytes_max >= bytes_grown;
        if is_grown || events == 0 {
            return (0, 0);
        }
        let now = Instant::now();
        let took = now - self.granted_at;
        self.granted_at = now;
        let round_trip = self.established.connection.round_trip();
        let more = |taken: u64, now: &mut u64, grown: u64| {
            // What was taken, in two round trips instead of `took`.
            let wanted = 2 * u128::from(taken) * round_trip.as_micros();
            let lasts = u128::from(*now) * took.as_micros() >= wanted;
            let more = if lasts || *now >= grown {
                0
            } else {
                (grown - *now).min(*now)
            };
            *now += more;
            more
        };
        (
            more(events, &mut self.credit_events_max, events_grown),
            more(bytes, &mut self.credit_bytes_max, bytes_grown),
        )
    }

    fn grant(&mut self, events: u64, bytes: u64, word: &Word) {
        if word.handed_over > self.told
            && let Some(renewal) = &mut self.renewal
        {
            renewal.renewed();
        }
        self.told = self.told.max(word.handed_over);
        self.credit_events = self.credit_events.saturating_add_unsigned(events);
        self.credit_bytes = self.credit_bytes.saturating_add_unsigned(bytes);
        let credit = Command::Credit(pb::Credit {
            events,
            bytes,
            handed_over: self.told,
            handed_over_max: word.handed_over_max,
            confirm_handed_over: word.confirm,
        });
        self.frames.queue().push(&pb::ConsumerCommand {
            command: Some(credit),
        });
    }

    /// Deliveries came, so many and of so many bytes: takes them off the broker's credit. Returns how many came on this stream
    /// so far. One delivery may overdraw the bytes, however large it is, and a broker that sends whole frames may overdraw a little
    /// more.
    ///
    /// # Errors
    /// When the broker ignores the credit, which would fill the memory.
    pub(super) fn deliver(
        &mut self,
        events: u64,
        bytes: u64,
        shared: &Shared,
    ) -> Result<u64, SubscribeError> {
        let nothing_waits = {
            let mut state = shared.state();
            if self.answers_unwanted {
                // It is the application's already, and comes on no other stream.
                state.wanted.took(events);
            }
            self.delivered == state.handed_over
        };
        if let (true, Some(renewal)) = (nothing_waits, &mut self.renewal) {
            // This is fresh.
            renewal.renewed();
        }
        let slack = self.credit_bytes_max.saturating_add(FRAME_BYTES_MAX as u64);
        let was_over = is_overdrawn(self.credit_bytes, slack);
        self.delivered += events;
        self.credit_events = self.credit_events.saturating_sub_unsigned(events);
        self.credit_bytes = self.credit_bytes.saturating_sub_unsigned(bytes);
        let events_over = is_overdrawn(self.credit_events, self.credit_events_max);
        if events_over || was_over {
            return Err(SubscribeError::Protocol(
                "the broker ignores the consumer's credit".into(),
            ));
        }
        Ok(self.delivered)
    }

    /// A number for a confirmation of the first `answered` answers, which `waiters` wait for.
    fn confirm(&mut self, answered: u64, waiters: Vec<Waiter>) -> u64 {
        let number = self.next_confirm;
        self.next_confirm += 1;
        self.confirms.push_back(Confirm {
            number,
            answered,
            waiters,
        });
        number
    }

    /// Something was asked to be confirmed and is not yet.
    pub(super) fn awaits_confirmation(&self) -> bool {
        !self.confirms.is_empty()
    }

    /// Deliveries that came so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The broker has confirmed these. Whoever waits is told of answers that were too late.
    pub(super) fn confirmed(&mut self, numbers: &[u64], shared: &Shared) {
        if numbers.is_empty() {
            return;
        }
        let not_held = shared.state().not_held.take_error();
        let result = not_held.map_or(Ok(()), Err);
        let mut told = result.is_ok();
        for number in numbers {
            let mut asked = self.confirms.iter();
            let asked = asked.position(|confirm| confirm.number == *number);
            let Some(confirm) = asked.and_then(|index| self.confirms.remove(index)) else {
                continue;
            };
            shared.state().confirm_first(confirm.answered);
            for waiter in confirm.waiters {
                // Nobody may be waiting any more.
                told |= waiter.send(result.clone()).is_ok();
            }
        }
        if let (false, Err(SubscribeError::NotHeld { positions, more })) = (told, result) {
            // Whoever asked has gone: the next one who does is told.
            shared.state().not_held.tell_again(positions, more);
        }
    }

    /// The stream is over. Returns who waits for confirmations that will not come.
    pub(super) fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.confirms
            .into_iter()
            .flat_map(|confirm| confirm.waiters)
    }
}

// Whether a stream pauses that may as well stay and is to move for so long already, and for how long it goes on with that.
fn pause_at(moves_for: Duration) -> (bool, Duration) {
    let round = PAUSE_MAX + BETWEEN_PAUSES;
    let begun = Duration::from_nanos_u128(moves_for.as_nanos() % round.as_nanos());
    match begun < PAUSE_MAX {
        true => (true, PAUSE_MAX - begun),
        false => (false, round - begun),
    }
}

fn is_overdrawn(left: i64, by: u64) -> bool {
    left < -i64::try_from(by).unwrap_or(i64::MAX)
}
