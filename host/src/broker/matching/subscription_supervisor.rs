//! Brings subscriptions to life, at start, when they are created, and when other filters take over: filtered ones join
//! their lanes, routes get their task, and one that starts in the past [catches up](super::catch_up) with the router on a task of its
//! own. When they are deleted, it ends what runs for them, and nothing that was wrong with that is said any more.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tracing::{Instrument as _, error_span};

use super::catch_up;
use super::lanes::Lanes;
use crate::broker::delivery::context::DeliveryContext;
use crate::broker::delivery::routes;
use crate::broker::subscriptions::effect_targets::Start;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{Name, SubscriptionId};
use crate::runtime::unfinished::panicked;
use crate::telemetry::conditions::Condition;
use crate::telemetry::error_line::with_causes;

/// What starting a subscription needs.
pub(crate) struct Supervisor {
    pub(crate) context: Arc<DeliveryContext>,
    pub(crate) lanes: Arc<Lanes>,
}

impl Supervisor {
    /// Starts what the committer and the lanes say, until shutdown.
    pub(crate) async fn run(self: Arc<Self>, mut starts: mpsc::UnboundedReceiver<Start>) {
        loop {
            let start = tokio::select! {
                biased;
                () = self.context.shutdown.cancelled() => return,
                start = starts.recv() => start,
            };
            let Some(start) = start else {
                return;
            };
            let by_id = |id| self.context.registry.by_id(id);
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
                Start::Resumed(id) => {
                    if let Some(live) = by_id(id) {
                        self.lanes.resume(&live);
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
        self.context.chains.forget(id);
        let conditions = self.context.spawner.conditions();
        conditions.clear(&Condition::TaskDied(catch_up::task_name(name)));
    }

    /// Starts one subscription.
    pub(crate) fn start(self: &Arc<Self>, live: Arc<LiveSubscription>) {
        self.follow(&live);
        if live.settings().spec.is_route() {
            let this = self.clone();
            let name = format!("route {}", live.name);
            let span = error_span!("route", subscription = %live.name);
            let run = async move { this.run_route(live).await }.instrument(span);
            self.context.spawner.passing(name, run, |_| {});
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
            let (context, unfed) = (self.context.clone(), live.clone());
            let died = move |why: &str| {
                context
                    .registry
                    .pause_unfed(&unfed, &format!("its catch-up: {why}"));
                // It may have been deleted at the same time.
                if unfed.is_deleted() {
                    let conditions = context.spawner.conditions();
                    conditions.clear(&Condition::TaskDied(catch_up::task_name(&unfed.name)));
                }
            };
            let span = error_span!("catch-up", subscription = %live.name);
            let run = catch_up::run(self.context.clone(), live.clone(), judging).instrument(span);
            let name = catch_up::task_name(&live.name);
            self.context.spawner.resumable(name, run, died);
        }
    }

    async fn run_route(&self, live: Arc<LiveSubscription>) {
        loop {
            let run = AssertUnwindSafe(routes::run(self.context.clone(), live.clone()));
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
                    let conditions = self.context.spawner.conditions();
                    conditions.raise(
                        died.clone(),
                        format!("{why}; it is paused, resume it to try again"),
                    );
                    why
                }
            };
            live.apply(|state, _| state.pause(&why));
            let resumed = self.resumed(&live).await;
            self.context.spawner.conditions().clear(&died);
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
            if live.is_deleted() || self.context.shutdown.is_cancelled() {
                return false;
            }
            if live.read().paused().is_none() {
                return true;
            }
            tokio::select! {
                biased;
                () = notified => {}
                () = self.context.shutdown.cancelled() => return false,
            }
        }
    }
}
