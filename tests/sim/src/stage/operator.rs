//! Who operates the broker, by the handle that the admin API calls: makes what the plan has, and then does what it says, one thing after the
//! other. A change that was under way when a life ended may have been made or not; the next life is asked what is there. Whatever stands
//! still at the end goes on then, so that everything can be consumed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tidegate_simulated::broker::{Broker, ChangeError, Refusal, RefusalKind};
use tidegate_simulated::domain::{
    NewTopic, Principal, SubscriptionInfo, SubscriptionPatch, TopicName,
};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::actors::{Phase, Scene};
use crate::history::{Durability, Start, What};
use crate::plan::failing::Attempts;
use crate::plan::filter::{Filter, Plugin, written};
use crate::plan::route::{self, RESHAPES, Route};
use crate::plan::{Operation, Subscription, Topic};

/// How long an operator waits before it tries again.
const AGAIN: Duration = Duration::from_millis(100);
/// Who operates the broker.
pub(super) const OPERATOR: &str = "operator";

/// What an operator remembers, whatever happens to the broker. Clones are one.
#[derive(Clone, Default)]
pub(super) struct Operator(Rc<RefCell<Memory>>);

#[derive(Default)]
struct Memory {
    /// Which operation is next.
    next: usize,
    /// What was made at first.
    made: BTreeSet<String>,
    /// What may stand still.
    paused: BTreeSet<String>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Made,
    Refused,
    /// For now.
    NotNow,
    Unknown,
}

/// An operator in one life of the broker.
struct Shift {
    memory: Operator,
    scene: Scene,
    broker: Broker,
    /// Lines that were read of what the broker tells, by subscription.
    told: RefCell<BTreeMap<String, BTreeSet<String>>>,
}

impl Operator {
    /// Operates a life of the broker, until everything has been done and goes on.
    pub(super) async fn operate(self, scene: Scene, broker: Broker, ready: watch::Sender<Phase>) {
        let shift = Shift {
            memory: self,
            scene,
            broker,
            told: RefCell::default(),
        };
        let phase = *shift.scene.phase.borrow();
        match phase < Phase::Runs {
            true => shift.begin(ready).await,
            false => shift.look(),
        }
        shift.run().await;
        shift.scene.is_at(Phase::Drains).await;
        shift.resume_all().await;
        shift.mend().await;
        shift.tell();
    }
}

impl Shift {
    // Makes what the plan has. An earlier life may have made some of it without an answer.
    async fn begin(&self, ready: watch::Sender<Phase>) {
        let plan = self.scene.plan.clone();
        for plugin in &plan.plugins {
            while !self.is_made(&plugin.name) {
                let outcome = self.upload(plugin, 0).await;
                self.begun(&plugin.name, outcome).await;
            }
        }
        for topic in &plan.topics {
            while !self.is_made(&topic.name) {
                let outcome = self.create_topic(topic).await;
                self.begun(&topic.name, outcome).await;
            }
        }
        if !plan.routes.is_empty() {
            while !self.is_made(RESHAPES) {
                let outcome = self.upload_script(RESHAPES, 0, route::script()).await;
                self.begun(RESHAPES, outcome).await;
            }
        }
        for route in &plan.routes {
            while !self.is_made(&route.name) {
                let outcome = self.create_route(route).await;
                self.begun(&route.name, outcome).await;
            }
        }
        for subscription in &plan.subscriptions {
            while !self.is_made(&subscription.name) {
                let created = self.create_subscription(subscription, Start::Earliest);
                let outcome = created.await;
                self.begun(&subscription.name, outcome).await;
            }
        }
        ready.send_if_modified(|phase| {
            let is_first = *phase == Phase::Begins;
            *phase = (*phase).max(Phase::Runs);
            is_first
        });
    }

    fn is_made(&self, name: &str) -> bool {
        self.memory.0.borrow().made.contains(name)
    }

