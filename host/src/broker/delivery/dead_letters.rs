//! Events that a subscription gave up go to its dead-letter topic: one task writes them, each together with the
//! ack that takes it out of the subscription, in one group. An event that cannot be written stays pending. A letter that
//! is given up is written once more; that one is dropped, so that no circle of subscriptions goes on for ever.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::field::display;

use super::context::DeliveryContext;
use super::fetcher::count;
use super::letter_headers::{
    ATTEMPTS_HEADER, POSITION_HEADER, REASON_HEADER, SUBSCRIPTION_HEADER, say_why,
};
use super::unreadable_in_hand::UnreadableEvents;
use crate::auth::authorize;
use crate::broker::commit::request::{Appended, Control, Outputs};
use crate::broker::error::Unavailable;
use crate::broker::subscriptions::dead_letter_counts::DeadLetterCounts;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::hops;
use crate::domain::{BlockOrigin, Event, EventRef, Header, Position, SubscriptionId, TopicName};
use crate::state::range_map::push_range;
use crate::state::{GiveUpReason, GivenUp};
use crate::store::ReadError;

/// Events of one subscription written in one group.
const BATCH_MAX: usize = 256;
/// Bytes of letters that are handed to the committer as one item, and the letter that goes beyond. One item is in one group.
const ITEM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches of one subscription that are written before others have their turn.
const TURN_BATCHES: usize = 16;
/// The same when some of it cannot be read, after which the subscription rests.
const FAILING_TURN_BATCHES: usize = 16 * TURN_BATCHES;
/// How long what cannot be written is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Writes dead letters until shutdown.
pub(crate) async fn run(
    context: Arc<DeliveryContext>,
    mut subscriptions: mpsc::UnboundedReceiver<SubscriptionId>,
    shutdown: CancellationToken,
) {
    loop {
        let subscription = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            subscription = subscriptions.recv() => match subscription {
                Some(subscription) => subscription,
                None => return,
            },
        };
        // Nobody waits for the letters of one that was deleted.
        let Some(live) = context.registry.by_id(subscription) else {
            continue;
        };
        if let Err(denied) = authorize::standing(&context.policy, &live.settings().spec) {
            if !live.log_limits.letters_wait.swap(true, Ordering::Relaxed) {
                tracing::warn!(subscription = %live.name, reason = %denied, "dead letters wait: whoever the subscription belongs to lacks a right; they are written when it is granted, or when the subscription is given to another owner");
            }
            retry_later(&context, &live, &shutdown);
            continue;
        }
        live.log_limits.letters_wait.store(false, Ordering::Relaxed);
        let later = write_turn(&context, &live, &shutdown).await;
        if later.is_empty() {
            // Queues it behind the others if there is more.
            live.letters_done();
            continue;
        }
        live.apply(|state, _| later.iter().for_each(|range| state.give_up_failed(range)));
        retry_later(&context, &live, &shutdown);
    }
}

// Writes a bounded part of what waits in one subscription. Returns what could not be written now: it is taken up again later, so
// that what cannot be read does not stand before the rest.
async fn write_turn(
    context: &DeliveryContext,
    live: &Arc<LiveSubscription>,
    shutdown: &CancellationToken,
) -> Vec<RangeInclusive<Position>> {
    let mut turn = WritingTurn::default();
    while !live.is_deleted() && !shutdown.is_cancelled() {
        let given_up = live.apply(|state, _| state.take_given_up(BATCH_MAX));
        if given_up.is_empty() {
            break;
        }
        let left = write(context, live, &given_up, &mut turn.unreadable).await;
        if turn.ends_with(given_up.len(), left) {
            break;
        }
    }
    say_unreadable(live, &turn.unreadable);
    turn.later
}

fn say_unreadable(live: &LiveSubscription, unreadable: &UnreadableEvents) {
    let ranges = unreadable.ranges();
    if let Some(first) = ranges.first()
        && let Some(events) = live.log_limits.unreadable.admit(count(ranges))
    {
        tracing::error!(subscription = %live.name, position = %first.start(), events, error = unreadable.why(), "events that were given up cannot be read; they stay pending and are tried again");
    }
}

/// How far a subscription's turn is.
#[derive(Default)]
struct WritingTurn {
    /// Batches of which something was written.
    written: usize,
    /// What could not be written.
    later: Vec<RangeInclusive<Position>>,
    /// Those of it that cannot be read.
    unreadable: UnreadableEvents,
}

