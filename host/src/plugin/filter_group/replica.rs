//! A further instance with the rules of a shard, which takes a part of a large batch while the shard takes another. It never
//! looks for who is to blame: on any fault it stops, and what it has not done goes back to the shard. Owned by the shard; when
//! one is worth having is decided there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::call_input::{Parsed, calls};
use super::super::evaluation::RuleKey;
use super::super::filter_instance::{FilterInstance, Matches};
use super::super::guest_fault::Fault;
use super::super::guest_setup::GuestSetup;

/// A replica that was not needed for so long gives its instance back.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// An instance beside a shard's own.
pub(super) struct Replica {
    // None before its first call and after a fault.
    host: Option<Box<FilterInstance>>,
    // What the next call needs and the instance lacks.
    missing: Vec<(RuleKey, Arc<str>)>,
    used: Instant,
}

impl Replica {
    /// Without an instance yet.
    pub(super) fn new() -> Self {
        Self {
            host: None,
            missing: Vec::new(),
            used: Instant::now(),
        }
    }

    /// From when on it has not been needed for long.
    pub(super) fn idle_at(&self) -> Instant {
        self.used + IDLE_MAX
    }

    /// The next call is for `keys`, the configurations of which are among `rules`.
    pub(super) fn prepare(&mut self, rules: &BTreeMap<RuleKey, Arc<str>>, keys: &[RuleKey]) {
        self.used = Instant::now();
        let host = self.host.as_ref();
        if host.is_some_and(|host| host.knows(keys)) {
            return;
        }
        let missing = keys
            .iter()
            .filter(|key| host.is_none_or(|host| !host.has(**key)));
        let missing = missing.filter_map(|key| Some((*key, Arc::clone(rules.get(key)?))));
        self.missing = missing.collect();
    }

    /// Takes a rule from the instance.
    pub(super) async fn remove(&mut self, key: RuleKey) {
        if let Some(mut host) = self.host.take()
            && host.release(key).await.is_ok()
        {
            self.host = Some(host);
        }
    }

    /// Evaluates `events` for `keys` as far as nothing goes wrong. Adds to `matches`, and answers how many of the events are
    /// done with, from the first on.
    pub(super) async fn evaluate(
        &mut self,
        setup: &GuestSetup,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
        matches: &mut Matches,
    ) -> usize {
        // Why is found out by the shard, which meets the same.
        let Ok(mut host) = self.configured(setup).await else {
            return 0;
        };
        for range in calls(events, keys.len()) {
            match host.evaluate(&events[range.clone()], keys).await {
                Ok(found) => matches.extend(found),
                Err(_) => return range.start,
            }
        }
        self.host = Some(host);
        events.len()
    }

    async fn configured(&mut self, setup: &GuestSetup) -> Result<Box<FilterInstance>, Fault> {
        let mut host = match self.host.take() {
            Some(host) => host,
            None => Box::new(FilterInstance::new(setup).await?),
        };
        for (key, config) in self.missing.drain(..) {
            host.configure(key, &config)
                .await?
                .map_err(Fault::nonsense)?;
        }
        Ok(host)
    }
}