    async fn begun(&self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Made => drop(self.memory.0.borrow_mut().made.insert(name.to_owned())),
            _ => sleep(AGAIN).await,
        }
    }

    // Does what is left of the plan, up to what nobody knows the end of before the next life.
    async fn run(&self) {
        let plan = self.scene.plan.clone();
        loop {
            let next = self.memory.0.borrow().next;
            let Some(timed) = plan.operations.get(next) else {
                return;
            };
            tokio::select! {
                biased;
                () = self.scene.is_at(Phase::Drains) => return,
                () = sleep(Duration::from_millis(timed.after_ms)) => {}
            }
            self.memory.0.borrow_mut().next = next + 1;
            self.tell();
            if self.perform(&timed.does).await == Outcome::Unknown {
                return;
            }
        }
    }

    async fn resume_all(&self) {
        let paused = self.memory.0.borrow().paused.clone();
        for subscription in paused {
            while matches!(
                self.resume(&subscription).await,
                Outcome::NotNow | Outcome::Unknown
            ) {
                sleep(AGAIN).await;
            }
        }
    }

    async fn perform(&self, operation: &Operation) -> Outcome {
        let plan = self.scene.plan.clone();
        match operation {
            Operation::CreateTopic { topic } => {
                let of = plan.topics.iter().find(|of| of.name == *topic);
                self.create_topic(of.expect("it is in the plan")).await
            }
            Operation::DeleteTopic { topic } => self.delete_topic(topic).await,
            Operation::CreateSubscription {
                subscription,
                is_earliest,
            } => {
                let mut all = plan.subscriptions.iter();
                let of = all.find(|of| of.name == *subscription);
                let start = match is_earliest {
                    true => Start::Earliest,
                    false => Start::Latest,
                };
                let of = of.expect("it is in the plan");
                self.create_subscription(of, start).await
            }
            Operation::DeleteSubscription { subscription } => {
                self.delete_subscription(subscription).await
            }
            Operation::ChangeFilters {
                subscription,
                filters,
            } => self.change_filters(subscription, filters).await,
            Operation::Pause { subscription } => self.pause(subscription).await,
            Operation::Resume { subscription } => self.resume(subscription).await,
            Operation::Change {
                subscription,
                ack_deadline_ms,
                in_flight_max,
            } => {
                let changed = self.change(subscription, *ack_deadline_ms, *in_flight_max);
                changed.await
            }
        }
    }

    async fn create_topic(&self, topic: &Topic) -> Outcome {
        let durability = match topic.is_sync {
            true => Durability::Sync,
            false => Durability::Interval,
        };
        let op = self.asks(|op| What::CreatesTopic {
            op,
            topic: topic.name.as_str().into(),
            durability,
        });
        let new = json!({"name": topic.name, "durability": durability.to_string()});
        let new: NewTopic = serde_json::from_value(new).expect("a specification");
        let created = self.broker.create_topic(new).await.map(|topic| topic.id.0);
        let created = self.or_there(created, || {
            self.broker
                .topic(&name(&topic.name))
                .map(|topic| topic.id.0)
        });
        self.answered(op, created)
    }

    async fn delete_topic(&self, topic: &str) -> Outcome {
        let op = self.asks(|op| What::DeletesTopic {
            op,
            topic: topic.into(),
        });
        let local = Principal::local();
        let deleted = self.broker.delete_topic(&local, &name(topic)).await;
        self.answered(op, deleted.map(|_| 0))
    }

    async fn create_subscription(&self, subscription: &Subscription, start: Start) -> Outcome {
        let Subscription {
            name,
            topic,
            ack_deadline_ms,
            filters,
            attempts,
        } = subscription;
        let op = self.scene.op();
        if !filters.is_empty() {
            let chain = written(filters).into();
            self.note(What::ChoosesFilters { op, chain });
        }
        if *attempts != Attempts::default() {
            let steps: Vec<String> = attempts.backoff_ms.iter().map(u64::to_string).collect();
            self.note(What::ChoosesAttempts {
                op,
                attempts_max: attempts.max.into(),
                backoff_ms: steps.join(",").into(),
            });
        }
        self.note(What::CreatesSubscription {
            op,
            subscription: name.as_str().into(),
            topic: topic.as_str().into(),
            start,
            ack_deadline_ms: *ack_deadline_ms,
        });
        let start = match start {
            Start::Latest => "new",
            Start::Earliest => "earliest",
        };
        let spec = json!({
            "name": name, "topics": [topic], "start": start, "filters": uses(filters),
            "delivery": {
                "ack_deadline_ms": ack_deadline_ms, "attempts_max": attempts.max,
                "backoff_ms": attempts.backoff_ms,
            },
        });
        let spec = serde_json::from_value(spec).expect("a specification");
        let local = Principal::local();
        let created = self.broker.create_subscription(&local, spec).await;
        let created = self.or_there(created.map(|_| 0), || self.broker.find(name).map(|_| 0));
        self.answered(op, created)
    }

    async fn delete_subscription(&self, subscription: &str) -> Outcome {
        let op = self.asks(|op| What::DeletesSubscription {
            op,
            subscription: subscription.into(),
        });
        let deleted = match self.broker.find(subscription) {
            Ok(found) => self.broker.delete_subscription(&found).await,
            Err(error) => Err(error.into()),
        };
        self.answered(op, deleted.map(|()| 0))
    }

    async fn pause(&self, subscription: &str) -> Outcome {
        let mut why = String::new();
        let op = self.asks(|op| {
            why = format!("for-{op}");
            What::Pauses {
                op,
                subscription: subscription.into(),
                why: why.as_str().into(),
            }
        });
        self.memory
            .0
            .borrow_mut()
            .paused
            .insert(subscription.to_owned());
        let paused = match self.broker.find(subscription) {
            Ok(found) => self.broker.pause_subscription(&found, &why).await,
            Err(error) => Err(error.into()),
        };
        self.answered(op, paused.map(|()| 0))
    }

    async fn resume(&self, subscription: &str) -> Outcome {
        let op = self.asks(|op| What::Resumes {
            op,
            subscription: subscription.into(),
        });
        let resumed = match self.broker.find(subscription) {
            Ok(found) => self.broker.resume_subscription(&found).await,
            Err(error) => Err(error.into()),
        };
        let outcome = self.answered(op, resumed.map(|()| 0));
        if outcome == Outcome::Made {
            self.memory.0.borrow_mut().paused.remove(subscription);
        }
        outcome
    }

    async fn change(&self, subscription: &str, deadline_ms: u64, in_flight_max: u32) -> Outcome {
        let op = self.asks(|op| What::Changes {
            op,
            subscription: subscription.into(),
            ack_deadline_ms: deadline_ms,
            in_flight_max: in_flight_max.into(),
        });
        let patch = json!({"delivery": {
            "ack_deadline_ms": deadline_ms, "in_flight_events_max": in_flight_max,
        }});
        let patch = serde_json::from_value(patch).expect("a patch");
        let changed = self.update(subscription, patch).await;
        self.answered(op, changed.map(|_| 0))
    }

    async fn change_filters(&self, subscription: &str, filters: &[Filter]) -> Outcome {
        let op = self.asks(|op| What::ChangesFilters {
            op,
            subscription: subscription.into(),
            chain: written(filters).into(),
        });
        let patch = json!({"filters": uses(filters)});
        let patch = serde_json::from_value(patch).expect("a patch");
        let changed = self.update(subscription, patch).await;
        let fence = |info: SubscriptionInfo| info.fence.map_or(0, |fence| fence.0);
        self.answered(op, changed.map(fence))
    }

    async fn create_route(&self, route: &Route) -> Outcome {
        let op = self.asks(|op| What::CreatesRoute {
            op,
            route: route.to_string().into(),
        });
        let outputs: BTreeMap<_, _> = route.outputs.iter().cloned().collect();
        let spec = json!({
            "name": route.name, "topics": [route.from], "start": "earliest", "outputs": outputs,
            "transforms": [{"plugin": RESHAPES, "config": route.rule}],
        });
        let spec = serde_json::from_value(spec).expect("a specification");
        let local = Principal::local();
        let created = self.broker.create_subscription(&local, spec).await;
        let there = || self.broker.find(&route.name).map(|_| 0);
        self.answered(op, self.or_there(created.map(|_| 0), there))
    }

    async fn upload(&self, plugin: &Plugin, tag: u64) -> Outcome {
        self.upload_script(&plugin.name, tag, plugin.script(tag))
            .await
    }

    async fn upload_script(&self, plugin: &str, tag: u64, script: Vec<u8>) -> Outcome {
        let op = self.asks(|op| What::Uploads {
            op,
            plugin: plugin.into(),
            tag,
        });
        let local = Principal::local();
        let name = plugin.parse().expect("the plan has good names");
        let uploaded = match self.broker.upload_place(&local).await {
            Ok(place) => {
                let script = script.into();
                self.broker
                    .upload_plugin(&local, place, &name, script)
                    .await
            }
            Err(error) => Err(error.into()),
        };
        self.answered(op, uploaded.map(|_| 0))
    }

    // Whatever stands still because a filter fails gets a sound one and goes on, until everything was consumed and nothing
    // more comes.
    async fn mend(&self) {
        let plan = self.scene.plan.clone();
        let named = plan.operations.iter().flat_map(|of| of.does.filters());
        let named = named.chain(plan.subscriptions.iter().flat_map(|of| &of.filters));
        if !written(&named.cloned().collect::<Vec<_>>()).contains(" pause ") {
            return;
        }
        loop {
            let mut is_over = *self.scene.phase.borrow() >= Phase::Settles;
            for Subscription { name, .. } in &plan.subscriptions {
                let Ok(info) = self.broker.subscription(name) else {
                    continue;
                };
                is_over &= info.depth == 0 && info.unevaluated == 0;
                if info.paused.is_some() {
                    is_over = false;
                    self.change_filters(name, &sound(&chain_of(&info))).await;
                    self.resume(name).await;
                }
            }
            if is_over {
                return;
            }
            sleep(5 * AGAIN).await;
        }
    }

    // Says whom the broker has blamed since it was asked last.
    fn tell(&self) {
        let local = Principal::local();
        for Subscription { name, .. } in &self.scene.plan.subscriptions {
            let Ok(lines) = self.broker.subscription_log(&local, name) else {
                continue;
            };
            let mut told = self.told.borrow_mut();
            let told = told.entry(name.clone()).or_default();
            for line in lines {
                let text = line.text.as_str();
                let failed = text.starts_with("filter ").then(|| {
                    let (_, rest) = text.split_once("failed on the event at position ")?;
                    rest.split(' ').next()?.parse().ok()
                });
                if let Some(position) = failed.flatten().filter(|_| told.insert(text.to_owned())) {
                    let subscription = name.as_str().into();
                    self.note(What::Blames {
                        subscription,
                        position,
                    });
                }
            }
        }
    }

    async fn update(
        &self,
        subscription: &str,
        patch: SubscriptionPatch,
    ) -> Result<SubscriptionInfo, ChangeError> {
        let found = self.broker.find(subscription)?;
        let before = self.broker.info_of(&found)?;
        let spec = patch.apply(before.spec.clone(), str::to_owned);
        let local = Principal::local();
        let updated = self
            .broker
            .update_subscription(&local, &found, &before, spec);
        updated.await
    }

    /// Says what is there.
    fn look(&self) {
        let plan = self.scene.plan.clone();
        for topic in &plan.topics {
            let there = self.broker.topic(&name(&topic.name));
            self.note(What::SeesTopic {
                topic: topic.name.as_str().into(),
                id: there.map_or(0, |topic| topic.id.0),
            });
        }
        for Subscription { name, .. } in &plan.subscriptions {
            let there = self.broker.subscription(name).ok();
            let delivery = there.as_ref().map(|info| &info.spec.delivery);
            self.note(What::SeesSubscription {
                subscription: name.as_str().into(),
                is_there: there.is_some(),
                is_paused: there.as_ref().is_some_and(|info| info.paused.is_some()),
                ack_deadline_ms: delivery.map_or(0, |of| of.ack_deadline_ms),
                in_flight_max: delivery.map_or(0, |of| of.in_flight_events_max.into()),
            });
            if let Some(info) = there.filter(|_| !plan.plugins.is_empty()) {
                self.note(What::SeesFilters {
                    subscription: name.as_str().into(),
                    chain: written(&chain_of(&info)).into(),
                    fence: info.fence.map_or(0, |fence| fence.0),
                });
            }
        }
    }

    // While the plan begins, what was made without an answer is there.
    fn or_there<E>(
        &self,
        created: Result<u64, ChangeError>,
        there: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, ChangeError> {
        let begins = *self.scene.phase.borrow() < Phase::Runs;
        match created {
            Err(error @ ChangeError::Exists { .. }) if begins => there().map_err(|_| error),
            created => created,
        }
    }

    fn asks(&self, what: impl FnOnce(u64) -> What) -> u64 {
        let op = self.scene.op();
        self.note(what(op));
        op
    }

    fn answered(&self, op: u64, answer: Result<u64, ChangeError>) -> Outcome {
        let (what, outcome) = match answer {
            Ok(id) => (What::Done { op, id }, Outcome::Made),
            Err(error) => {
                let outcome = match error.kind() {
                    RefusalKind::StoreUnavailable
                    | RefusalKind::ShuttingDown
                    | RefusalKind::Internal => Outcome::Unknown,
                    RefusalKind::Overloaded => Outcome::NotNow,
                    _ => Outcome::Refused,
                };
                let code = format!("{:?}: {error}", error.kind()).into();
                let is_sure = outcome != Outcome::Unknown;
                (What::NotDone { op, code, is_sure }, outcome)
            }
        };
        self.note(what);
        outcome
    }

    fn note(&self, what: What) {
        self.scene.history.note(OPERATOR, what);
    }
}