impl WritingTurn {
    // Of `taken`, all but `left` was written. Returns whether that was the last batch of the turn. What cannot be read comes first
    // again in the next one, so that it does not count: however much it is, something else is written in each turn.
    fn ends_with(&mut self, taken: usize, left: Unwritten) -> bool {
        // The committer takes no more now: further ones would be read in vain.
        let is_refused = !left.refused.is_empty();
        self.written += usize::from(left.unreadable.len() + left.refused.len() < taken);
        for position in left.unreadable.into_iter().chain(left.refused) {
            push_range(&mut self.later, position..=position);
        }
        let batches_max = match self.later.is_empty() {
            true => TURN_BATCHES,
            false => FAILING_TURN_BATCHES,
        };
        is_refused || self.written >= batches_max
    }
}

// Others' dead letters do not wait meanwhile. The subscription stays marked as queued, so that nothing it gives up in the meantime queues
// it before, or starts a second rest.
fn retry_later(
    context: &Arc<DeliveryContext>,
    live: &Arc<LiveSubscription>,
    shutdown: &CancellationToken,
) {
    let spawner = context.spawner.clone();
    let (live, shutdown) = (live.clone(), shutdown.clone());
    let again = async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(RETRY) => live.letters_done(),
        }
    };
    spawner.passing("dead letters, again", again, |_| {});
}

/// What becomes of an event that was given up.
enum Fate {
    Written {
        letter: Appended,
        /// The topic it came from, where that is known.
        topic: Option<TopicName>,
    },
    /// It is the last of its letters.
    Dropped,
    /// It does not exist any more.
    Gone,
}

/// What could not be written and is to be tried again.
#[derive(Default)]
struct Unwritten {
    unreadable: Vec<Position>,
    /// The committer took no more.
    refused: Vec<Position>,
}

async fn write(
    context: &DeliveryContext,
    live: &LiveSubscription,
    given_up: &[GivenUp],
    unreadable: &mut UnreadableEvents,
) -> Unwritten {
    let mut rising: Vec<&GivenUp> = given_up.iter().collect();
    rising.sort_by_key(|item| item.position);
    let (mut left, mut rest) = (Unwritten::default(), &rising[..]);
    while !rest.is_empty() && left.refused.is_empty() {
        let taken = write_item(context, live, rest, unreadable, &mut left).await;
        rest = rest.get(taken..).unwrap_or_default();
    }
    left.refused.extend(rest.iter().map(|item| item.position));
    left
}

// Writes as many from the front as one item may hold, but one at least. Returns how many these are.
async fn write_item(
    context: &DeliveryContext,
    live: &LiveSubscription,
    rising: &[&GivenUp],
    unreadable: &mut UnreadableEvents,
    left: &mut Unwritten,
) -> usize {
    let dead_letter = live.settings().dead_letter.clone();
    let mut events = Vec::with_capacity(rising.len());
    let mut acks = Vec::with_capacity(rising.len());
    let (mut taken, mut bytes) = (0, 0);
    let mut dropped = Vec::new();
    for &item in rising {
        if bytes >= ITEM_BYTES_MAX {
            break;
        }
        taken += 1;
        // What shares a fate with one before it is not asked for.
        if unreadable.covers(item.position) {
            unreadable.add(item.position);
            left.unreadable.push(item.position);
            continue;
        }
        match fate(context, live, &dead_letter, item).await {
            Ok(Fate::Written { letter, topic }) => {
                say_given_up(context, live, item, (topic.as_ref(), &dead_letter));
                bytes += letter.event.len();
                if !planted!(AckWithoutLetter) {
                    events.push(letter);
                }
            }
            Ok(Fate::Dropped) => dropped.push(item),
            Ok(Fate::Gone) => {}
            Err(error) => {
                unreadable.found(item.position, &error);
                left.unreadable.push(item.position);
                continue;
            }
        }
        push_range(&mut acks, item.position..=item.position);
    }
    if acks.is_empty() {
        return taken;
    }
    // Those with the same mark share blocks.
    events.sort_by_key(|letter| letter.mark);
    let letters = DeadLetterCounts {
        written: events.len() as u64,
        dropped: dropped.len() as u64,
    };
    let refused = acks.clone();
    if planted!(LetterWithoutAck) {
        acks.clear();
    }
    let outputs = |done| {
        Control::Outputs(Outputs {
            subscription: live.id,
            acks,
            events,
            letters,
            done,
        })
    };
    let handed = tokio::select! {
        biased;
        handed = context.inbox.ask(outputs) => handed,
        // Written or not, the events are acked in the same group or not at all, so there is nothing to wait for.
        () = context.shutdown.cancelled() => Err(Unavailable::ShuttingDown.into()),
    };
    match handed {
        Ok(()) => {
            context.metrics.dead_lettered(letters.written);
            say_dropped(context, live, &dropped);
        }
        Err(error) => {
            tracing::warn!(subscription = %live.name, %error, "dead letters could not be written; they stay pending");
            left.refused.extend(refused.iter().flat_map(positions));
        }
    }
    taken
}

