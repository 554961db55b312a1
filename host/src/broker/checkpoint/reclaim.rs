//! Reclaiming disk space: a generation that no subscription needs an event of is deleted whole, and never in part. What a checkpoint
//! leaves out of a new one is found in `still_needed`.

use super::still_needed::is_needed;
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::registry::Registry;
use crate::state::release::Release;
use crate::store::{Checkpoints, STATES_KEPT};
use crate::telemetry::error_line::with_causes;

/// Deletes the generations that nobody needs. Answers whether one with events is kept for its state only: a newer state, without these
/// events, lets it go.
pub(super) fn delete_unneeded(
    checkpoints: &mut Checkpoints,
    registry: &Registry,
    log: &Log,
) -> bool {
    let mut state_only = false;
    let generations = checkpoints.generations();
    if generations.is_empty() {
        return false;
    }
    // A subscription that nothing was for lately has not been told how far the router is.
    registry.tell_followers();
    let subscriptions = registry.all();
    let newest = generations.len().saturating_sub(STATES_KEPT);
    for (index, generation) in generations.iter().enumerate() {
        let events = generation.first_position.zip(generation.last_position);
        let events = events.map(|(first, last)| first..=last);
        if is_needed(&subscriptions, &events) {
            continue;
        }
        if index >= newest {
            state_only |= events.is_some();
            continue;
        }
        // Somebody may have come since, and have read the log already.
        let releasing =
            log.release(|| (!is_needed(&registry.all(), &events)).then(|| Release::new(events)));
        let Some(releasing) = releasing else {
            continue;
        };
        match checkpoints.delete_generation(generation.id) {
            Ok(()) => {
                reached!(GenerationDeleted);
                releasing.done();
            }
            Err(error) => {
                tracing::warn!(generation = %generation.id, error = %with_causes(&error), "a generation that nobody needs could not be deleted; it is tried again");
            }
        }
    }
    state_only
}