// A chain that fails on nothing, and is another one.
fn sound(chain: &[Filter]) -> Vec<Filter> {
    let mut sound: Vec<Filter> = chain.iter().map(Filter::mended).collect();
    if sound == chain
        && let Some(first) = sound.first().cloned()
    {
        let takes_all = Filter {
            rule: "mod 1 0".to_owned(),
            ..first
        };
        match sound.last() == Some(&takes_all) && sound.len() > 1 {
            true => drop(sound.pop()),
            false => sound.push(takes_all),
        }
    }
    sound
}

// As a specification has them.
fn uses(filters: &[Filter]) -> serde_json::Value {
    let uses = filters.iter().map(|filter| {
        json!({
            "plugin": filter.plugin, "config": filter.rule, "on_failure": filter.on_failure,
        })
    });
    uses.collect()
}

fn chain_of(info: &SubscriptionInfo) -> Vec<Filter> {
    let filters = info.spec.filters.iter().map(|used| {
        let plugin = used.plugin.split('@').next().unwrap_or_default();
        let on_failure = json!(used.on_failure);
        let words = format!("{plugin} {} {}", on_failure.as_str()?, used.config);
        words.parse().ok()
    });
    filters.flatten().collect()
}

fn name(topic: &str) -> TopicName {
    topic.parse().expect("the plan has good names")
}