fn positions(range: &RangeInclusive<Position>) -> impl Iterator<Item = Position> + use<> {
    (range.start().0..=range.end().0).map(Position)
}

fn say_given_up(
    context: &DeliveryContext,
    live: &LiveSubscription,
    item: &GivenUp,
    (topic, dead_letter): (Option<&TopicName>, &TopicName),
) {
    let Some(events) = live.log_limits.given_up.admit(1) else {
        return;
    };
    let GivenUp {
        position,
        attempts,
        reason,
    } = item;
    let of_topic = topic.map_or_else(String::new, |topic| format!(" of {topic}"));
    let is_kept = context.registry.keeps_letters(dead_letter);
    let topic = topic.map(display);
    let kept = match is_kept {
        true => {
            tracing::info!(subscription = %live.name, topic, %position, dead_letter_topic = %dead_letter, %reason, attempts, events, "event given up");
            ""
        }
        false => {
            tracing::warn!(subscription = %live.name, topic, %position, dead_letter_topic = %dead_letter, %reason, attempts, events, "event given up; its dead letter is not kept, since no subscription is for its topic");
            ", and is not kept, since no subscription is for it"
        }
    };
    let tried = match attempts {
        0 => String::new(),
        1 => " after 1 attempt".to_owned(),
        more => format!(" after {more} attempts"),
    };
    let why = match reason {
        // A line of its own has said how.
        GiveUpReason::FilterFailed(_) | GiveUpReason::TransformFailed(_) => {
            "a plugin failed on it".to_owned()
        }
        reason => reason.to_string(),
    };
    let line = format!(
        "the event at position {position}{of_topic} was given up{tried}; its dead letter goes to {dead_letter}{kept} ({events} since the last line): {why}"
    );
    tell(context, live, line);
}

fn tell(context: &DeliveryContext, live: &LiveSubscription, line: String) {
    let now = context.registry.clock.wall();
    live.log_limits.told.push(now, line);
}

fn say_dropped(context: &DeliveryContext, live: &LiveSubscription, dropped: &[&GivenUp]) {
    let count = dropped.len() as u64;
    context.metrics.letters_dropped(count);
    if let Some(first) = dropped.first()
        && let Some(events) = live.log_limits.letters_dropped.admit(count)
    {
        tracing::warn!(subscription = %live.name, position = %first.position, reason = %first.reason, attempts = first.attempts, events, "dead letters were given up a second time and are dropped; look for subscriptions and routes that read each other's dead letters");
        let line = format!(
            "the dead letter at position {} was given up a second time and is dropped ({events} since the last line): {}",
            first.position, first.reason
        );
        tell(context, live, line);
    }
}

// The letter of an event that is gone because its damage was accepted, without what it said; nothing for any other that does
// not exist any more.
fn what_is_known(live: &LiveSubscription, dead_letter: &TopicName, item: &GivenUp) -> Fate {
    if !matches!(item.reason, GiveUpReason::Unreadable(_)) {
        return Fate::Gone;
    }
    let said = [
        (REASON_HEADER, item.reason.to_string()),
        (SUBSCRIPTION_HEADER, live.name.to_string()),
        (POSITION_HEADER, item.position.to_string()),
        (ATTEMPTS_HEADER, item.attempts.to_string()),
    ];
    let headers = said.map(|(name, value)| Header {
        name: name.to_owned(),
        value,
    });
    let mut event = Event {
        headers: headers.into(),
        ..Event::default()
    };
    hops::set(&mut event, 1);
    let letter = Appended {
        topic: dead_letter.clone(),
        // Whether it was a letter is lost with it. The damage does not repeat itself, so no circle goes on by this.
        mark: BlockOrigin::Letter,
        event: event.encode_to_vec().into(),
    };
    Fate::Written {
        letter,
        topic: None,
    }
}

