//! Brings subscriptions to life, at start and when they are created: filtered ones join their lanes, routes get
//! their task, and one that starts in the past catches up with the router on a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::delivery::DeliveryParts;
use super::hub::{Cell, chain, push_range};
use super::lanes::Lanes;
use super::routes;
use super::transform::TransformChain;
use crate::domain::{Block, BlockError, Position};
use crate::plugin::{ConfigureError, Plugins};

/// Bytes of blocks a catch-up reads at once.
const CATCH_UP_BYTES: usize = 1024 * 1024;
const RETRY: Duration = Duration::from_secs(1);

/// What starting a subscription needs.
pub(super) struct Supervisor {
    pub(super) parts: Arc<DeliveryParts>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) plugins: Arc<Plugins>,
}

impl Supervisor {
    /// Starts what is created, until the committer ends.
    pub(super) async fn run(self: Arc<Self>, mut created: mpsc::UnboundedReceiver<Arc<Cell>>) {
        while let Some(cell) = created.recv().await {
            self.start(cell);
        }
    }

    /// Starts one subscription.
    pub(super) fn start(self: &Arc<Self>, cell: Arc<Cell>) {
        if cell.is_filtered() {
            self.lanes.start(&cell);
        } else if !cell.is_routed() {
            tokio::spawn(catch_up(self.parts.clone(), cell.clone()));
        }
        if cell.spec.is_route() {
            let this = self.clone();
            tokio::spawn(async move { this.run_route(cell).await });
        }
    }

    async fn run_route(&self, cell: Arc<Cell>) {
        loop {
            match self.transforms(&cell).await {
                Ok(transforms) => return routes::run(self.parts.clone(), cell, transforms).await,
                Err(error) => {
                    let why = chain(&error);
                    tracing::error!(route = %cell.spec.name, error = %why, "a route's transforms cannot be set up; it is paused");
                    cell.lock().pause(&why);
                }
            }
            if !self.resumed(&cell).await {
                return;
            }
        }
    }

    // Waits until somebody resumes the route; false when it ends instead.
    async fn resumed(&self, cell: &Cell) -> bool {
        loop {
            let notified = cell.wake.notified();
            tokio::pin!(notified);
            // Registered before looking, so that nothing that comes between is missed.
            notified.as_mut().enable();
            if cell.is_deleted() || self.parts.shutdown.is_cancelled() {
                return false;
            }
            if cell.lock().paused().is_none() {
                return true;
            }
            tokio::select! {
                () = notified => {}
                () = self.parts.shutdown.cancelled() => return false,
            }
        }
    }

    /// The subscription's configured transforms, made on first use.
    pub(super) async fn transforms(
        &self,
        cell: &Cell,
    ) -> Result<Arc<TransformChain>, ConfigureError> {
        let configure = || async {
            let chain = TransformChain::configure(&self.plugins, &cell.spec.transforms).await?;
            Ok(Arc::new(chain))
        };
        cell.transforms.get_or_try_init(configure).await.cloned()
    }
}

// Shows a subscription what was committed before it joined, until it can follow the router.
async fn catch_up(parts: Arc<DeliveryParts>, cell: Arc<Cell>) {
    let mut next = cell.lock().evaluated_through().next();
    while !cell.is_deleted() && !parts.shutdown.is_cancelled() {
        let Err(router) = parts.hub.join_router(&cell, next) else {
            return;
        };
        match step(&parts, &cell, next, router).await {
            Ok(after) => next = after,
            Err(error) => {
                tracing::error!(subscription = %cell.spec.name, position = %next, error, "cannot read the log to catch up; trying again");
                tokio::select! {
                    () = parts.shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

async fn step(
    parts: &DeliveryParts,
    cell: &Cell,
    next: Position,
    router: Position,
) -> Result<Position, String> {
    let blocks = parts.log.blocks_from(next, CATCH_UP_BYTES).await;
    let blocks = blocks.map_err(|error| chain(&error))?;
    let mut ranges = Vec::new();
    let mut after = router;
    for block in &blocks {
        if block.first_position >= router {
            break;
        }
        after = block.last_position().next().min(router);
        if selects(parts, cell, block) {
            present(block, next, &mut ranges).map_err(|error| error.to_string())?;
        }
    }
    // All blocks lay beyond the router, or there was none: nothing is left in between.
    let cut_short = blocks
        .last()
        .is_some_and(|block| block.last_position().next() < router);
    if !cut_short {
        after = router;
    }
    let through = Position(after.0.saturating_sub(1));
    cell.lock().observe(through, ranges);
    cell.wake.notify_waiters();
    Ok(after)
}

fn selects(parts: &DeliveryParts, cell: &Cell, block: &Block) -> bool {
    let topic = parts.topic_of(block);
    topic.is_some_and(|topic| cell.selects(&topic))
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
