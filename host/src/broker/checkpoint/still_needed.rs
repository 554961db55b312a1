//! What is still needed: which events some subscription has not acked or not judged yet, so that a checkpoint keeps them and the disk
//! space of the others can be given back. Only asked here; what follows is its callers' business.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::broker::event_log::tail::what_stays;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{Block, Position, TopicId, TopicName};
use crate::state::SubscriptionState;
use crate::state::release::{Release, Stays};
use crate::store::{BlockMeta, JournalSegment, ReadError, StoreReader};

/// Keeps what `live` needs. `look` sees its state under the same lock, so that it knows of nothing that is not kept. `names` are those of
/// all topics with events in the range.
pub(super) fn keep_for<T>(
    release: &mut Release,
    live: &LiveSubscription,
    names: &HashMap<TopicId, TopicName>,
    look: impl FnOnce(&SubscriptionState) -> T,
) -> T {
    let (seen, undecided_after) = {
        let state = live.read();
        (look(&state), release.keep_pending(&state))
    };
    if let Some(after) = undecided_after {
        let selected = names.iter().filter(|(_, name)| live.may_select(name));
        release.keep_after(after, selected.map(|(id, _)| *id));
    }
    seen
}

/// Whether one of `subscriptions` needs one of these events.
pub(super) fn is_needed(
    subscriptions: &[Arc<LiveSubscription>],
    events: &Option<RangeInclusive<Position>>,
) -> bool {
    let needs = |range: &RangeInclusive<Position>| {
        let mut subscriptions = subscriptions.iter();
        subscriptions.any(|live| live.read().needs(range.clone()))
    };
    events.as_ref().is_some_and(needs) && !planted!(NeededForgotten)
}

/// Whether at most half of the events in a file have to move for it to go: more would take as much of the disk as it frees.
pub(super) fn is_mostly_acked(
    subscriptions: &[Arc<LiveSubscription>],
    segment: &JournalSegment,
) -> bool {
    let Some(range) = &segment.positions else {
        return true;
    };
    let pending = subscriptions.iter().map(|live| {
        let state = live.read();
        let is_decided = state.evaluated_through() >= *range.end();
        is_decided.then(|| state.pending_within(range.clone()))
    });
    let pending: Option<u64> = pending.sum();
    pending.is_some_and(|pending| pending <= segment.events / 2)
}

/// The block with only what stays; nothing is read of a block that leaves as a whole.
pub(super) fn keep(
    release: &Release,
    reader: &StoreReader,
    meta: &BlockMeta,
) -> Result<Option<Block>, ReadError> {
    if release.stays(meta.topic, meta.first_position, meta.last_position) == Stays::Nothing {
        return Ok(None);
    }
    // The journal holds it until this checkpoint is done; going on without it would lose it.
    let Some(block) = reader.block_at(meta.first_position)? else {
        let what = format!(
            "no block at position {}, which somebody needs,",
            meta.first_position
        );
        return Err(ReadError::damaged(Path::new("journal"), what));
    };
    let staying = what_stays(release, &block)?;
    Ok(staying.map(Arc::unwrap_or_clone))
}