// An error says why the event cannot be read.
async fn fate(
    context: &DeliveryContext,
    live: &LiveSubscription,
    dead_letter: &TopicName,
    item: &GivenUp,
) -> Result<Fate, ReadError> {
    let Some(block) = context.log.block_at(item.position).await? else {
        return Ok(what_is_known(live, dead_letter, item));
    };
    let damaged = |why: &dyn std::fmt::Display| {
        let what = format!("the event at position {} ({why})", item.position);
        ReadError::damaged(Path::new("store"), what)
    };
    let present = block.present().map_err(|why| damaged(&why))?;
    let Some((place, topic)) = block.place(item.position).zip(context.topic_of(&block)) else {
        return Ok(Fate::Gone);
    };
    let Some(mark) = block.mark.when_given_up() else {
        return Ok(Fate::Dropped);
    };
    let event = present.shared_event(place);
    let hops = EventRef::parse(&event).map_or(0, |event| hops::of(&event));
    let mut event = Event::decode(event).map_err(|why| damaged(&why))?;
    let sequence = block.sequence(block.index(place));
    hops::set(&mut event, hops.saturating_add(1));
    say_why(&mut event, &live.name, (&topic, sequence), item);
    let letter = Appended {
        topic: dead_letter.clone(),
        mark,
        event: event.encode_to_vec().into(),
    };
    Ok(Fate::Written {
        letter,
        topic: Some(topic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::subscriptions::test_rig::Rig;

    #[test]
    fn a_turn_ends_although_something_cannot_be_read_and_not_before_something_was_written() {
        let unreadable = |positions: std::ops::Range<u64>| Unwritten {
            unreadable: positions.map(Position).collect(),
            ..Unwritten::default()
        };
        let mut turn = WritingTurn::default();
        let batches = (1..).find(|_| turn.ends_with(BATCH_MAX, Unwritten::default()));
        assert_eq!(batches, Some(TURN_BATCHES));

        let mut turn = WritingTurn::default();
        let batch = |number: u64| number * BATCH_MAX as u64..(number + 1) * BATCH_MAX as u64;
        for number in 0..2 * FAILING_TURN_BATCHES as u64 {
            assert!(!turn.ends_with(BATCH_MAX, unreadable(batch(number))));
        }
        assert!(!turn.ends_with(BATCH_MAX, unreadable(0..1)), "the rest was");
        let batches = (2..).find(|_| turn.ends_with(BATCH_MAX, Unwritten::default()));
        assert_eq!(batches, Some(FAILING_TURN_BATCHES));

        let refused = Unwritten {
            refused: vec![Position(7)],
            ..Unwritten::default()
        };
        let mut turn = WritingTurn::default();
        assert!(turn.ends_with(BATCH_MAX, refused));
        assert_eq!(turn.later, [Position(7)..=Position(7)]);
    }

    #[test]
    fn what_rests_is_queued_by_nobody_else_and_nothing_is_forgotten() {
        let mut rig = Rig::new(serde_json::json!({}));
        let live = rig.live.clone();
        let give_up = |position| {
            let at = Position(position)..=Position(position);
            live.apply(|state, _| {
                state.observe(Position(position), [at.clone()]);
                state.give_up_pending(at, &GiveUpReason::HopLimit);
            });
        };
        let take = || live.apply(|state, _| state.take_given_up(BATCH_MAX));
        give_up(1);
        rig.letters.try_recv().expect("queued once");
        // Being written, or resting since it could not be: more of the same subscription waits for that.
        let taken = take();
        (2..100).for_each(give_up);
        assert!(rig.letters.try_recv().is_err());
        for item in taken {
            live.apply(|state, _| state.give_up_failed(&(item.position..=item.position)));
        }
        live.letters_done();
        rig.letters.try_recv().expect("queued after that");
        assert_eq!(take().len(), 99);
        live.letters_done();
        assert!(rig.letters.try_recv().is_err(), "there is nothing left");
        give_up(100);
        rig.letters.try_recv().expect("queued again");
    }
}
