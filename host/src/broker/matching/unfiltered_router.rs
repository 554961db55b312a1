//! The router: one task that shows committed blocks to the subscriptions without filters that follow the end of the log. It
//! knows topics and positions, never what an event says.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{Block, BlockOrigin, Position, SubscriptionId, TopicId, TopicName};
use crate::state::range_map::push_range;
use crate::telemetry::error_line::with_causes;

/// Bytes of blocks it looks at before it hands out what it found.
const BATCH_BYTES: usize = bound!(4 * 1024 * 1024, 16 * 1024);
/// How long it waits when it cannot read the log.
const RETRY: Duration = Duration::from_secs(1);

/// Of a subscription, what matched in a batch.
type Matched = (Arc<LiveSubscription>, Vec<RangeInclusive<Position>>);

/// Made and run once.
pub(crate) struct Router<F> {
    registry: Arc<Registry>,
    log: Log,
    // What a topic is called, as long as it exists.
    topic_name: F,
    // Of which version of the followers the targets are.
    version: u64,
    // Who follows and selects a topic, for ordinary events and for dead letters.
    targets: FxHashMap<(TopicId, bool), Arc<[Arc<LiveSubscription>]>>,
}

impl<F: Fn(TopicId) -> Option<TopicName> + Send> Router<F> {
    pub(crate) fn new(registry: Arc<Registry>, log: Log, topic_name: F) -> Self {
        Self {
            registry,
            log,
            topic_name,
            version: 0,
            targets: FxHashMap::default(),
        }
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut end = self.log.watch_end();
        loop {
            let next = self.registry.followers.next();
            // Taken before reading: what is appended meanwhile must not be skipped below.
            let at = self.log.end();
            let read = self.log.blocks_from(next, BATCH_BYTES).await;
            let at = if planted!(RoutedPastNew) {
                self.log.end()
            } else {
                at
            };
            match read {
                Ok(blocks) if blocks.is_empty() => {
                    if next < at {
                        // Positions that no block holds: skipped after an unclean start.
                        self.route(&[], at);
                    }
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        changed = end.wait_for(|end| *end > at) => if changed.is_err() { return },
                    }
                }
                Ok(blocks) => {
                    let after = blocks
                        .last()
                        .map_or(next, |block| block.last_position().next());
                    self.route(&blocks, after);
                }
                Err(error) => {
                    tracing::error!(position = %next, error = %with_causes(&error), "cannot read what was just committed; trying again");
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    // Shows the followers what lies before `after`.
    fn route(&mut self, blocks: &[Arc<Block>], after: Position) {
        // In an order that can be repeated, since it is that in which consumers wake.
        let mut matched: FxHashMap<SubscriptionId, Matched> = FxHashMap::default();
        let registry = self.registry.clone();
        let turn = registry.followers.turn();
        let version = registry.followers.version();
        if self.version != version {
            self.version = version;
            self.targets.clear();
        }
        for block in blocks {
            let shown = Position(turn.next().0 + u64::from(planted!(RoutedFromTheNext)));
            let range = block.first_position.max(shown)..=block.last_position();
            for live in self.targets(block).iter() {
                let (_, ranges) = matched
                    .entry(live.id)
                    .or_insert_with(|| (live.clone(), Vec::new()));
                push_range(ranges, range.clone());
            }
        }
        for (live, ranges) in matched.into_values() {
            let Some(last) = ranges.last().map(|range| *range.end()) else {
                continue;
            };
            live.apply(|state, _| state.observe(last, ranges));
        }
        turn.end(after);
    }

    fn targets(&mut self, block: &Block) -> Arc<[Arc<LiveSubscription>]> {
        let key = (block.topic, block.mark.is_letter());
        if let Some(targets) = self.targets.get(&key) {
            return targets.clone();
        }
        let targets = self.look_up(block.topic, block.mark);
        self.targets.insert(key, targets.clone());
        targets
    }

    fn look_up(&self, topic: TopicId, mark: BlockOrigin) -> Arc<[Arc<LiveSubscription>]> {
        let Some(name) = (self.topic_name)(topic) else {
            return Arc::new([]);
        };
        let mut subscriptions = self.registry.selecting(&name, mark);
        subscriptions.retain(|live| live.is_routed());
        subscriptions.into()
    }
}
