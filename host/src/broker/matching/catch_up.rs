//! The catch-up: it shows older events to a subscription without filters that starts in the past, until that can follow the router
//! with the others. When there has to be one, the supervisor decides.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::delivery::context::DeliveryContext;
use crate::broker::event_log::unreadable_conditions;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::broker::subscriptions::unfiltered_followers::Join;
use crate::domain::{Block, BlockError, Name, Position};
use crate::runtime::spawn::TaskName;
use crate::state::filter_chain::FilterChain;
use crate::state::range_map::push_range;
use crate::telemetry::error_line::with_causes;

/// Bytes of blocks a catch-up reads at once.
const CATCH_UP_BYTES: usize = bound!(1024 * 1024, 4 * 1024);
const RETRY: Duration = Duration::from_secs(1);

/// What the task of its catch-up is called.
pub(super) fn task_name(subscription: &Name) -> TaskName {
    format!("catch-up of {subscription}").into()
}

/// Shows a subscription without filters what was committed before it joined, until it can follow the router or the fence of
/// its next chain is reached.
pub(super) async fn run(
    context: Arc<DeliveryContext>,
    live: Arc<LiveSubscription>,
    judging: Arc<FilterChain>,
) {
    let mut end = context.log.watch_end();
    let mut stands_at = None;
    while !live.is_deleted() && !context.shutdown.is_cancelled() {
        let changed = live.woken();
        tokio::pin!(changed);
        // Registered before looking, so that no change is missed.
        changed.as_mut().enable();
        let router = match context.registry.followers.join(&live) {
            Join::Joined => return,
            Join::Behind(router) => router,
            Join::Changing => Position(u64::MAX),
        };
        let (revision, next, fence) = {
            let state = live.read();
            let fence = state.judges_until().0.saturating_add(1);
            (state.revision(), state.evaluated_through().next(), fence)
        };
        if revision != judging.revision {
            return;
        }
        // Not past what is readable: a fence may lie ahead of it for a moment.
        let readable = context.log.end();
        let stop = router.min(Position(fence)).min(readable);
        if next >= stop {
            tokio::select! {
                biased;
                () = changed => {}
                _ = end.wait_for(|end| *end > readable) => {}
                () = context.shutdown.cancelled() => return,
            }
            continue;
        }
        if let Err((error, events)) = step(&context, &live, &judging, next, stop).await {
            if stands_at.replace(next) != Some(next) {
                reached!(CatchUpStands);
                live.stand_at(judging.revision, stands_at);
                context.metrics.unreadable(events);
                tracing::error!(position = %next, error, "cannot read the log to catch up; the subscription waits, and it is tried again");
            }
            tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        } else if stands_at.take().is_some() {
            live.stand_at(judging.revision, None);
        }
    }
}

// Looks at events from `next` on, of those before `stop`. An error says why, and how many wait for that.
async fn step(
    context: &DeliveryContext,
    live: &Arc<LiveSubscription>,
    judging: &FilterChain,
    next: Position,
    stop: Position,
) -> Result<(), (String, u64)> {
    let blocks = context.log.blocks_from(next, CATCH_UP_BYTES).await;
    let blocks = blocks.map_err(|error| {
        (
            with_causes(&error),
            unreadable_conditions::waits_for(&error, next),
        )
    })?;
    let mut ranges = Vec::new();
    let mut after = stop;
    for block in &blocks {
        if block.first_position >= stop {
            break;
        }
        after = block.last_position().next().min(stop);
        if selects(context, live, judging, block) {
            present(block, next, &mut ranges).map_err(|error| (error.to_string(), 1))?;
        }
    }
    // All blocks lay beyond the stop, or there was none: nothing is left in between.
    let cut_short = blocks
        .last()
        .is_some_and(|block| block.last_position().next() < stop);
    if !cut_short || planted!(CatchUpCutShort) {
        after = stop;
    }
    let through = Position(after.0.saturating_sub(1));
    live.apply(|state, _| {
        if state.revision() == judging.revision {
            state.observe(through, ranges);
        }
    });
    Ok(())
}

fn selects(
    context: &DeliveryContext,
    live: &LiveSubscription,
    judging: &FilterChain,
    block: &Block,
) -> bool {
    let topic = context.topic_of(block);
    topic.is_some_and(|topic| judging.selects(&live.settings().spec, &topic, block.mark))
}

// Positions a block still has, from `from` on.
fn present(
    block: &Block,
    from: Position,
    ranges: &mut Vec<std::ops::RangeInclusive<Position>>,
) -> Result<(), BlockError> {
    if block.kept.is_none() {
        push_range(
            ranges,
            block.first_position.max(from)..=block.last_position(),
        );
        return Ok(());
    }
    for (index, _) in block.events()? {
        let position = block.position(index);
        if position >= from {
            push_range(ranges, position..=position);
        }
    }
    Ok(())
}
