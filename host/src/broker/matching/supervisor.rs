//! Brings subscriptions to life, at start, when they are created, and when other filters take over: filtered ones join
//! their lanes, routes get their task, and one that starts in the past catches up with the router on a task of its
//! own. When they are deleted, it ends what runs for them, and nothing that was wrong with that is said any more.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tracing::{Instrument as _, error_span};

use super::lanes::Lanes;
use crate::broker::delivery::parts::DeliveryParts;
use crate::broker::delivery::routes;
use crate::broker::event_log::unreadable;
use crate::broker::subscriptions::followers::Join;
use crate::broker::subscriptions::live::LiveSubscription;
use crate::broker::subscriptions::surroundings::Start;
use crate::domain::{Block, BlockError, Name, Position, SubscriptionId};
use crate::runtime::spawn::{TaskName, panicked};
use crate::state::filter_chain::FilterChain;
use crate::state::range_map::push_range;
use crate::telemetry::conditions::Condition;
use crate::telemetry::error_line::with_causes;

/// Bytes of blocks a catch-up reads at once.
const CATCH_UP_BYTES: usize = 1024 * 1024;
const RETRY: Duration = Duration::from_secs(1);

/// What starting a subscription needs.
pub(crate) struct Supervisor {
    pub(crate) parts: Arc<DeliveryParts>,
    pub(crate) lanes: Arc<Lanes>,
}

impl Supervisor {
    /// Starts what the committer and the lanes say, until shutdown.
    pub(crate) async fn run(self: Arc<Self>, mut starts: mpsc::UnboundedReceiver<Start>) {
        loop {
            let start = tokio::select! {
                biased;
                () = self.parts.shutdown.cancelled() => return,
                start = starts.recv() => start,
            };
            let Some(start) = start else {
                return;
            };
            let by_id = |id| self.parts.registry.by_id(id);
            match start {
                Start::Created(id) => {
                    if let Some(live) = by_id(id) {
                        self.start(live);
                    }
                }
                Start::Filters(id) => {
                    if let Some(live) = by_id(id) {
                        self.follow(&live);
                    }
                }
                Start::Anew(id) => {
                    self.lanes.stop(id);
                    if let Some(live) = by_id(id) {
                        live.forget_followed();
                        self.follow(&live);
                    }
                }
                Start::Deleted(id, name) => self.end(id, &name),
            }
        }
    }

    // Ends what runs for a subscription that was deleted.
    fn end(&self, id: SubscriptionId, name: &Name) {
        self.lanes.stop(id);
        self.lanes.forget_deaths();
        self.parts.chains.forget(id);
        let conditions = self.parts.spawner.conditions();
        conditions.clear(&Condition::TaskDied(catch_up_name(name)));
    }

    /// Starts one subscription.
    pub(crate) fn start(self: &Arc<Self>, live: Arc<LiveSubscription>) {
        self.follow(&live);
        if live.settings().spec.is_route() {
            let this = self.clone();
            let name = format!("route {}", live.name);
            let span = error_span!("route", subscription = %live.name);
            let run = async move { this.run_route(live).await }.instrument(span);
            self.parts.spawner.passing(name, run, |_| {});
        }
    }

    // Lets lanes or a catch-up feed a subscription as the chain that judges now asks for, unless they do already.
    fn follow(&self, live: &Arc<LiveSubscription>) {
        let Some(judging) = live.follow_next() else {
            return;
        };
        if judging.revision > 0 {
            tracing::debug!(subscription = %live.name, revision = judging.revision, fence = %judging.from, "changed filters judge");
        }
        self.lanes.start(live, &judging);
        // Those of the filters before may be needed no more.
        self.lanes.forget_deaths();
        if judging.filters.is_empty() && !live.is_routed() {
            let (parts, unfed) = (self.parts.clone(), live.clone());
            let died = move |why: &str| {
                parts
                    .registry
                    .pause_unfed(&unfed, &format!("its catch-up: {why}"));
                // It may have been deleted at the same time.
                if unfed.is_deleted() {
                    let conditions = parts.spawner.conditions();
                    conditions.clear(&Condition::TaskDied(catch_up_name(&unfed.name)));
                }
            };
            let span = error_span!("catch-up", subscription = %live.name);
            let catch_up = catch_up(self.parts.clone(), live.clone(), judging).instrument(span);
            let name = catch_up_name(&live.name);
            self.parts.spawner.resumable(name, catch_up, died);
        }
    }

    async fn run_route(&self, live: Arc<LiveSubscription>) {
        loop {
            let run = AssertUnwindSafe(routes::run(self.parts.clone(), live.clone()));
            let died = Condition::TaskDied(format!("route {}", live.name).into());
            let why = match run.catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    let why = with_causes(&error);
                    tracing::error!(error = %why, "a route's transforms cannot be set up; it is paused");
                    why
                }
                // What it had leased is given back; resuming the route tries it again.
                Err(panic) => {
                    let why = panicked(&*panic);
                    let conditions = self.parts.spawner.conditions();
                    conditions.raise(
                        died.clone(),
                        format!("{why}; it is paused, resume it to try again"),
                    );
                    why
                }
            };
            live.apply(|state, _| state.pause(&why));
            let resumed = self.resumed(&live).await;
            self.parts.spawner.conditions().clear(&died);
            if !resumed {
                return;
            }
        }
    }

    // Waits until somebody resumes the route; false when it ends instead.
    async fn resumed(&self, live: &LiveSubscription) -> bool {
        loop {
            let notified = live.woken();
            tokio::pin!(notified);
            // Registered before looking, so that nothing that comes between is missed.
            notified.as_mut().enable();
            if live.is_deleted() || self.parts.shutdown.is_cancelled() {
                return false;
            }
            if live.read().paused().is_none() {
                return true;
            }
            tokio::select! {
                biased;
                () = notified => {}
                () = self.parts.shutdown.cancelled() => return false,
            }
        }
    }
}

fn catch_up_name(subscription: &Name) -> TaskName {
    format!("catch-up of {subscription}").into()
}

// Shows a subscription without filters what was committed before it joined, until it can follow the router or the fence of
// its next chain is reached.
async fn catch_up(
    parts: Arc<DeliveryParts>,
    live: Arc<LiveSubscription>,
    judging: Arc<FilterChain>,
) {
    let mut end = parts.log.watch_end();
    let mut stands_at = None;
    while !live.is_deleted() && !parts.shutdown.is_cancelled() {
        let changed = live.woken();
        tokio::pin!(changed);
        // Registered before looking, so that no change is missed.
        changed.as_mut().enable();
        let router = match parts.registry.followers.join(&live) {
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
        let readable = parts.log.end();
        let stop = router.min(Position(fence)).min(readable);
        if next >= stop {
            tokio::select! {
                biased;
                () = changed => {}
                _ = end.wait_for(|end| *end > readable) => {}
                () = parts.shutdown.cancelled() => return,
            }
            continue;
        }
        if let Err((error, events)) = step(&parts, &live, &judging, next, stop).await {
            if stands_at.replace(next) != Some(next) {
                live.stand_at(judging.revision, stands_at);
                parts.metrics.unreadable(events);
                tracing::error!(position = %next, error, "cannot read the log to catch up; the subscription waits, and it is tried again");
            }
            tokio::select! {
                biased;
                () = parts.shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        } else if stands_at.take().is_some() {
            live.stand_at(judging.revision, None);
        }
    }
}

// Looks at events from `next` on, of those before `stop`. An error says why, and how many wait for that.
async fn step(
    parts: &DeliveryParts,
    live: &Arc<LiveSubscription>,
    judging: &FilterChain,
    next: Position,
    stop: Position,
) -> Result<(), (String, u64)> {
    let blocks = parts.log.blocks_from(next, CATCH_UP_BYTES).await;
    let blocks =
        blocks.map_err(|error| (with_causes(&error), unreadable::waits_for(&error, next)))?;
    let mut ranges = Vec::new();
    let mut after = stop;
    for block in &blocks {
        if block.first_position >= stop {
            break;
        }
        after = block.last_position().next().min(stop);
        if selects(parts, live, judging, block) {
            present(block, next, &mut ranges).map_err(|error| (error.to_string(), 1))?;
        }
    }
    // All blocks lay beyond the stop, or there was none: nothing is left in between.
    let cut_short = blocks
        .last()
        .is_some_and(|block| block.last_position().next() < stop);
    if !cut_short {
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
    parts: &DeliveryParts,
    live: &LiveSubscription,
    judging: &FilterChain,
    block: &Block,
) -> bool {
    let topic = parts.topic_of(block);
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
