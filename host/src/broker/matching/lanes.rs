//! Plugin lanes: one task for each filter plugin in use, with a cursor of its own over the log. It takes the next
//! events of the topics its rules care about and calls the plugin once per batch for all subscriptions that use
//! it. A slow plugin delays its own lane and nothing else; a late lane reads from the store and pins nothing.
//!
//! A lane's members move in cohorts that share a cursor. A subscription that starts in the past, or was paused,
//! is a cohort of its own beside the live one and joins it where their cursors meet; so is one whose rule could not be tried on
//! an event yet, which rests there while the others go on. A member belongs to one filter
//! chain of its subscription and leaves at the fence of the next; that one's members are added when all of the
//! first have got there.
//!
//! The common lane of a plugin does not look for who is to blame when a call fails: the members that were asked leave it for a ward
//! ([`super::wards`]), which is a lane too, and the only kind that looks. Members that are sound there for long come back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::wards::{Place, Stay, Wards, Whose};
use crate::auth::Policy;
use crate::broker::counters::Counters;
use crate::broker::log::tail::Log;
use crate::broker::log::unreadable;
use crate::broker::subscriptions::live::LiveSubscription;
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{
    Block, Digest, FailurePolicy, LetterMark, PluginUse, Position, SubscriptionId, TopicId,
    TopicName,
};
use crate::plugin::{
    ConfigureError, Evaluation, FilterFailure, FilterGroup, InputEvent, Plugins, RuleKey, Undecided,
};
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;
use crate::state::filter_chain::FilterChain;
use crate::store::ReadError;
use crate::telemetry::errors::with_causes;
use crate::telemetry::health::Condition;

/// Bytes of blocks a cohort takes in one step.
const STEP_BYTES: usize = 512 * 1024;
/// Events in one call of a plugin.
const CALL_EVENTS_MAX: usize = 512;
/// Pairs of a rule and an event that it wants or failed on, after which a step ends, so that rules that want everything do not fill
/// the memory. A step of a thousand rules of which each wants a hundredth has about 5,000.
const STEP_PAIRS_MAX: usize = 256 * 1024;
/// Places of a rule's matches that are kept from step to step.
const MATCHES_KEPT_MAX: usize = 128;
/// How long a lane waits before it tries again what failed for no fault of a rule.
const RETRY: Duration = Duration::from_secs(1);
/// So much of a plugin's digest tells it from others: `sha256:` and twelve digits.
const DIGEST_SHOWN: usize = 19;
/// How exactly members wait for another try.
const REST_STEP: Duration = Duration::from_millis(50);

/// All lanes. Shared by whoever starts and ends subscriptions.
pub(crate) struct Lanes {
    parts: LaneParts,
    lanes: Mutex<Running>,
    // Lanes that died and were not started anew, by what they are called where that is shown.
    dead: Mutex<HashMap<Place, String>>,
}

// The lanes there are.
#[derive(Default)]
struct Running {
    common: HashMap<Digest, mpsc::UnboundedSender<Command>>,
    wards: Wards<mpsc::UnboundedSender<Command>>,
}

/// What a lane needs of the broker.
#[derive(Clone)]
pub(crate) struct LaneParts {
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) catalog: Arc<RwLock<Catalog>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) spawner: Spawner,
    pub(crate) shutdown: CancellationToken,
}

impl LaneParts {
    fn label(&self, live: &LiveSubscription, used: &PluginUse) -> String {
        let spec = &live.settings().spec;
        let catalog = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        catalog.plugin_label(&self.policy, spec.responsible(), used)
    }
}

// Few and small: at most one of each kind for each filter of each subscription and each of its changes.
#[derive(Clone)]
enum Command {
    Add(Member),
    // From another lane of the plugin.
    Move(Member),
    // Members of chains that judge no more.
    Retire(SubscriptionId),
    Remove(SubscriptionId),
    Resume(SubscriptionId),
}

#[derive(Clone)]
struct Member {
    live: Arc<LiveSubscription>,
    chain: Arc<FilterChain>,
    stage: usize,
    stay: Stay,
}

impl Member {
    fn whose(&self) -> Whose {
        self.live.settings().spec.responsible().cloned()
    }

    // The first event it is to look at; `None` when there is none left before the next chain's fence.
    fn next(&self) -> Option<Position> {
        let state = self.live.read();
        let through = state.stage_through(self.stage);
        let judges = state.revision() == self.chain.revision && through < state.judges_until();
        judges.then(|| through.next())
    }

    fn judges(&self, position: Position) -> bool {
        let state = self.live.read();
        state.revision() == self.chain.revision && position <= state.judges_until()
    }

    // Unless another chain has taken over meanwhile.
    fn pause(&self, reason: &str) -> bool {
        self.live.apply(|state, _| {
            let judges = state.revision() == self.chain.revision;
            if judges {
                state.pause(reason);
            }
            judges
        })
    }

    fn selects(&self, topic: &TopicName, mark: LetterMark) -> bool {
        self.chain.selects(&self.live.settings().spec, topic, mark)
    }

    fn policy(&self) -> FailurePolicy {
        self.chain.filters[self.stage].on_failure
    }
}

impl Lanes {
    pub(crate) fn new(parts: LaneParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            lanes: Mutex::default(),
            dead: Mutex::default(),
        })
    }

    /// Starts to filter for a subscription with the chain that judges now, from where its state says, and lets the filters
    /// of those before it go.
    pub(crate) fn start(self: &Arc<Self>, live: &Arc<LiveSubscription>, chain: &Arc<FilterChain>) {
        if chain.revision > 0 {
            self.tell_all(&Command::Retire(live.id));
        }
        for (stage, used) in chain.filters.iter().enumerate() {
            let member = Member {
                live: live.clone(),
                chain: chain.clone(),
                stage,
                stay: Stay::default(),
            };
            if let Some(digest) = used.digest {
                let label = self.parts.label(live, used);
                self.add(digest, &label, member);
            }
        }
    }

    /// Stops filtering for a subscription that was deleted.
    pub(crate) fn stop(&self, live: &LiveSubscription) {
        self.tell_all(&Command::Remove(live.id));
    }

    /// Lets a paused subscription go on.
    pub(crate) fn resume(&self, live: &LiveSubscription) {
        self.tell_all(&Command::Resume(live.id));
    }

    // A few lanes for each filter plugin in use, so telling those that it does not concern costs little.
    fn tell_all(&self, command: &Command) {
        let running = self.lock();
        for lane in running.common.values().chain(running.wards.lanes()) {
            // A lane that has died is told of in another way.
            let _ = lane.send(command.clone());
        }
    }

    fn add(self: &Arc<Self>, digest: Digest, label: &str, member: Member) {
        let mut running = self.lock();
        // Whoever was in a ward that died starts in the common lane again.
        self.forget_deaths_of(|place| place.digest == digest && place.is_apart());
        let _ = self
            .common(&mut running, digest, label)
            .send(Command::Add(member));
    }

    fn common<'r>(
        self: &Arc<Self>,
        running: &'r mut Running,
        digest: Digest,
        label: &str,
    ) -> &'r mpsc::UnboundedSender<Command> {
        let lane = running.common.entry(digest);
        lane.or_insert_with(|| self.open(Place::common(digest), label))
    }

    fn open(self: &Arc<Self>, place: Place, label: &str) -> mpsc::UnboundedSender<Command> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let lane = Lane::new(self.clone(), place, label.to_owned(), inbox);
        self.forget_deaths_of(|dead| *dead == place);
        let (this, name) = (self.clone(), lane_name(label, place));
        let task = name.clone();
        let died = move |why: &str| this.lane_died(place, name, why);
        self.parts.spawner.resumable(task, lane.run(), died);
        commands
    }

    // Hands members of a lane over: from the common one to wards, from a ward to the common one. False when something was said to
    // the lane that it has not heard yet: it might concern them, and the lane they go to was told before they are there.
    fn hand_over(self: &Arc<Self>, lane: &Lane, members: impl Iterator<Item = Member>) -> bool {
        let mut running = self.lock();
        if !lane.commands.is_empty() {
            return false;
        }
        let (digest, label) = (lane.place.digest, &lane.label);
        for mut member in members {
            let next = if lane.place.is_apart() {
                self.common(&mut running, digest, label)
            } else {
                member.stay.begin();
                let open = |place| self.open(place, label);
                running.wards.of(digest, &member.whose(), open)
            };
            let _ = next.send(Command::Move(member));
        }
        true
    }

    // Whether a ward that has nobody left may end: nobody is on the way to it.
    fn close(&self, ward: &Lane) -> bool {
        let mut running = self.lock();
        let nobody_comes = ward.commands.is_empty();
        if nobody_comes {
            running.wards.close(ward.place);
        }
        nobody_comes
    }

    // Its subscriptions would wait for verdicts for ever. They are paused, which is seen, and resuming one starts a lane anew.
    fn lane_died(&self, place: Place, name: String, why: &str) {
        let digest = place.digest;
        lock(&self.dead).insert(place, name);
        let owners = {
            let mut running = self.lock();
            if !place.is_apart() {
                running.common.remove(&digest);
            }
            running.wards.close(place)
        };
        let may_be_there = |live: &&Arc<LiveSubscription>| {
            let whose = || live.settings().spec.responsible().cloned();
            live.is_judged_by(digest) && (!place.is_apart() || owners.contains(&whose()))
        };
        let subscriptions = self.parts.registry.all();
        for live in subscriptions.iter().filter(may_be_there) {
            // Its other lanes are started anew with it.
            self.tell_all(&Command::Remove(live.id));
            self.parts
                .registry
                .pause_unfed(live, &format!("a filter's lane: {why}"));
        }
        // The last one that it judged for may have gone at the same time.
        self.forget_deaths();
    }

    /// A dead lane is nothing that is wrong once nobody is judged by it any more.
    pub(crate) fn forget_deaths(&self) {
        if lock(&self.dead).is_empty() {
            return;
        }
        let subscriptions = self.parts.registry.all();
        self.forget_deaths_of(|dead| {
            !subscriptions
                .iter()
                .any(|live| live.is_judged_by(dead.digest))
        });
    }

    fn forget_deaths_of(&self, is_over: impl Fn(&Place) -> bool) {
        let mut dead = lock(&self.dead);
        for (_, name) in dead.extract_if(|place, _| is_over(place)) {
            let died = Condition::TaskDied(name.into());
            self.parts.spawner.conditions().clear(&died);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        lock(&self.lanes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Several versions of a plugin may have a lane, and be called the same by those who use them.
fn lane_name(label: &str, place: Place) -> String {
    let digest = place.digest.to_string();
    let short = digest.get(..DIGEST_SHOWN).unwrap_or(&digest);
    match place.ward {
        None => format!("lane of {label} ({short})"),
        Some(number) => format!("lane of {label} ({short}), ward {number}"),
    }
}

struct Lane {
    parts: LaneParts,
    lanes: Arc<Lanes>,
    place: Place,
    label: String,
    commands: mpsc::UnboundedReceiver<Command>,
    end: watch::Receiver<Position>,
    group: Option<FilterGroup>,
    members: FxHashMap<RuleKey, Member>,
    // Of the step at hand; empty between steps.
    verdicts: Verdicts,
    next_key: u64,
    cohorts: Vec<Cohort>,
    // Members whose subscription is paused at an event their rule failed on.
    parked: Vec<RuleKey>,
    // Members that go on in another lane of the plugin.
    leaving: Vec<RuleKey>,
    // Members whose rule could not be set up; their subscription is paused.
    failed: Vec<Member>,
}

struct Cohort {
    cursor: Position,
    rules: Vec<RuleKey>,
    // Rules by topic, for its ordinary events and for dead letters. One list is shared by all that have the same rules.
    by_topic: HashMap<(TopicId, bool), Option<TopicRules>>,
    // It takes no step before this.
    rests_until: Option<Instant>,
    // Where it last could not read the log.
    unreadable: Option<Position>,
}

impl Cohort {
    fn new(cursor: Position, rests_until: Option<Instant>) -> Self {
        Self {
            cursor,
            rules: Vec::new(),
            by_topic: HashMap::new(),
            rests_until,
            unreadable: None,
        }
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    fn push(&mut self, rule: RuleKey) {
        self.rules.push(rule);
        self.by_topic.clear();
    }
}

/// A topic's name and the rules that look at it.
type TopicRules = (TopicName, Arc<[RuleKey]>);

/// The log cannot be read.
struct Unreadable {
    why: String,
    // Events that wait for that, at least.
    events: u64,
}

impl Unreadable {
    fn at(position: Position, error: &ReadError) -> Self {
        Self {
            why: with_causes(error),
            events: unreadable::waits_for(error, position),
        }
    }
}

// What came of a step.
#[derive(Default)]
struct Verdicts {
    matched: FxHashMap<RuleKey, Vec<Position>>,
    failures: Vec<(Position, FilterFailure)>,
    // How many there are of both.
    pairs: usize,
    // Rules that were not tried on this event and those after it, and when they are to be. A step ends with the call that
    // left any.
    undecided: Vec<Untried>,
}

// A rule that was not tried on an event.
struct Untried {
    rule: RuleKey,
    position: Position,
    after: Duration,
    // It goes on in another lane.
    apart: bool,
}

impl Verdicts {
    fn push(&mut self, rule: RuleKey, position: Position) {
        self.matched.entry(rule).or_default().push(position);
        self.pairs += 1;
    }

    fn push_failure(&mut self, position: Position, failure: FilterFailure) {
        self.failures.push((position, failure));
        self.pairs += 1;
    }

    // Keeps the memory for the next step, as far as it is little.
    fn clear(&mut self) {
        for matched in self.matched.values_mut() {
            matched.clear();
            matched.shrink_to(MATCHES_KEPT_MAX);
        }
        self.failures.clear();
        self.pairs = 0;
        self.undecided.clear();
    }

    fn forget(&mut self, rule: RuleKey) {
        self.matched.remove(&rule);
    }
}

impl Lane {
    fn new(
        lanes: Arc<Lanes>,
        place: Place,
        label: String,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let parts = lanes.parts.clone();
        Self {
            end: parts.log.watch_end(),
            parts,
            lanes,
            place,
            label,
            commands,
            group: None,
            members: FxHashMap::default(),
            verdicts: Verdicts::default(),
            next_key: 1,
            cohorts: Vec::new(),
            parked: Vec::new(),
            leaving: Vec::new(),
            failed: Vec::new(),
        }
    }

    async fn run(mut self) {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command).await;
            }
            self.forget_deleted().await;
            if !self.let_go().await {
                continue;
            }
            if self.is_left() && self.lanes.close(&self) {
                return;
            }
            let end = self.parts.log.end();
            self.merge(Instant::now());
            let mut progress = false;
            let mut index = 0;
            // A step may end a cohort, when its last member is paused.
            while index < self.cohorts.len() {
                if self.parts.shutdown.is_cancelled() {
                    return;
                }
                let cohort = &self.cohorts[index];
                if cohort.cursor < end && !cohort.rests(Instant::now()) {
                    progress |= self.advance(index, end).await;
                }
                index += 1;
            }
            if progress {
                continue;
            }
            let now = Instant::now();
            let late = || self.cohorts.iter().filter(|cohort| cohort.cursor < end);
            let behind = late().any(|cohort| !cohort.rests(now));
            let rested = late().filter_map(|cohort| cohort.rests_until).min();
            let has_members = !self.cohorts.is_empty();
            let command = tokio::select! {
                () = self.parts.shutdown.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => command,
                    None => return,
                },
                // A step that could not be done is tried again.
                () = tokio::time::sleep(RETRY), if behind => continue,
                () = tokio::time::sleep_until(rested.unwrap_or(now)), if rested.is_some() && !behind => continue,
                changed = self.end.wait_for(|now| *now > end), if has_members && !behind => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
            };
            self.obey(command).await;
        }
    }

    // A ward that nobody is in.
    fn is_left(&self) -> bool {
        self.place.is_apart() && self.members.is_empty() && self.failed.is_empty()
    }

    // Those that leave go to where they go on. False when there is something to be heard before.
    async fn let_go(&mut self) -> bool {
        if self.leaving.is_empty() {
            return true;
        }
        let members = self.leaving.iter();
        let members = members.filter_map(|key| self.members.get(key)).cloned();
        if !self.lanes.hand_over(self, members) {
            return false;
        }
        for key in std::mem::take(&mut self.leaving) {
            self.drop_member(key).await;
        }
        true
    }

    // Whoever deleted a subscription may have gone before it could say so here.
    async fn forget_deleted(&mut self) {
        self.failed.retain(|member| !member.live.is_deleted());
        let deleted = |member: &&Member| member.live.is_deleted();
        let gone: Vec<SubscriptionId> = self
            .members
            .values()
            .filter(deleted)
            .map(|member| member.live.id)
            .collect();
        for id in gone {
            self.obey(Command::Remove(id)).await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            // Deleted before its start was noticed.
            Command::Add(member) | Command::Move(member) if member.live.is_deleted() => {}
            Command::Add(member) => self.add(member).await,
            Command::Move(member) => self.take_in(member).await,
            Command::Retire(id) => {
                let retired = |member: &Member| {
                    member.live.id == id && member.chain.revision < member.live.read().revision()
                };
                self.failed.retain(|member| !retired(member));
                self.release(retired).await;
            }
            Command::Remove(id) => {
                self.failed.retain(|member| member.live.id != id);
                self.release(|member| member.live.id == id).await;
            }
            Command::Resume(id) => {
                let (again, failed) = std::mem::take(&mut self.failed)
                    .into_iter()
                    .partition(|member| member.live.id == id);
                self.failed = failed;
                for member in again {
                    self.add(member).await;
                }
                let (resumed, parked) = std::mem::take(&mut self.parked)
                    .into_iter()
                    .partition(|key| self.members.get(key).is_some_and(|m| m.live.id == id));
                self.parked = parked;
                for key in resumed {
                    self.join(key).await;
                }
            }
        }
    }

    // Forgets members and frees what the plugin keeps for them.
    async fn release(&mut self, goes: impl Fn(&Member) -> bool) {
        let gone: Vec<RuleKey> = self
            .members
            .iter()
            .filter(|(_, member)| goes(member))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.drop_member(key).await;
        }
    }

    async fn drop_member(&mut self, key: RuleKey) {
        self.members.remove(&key);
        self.verdicts.forget(key);
        self.leave_cohort(key);
        self.parked.retain(|parked| *parked != key);
        self.leaving.retain(|leaving| *leaving != key);
        if let Some(group) = &mut self.group {
            group.remove(key).await;
        }
        if self.members.is_empty() {
            // Its instances with it.
            self.group = None;
        }
    }

    async fn add(&mut self, member: Member) {
        let Some(used) = member.chain.filters.get(member.stage) else {
            return;
        };
        let config = used.config.clone();
        if member.next().is_none() {
            return;
        }
        let key = RuleKey(self.next_key);
        self.next_key += 1;
        match self.configure(key, &config).await {
            Ok(()) => {
                self.members.insert(key, member);
                self.join(key).await;
            }
            // No fault of the rule: it waits with its events.
            Err(error)
                if error.is_passing()
                    && let Some(group) = &mut self.group =>
            {
                group.add_later(key, &config).await;
                self.members.insert(key, member);
                self.join(key).await;
            }
            Err(error) => self.cannot_set_up(member, &error),
        }
    }

    // The rule was configured in another lane, so nothing has to be found out about that.
    async fn take_in(&mut self, member: Member) {
        let Some(used) = member.chain.filters.get(member.stage) else {
            return;
        };
        let config = used.config.clone();
        let key = RuleKey(self.next_key);
        self.next_key += 1;
        match self.group().await {
            Ok(group) => {
                group.add_later(key, &config).await;
                self.members.insert(key, member);
                self.join(key).await;
            }
            Err(error) => self.cannot_set_up(member, &error),
        }
    }

    fn cannot_set_up(&mut self, member: Member, error: &ConfigureError) {
        let reason = with_causes(error);
        tracing::error!(subscription = %member.live.name, plugin = %self.label, reason, "a filter cannot be set up; the subscription is paused");
        if member.pause(&reason) {
            self.failed.push(member);
        }
    }

    async fn configure(&mut self, key: RuleKey, config: &str) -> Result<(), ConfigureError> {
        self.group().await?.add(key, config).await
    }

    async fn group(&mut self) -> Result<&mut FilterGroup, ConfigureError> {
        if self.group.is_none() {
            let (plugins, digest) = (&self.parts.plugins, &self.place.digest);
            let group = match self.place.is_apart() {
                false => plugins.common_filter_group(digest, &self.label).await?,
                true => plugins.filter_group(digest, &self.label).await?,
            };
            self.group = Some(group);
        }
        self.group
            .as_mut()
            .ok_or(ConfigureError::NotLoaded(self.place.digest))
    }

    // Adds a member to those that look at events, if there is one left for it.
    async fn join(&mut self, key: RuleKey) {
        let Some(cursor) = self.members.get(&key).and_then(Member::next) else {
            return self.drop_member(key).await;
        };
        self.join_at(key, cursor, None);
    }

    // With those who are there and rest as long.
    fn join_at(&mut self, key: RuleKey, cursor: Position, rests_until: Option<Instant>) {
        let same =
            |cohort: &&mut Cohort| cohort.cursor == cursor && cohort.rests_until == rests_until;
        match self.cohorts.iter_mut().find(same) {
            Some(cohort) => cohort.push(key),
            None => {
                let mut cohort = Cohort::new(cursor, rests_until);
                cohort.push(key);
                self.cohorts.push(cohort);
            }
        }
    }

    fn leave_cohort(&mut self, key: RuleKey) {
        for cohort in &mut self.cohorts {
            if let Some(index) = cohort.rules.iter().position(|rule| *rule == key) {
                cohort.rules.swap_remove(index);
                cohort.by_topic.clear();
            }
        }
        self.cohorts.retain(|cohort| !cohort.rules.is_empty());
    }

    fn merge(&mut self, now: Instant) {
        for cohort in &mut self.cohorts {
            if !cohort.rests(now) {
                cohort.rests_until = None;
            }
        }
        self.cohorts
            .sort_by_key(|cohort| (cohort.cursor, cohort.rests_until));
        let mut merged: Vec<Cohort> = Vec::with_capacity(self.cohorts.len());
        for cohort in self.cohorts.drain(..) {
            match merged.last_mut() {
                Some(last)
                    if last.cursor == cohort.cursor && last.rests_until == cohort.rests_until =>
                {
                    last.rules.extend(cohort.rules);
                    last.unreadable = last.unreadable.or(cohort.unreadable);
                    last.by_topic.clear();
                }
                _ => merged.push(cohort),
            }
        }
        self.cohorts = merged;
    }

    // One step of a cohort. Returns whether its cursor moved.
    async fn advance(&mut self, index: usize, end: Position) -> bool {
        // Not past the cohort ahead, so that the two meet.
        let stop = self
            .cohorts
            .iter()
            .map(|other| other.cursor)
            .filter(|cursor| *cursor > self.cohorts[index].cursor)
            .min()
            .unwrap_or(end)
            .min(end);
        let mut verdicts = std::mem::take(&mut self.verdicts);
        let evaluated = self.evaluate(index, stop, &mut verdicts).await;
        let done = match &evaluated {
            Ok(next) => {
                if self.cohorts[index].unreadable.take().is_some() {
                    self.stand_at(index, None);
                }
                self.cohorts[index].cursor = *next;
                let done = self.report(index, &mut verdicts, *next);
                self.send_back(index);
                done
            }
            Err(_) => Vec::new(),
        };
        self.set_aside(&verdicts.undecided);
        verdicts.clear();
        self.verdicts = verdicts;
        for key in done {
            self.drop_member(key).await;
        }
        match evaluated {
            Ok(_) => true,
            Err(Unreadable { why: error, events }) => {
                self.stand_at(index, Some(self.cohorts[index].cursor));
                let cohort = &mut self.cohorts[index];
                if cohort.unreadable != Some(cohort.cursor) {
                    cohort.unreadable = Some(cohort.cursor);
                    self.parts.metrics.unreadable(events);
                    tracing::error!(plugin = %self.label, cursor = %cohort.cursor, error, "a lane cannot read the log; subscriptions that stand there wait, and it tries again");
                }
                // The others go on meanwhile.
                cohort.rests_until = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    // What the subscriptions of a cohort are shown to wait for.
    fn stand_at(&self, index: usize, position: Option<Position>) {
        let rules = self.cohorts[index].rules.iter();
        for member in rules.filter_map(|key| self.members.get(key)) {
            member.live.stand_at(member.chain.revision, position);
        }
    }

    // Members of a ward's cohort that have been sound for long enough.
    fn send_back(&mut self, index: usize) {
        if !self.place.is_apart() {
            return;
        }
        // The cohort may have ended with the step; then this is another one.
        let rules = self.cohorts.get(index).into_iter();
        let rules = rules.flat_map(|cohort| cohort.rules.iter().copied());
        let sound = |key: &RuleKey| self.members.get(key).is_some_and(|m| m.stay.is_over());
        for key in rules.filter(sound).collect::<Vec<_>>() {
            self.leave_cohort(key);
            self.leaving.push(key);
        }
    }

    // Who was not tried on an event rests before it, or goes on in a ward; the others go on.
    fn set_aside(&mut self, undecided: &[Untried]) {
        let now = Instant::now();
        // Those that were told to wait one after the other go on together.
        let rests_until = |after: &Duration| {
            let steps = after.as_millis().div_ceil(REST_STEP.as_millis());
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            (steps > 0).then(|| now + REST_STEP.saturating_mul(steps))
        };
        for untried in undecided {
            let key = untried.rule;
            // Unless its subscription is paused.
            if !self.members.contains_key(&key) || self.parked.contains(&key) {
                continue;
            }
            self.leave_cohort(key);
            match untried.apart {
                true => self.leaving.push(key),
                false => self.join_at(key, untried.position, rests_until(&untried.after)),
            }
        }
    }

    // Fills `verdicts` and answers the position before which the step ended.
    async fn evaluate(
        &mut self,
        index: usize,
        stop: Position,
        verdicts: &mut Verdicts,
    ) -> Result<Position, Unreadable> {
        let cursor = self.cohorts[index].cursor;
        let blocks = self
            .parts
            .log
            .blocks_from(cursor, STEP_BYTES)
            .await
            .map_err(|error| Unreadable::at(cursor, &error))?;
        let mut next = stop;
        let mut call = Call::default();
        for block in &blocks {
            if block.first_position >= stop {
                break;
            }
            next = block.last_position().next().min(stop);
            let Some((topic, rules)) = self.rules_of(index, block.topic, block.mark) else {
                continue;
            };
            if !call.same_rules(&rules) || call.events.len() >= CALL_EVENTS_MAX {
                if let Some(stopped) = self.call(&mut call, verdicts).await {
                    return Ok(stopped);
                }
                if verdicts.pairs > STEP_PAIRS_MAX {
                    return Ok(block.first_position);
                }
                call.rules = rules;
            }
            let added = call.add(block, &topic, cursor, stop);
            added.map_err(|why| Unreadable { why, events: 1 })?;
        }
        if let Some(stopped) = self.call(&mut call, verdicts).await {
            return Ok(stopped);
        }
        // Everything up to `stop` that is kept was in these blocks, unless the step was cut short by size.
        if blocks
            .iter()
            .any(|block| block.last_position().next() >= stop)
            || blocks.is_empty()
        {
            next = stop;
        }
        Ok(next)
    }

    // Passes the events of `call` to the plugin. `Some` when the step ends before this position: a rule was not tried on all of
    // them, or enough is known to be told.
    async fn call(&mut self, call: &mut Call, verdicts: &mut Verdicts) -> Option<Position> {
        let group = self.group.as_mut()?;
        while !call.events.is_empty() {
            let count = call.events.len().min(CALL_EVENTS_MAX);
            let Evaluation {
                matches,
                failures,
                undecided,
            } = group.evaluate(&call.events[..count], &call.rules).await;
            if self.place.is_apart() {
                note_stays(&mut self.members, &call.rules, count, &failures, &undecided);
            }
            for (event, rule) in matches {
                verdicts.push(rule, call.positions[event as usize]);
            }
            for failure in failures {
                verdicts.push_failure(call.positions[failure.event as usize], failure);
            }
            for undecided in undecided {
                verdicts.undecided.push(Untried {
                    rule: undecided.rule,
                    position: call.positions[undecided.event as usize],
                    after: undecided.after,
                    apart: undecided.apart,
                });
            }
            let end = call.positions[count - 1].next();
            call.events.drain(..count);
            call.positions.drain(..count);
            if !verdicts.undecided.is_empty() || verdicts.pairs > STEP_PAIRS_MAX {
                return Some(call.positions.first().copied().unwrap_or(end));
            }
        }
        None
    }

    // Tells every member of a cohort what came out of a step that ended before `next`. Returns those that have nothing left
    // to look at, because another chain judges from there on.
    fn report(&mut self, index: usize, verdicts: &mut Verdicts, next: Position) -> Vec<RuleKey> {
        let through = Position(next.0.saturating_sub(1));
        let mut paused: HashMap<RuleKey, (Position, String)> = HashMap::new();
        for (position, failure) in std::mem::take(&mut verdicts.failures) {
            let Some(member) = self.members.get(&failure.rule) else {
                continue;
            };
            if !member.judges(position) {
                continue;
            }
            let policy = member.policy();
            if let Some(events) = member.live.log_limits.filter_failed.admit(1) {
                tracing::warn!(subscription = %member.live.name, plugin = %self.label, %position, reason = %failure.reason, ?policy, events, "a filter failed on an event");
                let now = self.parts.registry.clock.now();
                let said = format!(
                    "filter {} failed on the event at position {position} ({events} since the last line): {}",
                    self.label, failure.reason
                );
                member.live.log_limits.plugins.push(now, said);
            }
            match policy {
                FailurePolicy::DeadLetter => {
                    let reason = &failure.reason;
                    member
                        .live
                        .apply(|state, _| state.exclude(member.stage, position, reason));
                }
                FailurePolicy::Drop => {}
                FailurePolicy::Pass => verdicts.push(failure.rule, position),
                FailurePolicy::Pause => {
                    let first = paused
                        .entry(failure.rule)
                        .or_insert_with(|| (position, failure.reason.clone()));
                    if position < first.0 {
                        *first = (position, failure.reason);
                    }
                }
            }
        }
        let untried: FxHashMap<RuleKey, Position> = verdicts
            .undecided
            .iter()
            .map(|untried| (untried.rule, untried.position))
            .collect();
        let mut done = Vec::new();
        for key in self.cohorts[index].rules.clone() {
            let Some(member) = self.members.get(&key) else {
                continue;
            };
            let mut none = Vec::new();
            let matched = verdicts.matched.get_mut(&key).unwrap_or(&mut none);
            matched.sort_unstable();
            matched.dedup();
            let stop = paused.get(&key);
            let through = match stop {
                None => match untried.get(&key) {
                    Some(at) => Position(at.0.saturating_sub(1)),
                    None => through,
                },
                Some((at, _)) => {
                    matched.retain(|position| position < at);
                    Position(at.0.saturating_sub(1))
                }
            };
            let revision = member.chain.revision;
            // Whether another chain judges what comes next.
            let is_done = member.live.apply(|state, _| {
                if state.revision() != revision {
                    return true;
                }
                state.stage_result(member.stage, through, matched);
                match stop {
                    Some((at, reason)) if state.revision() == revision => {
                        state.pause(&format!("filter failed at position {at}: {reason}"));
                        false
                    }
                    _ => {
                        state.revision() != revision
                            || state.stage_through(member.stage) >= state.judges_until()
                    }
                }
            });
            if is_done {
                done.push(key);
            }
        }
        for key in paused.into_keys() {
            self.leave_cohort(key);
            self.parked.push(key);
        }
        done
    }

    fn rules_of(&mut self, index: usize, topic: TopicId, mark: LetterMark) -> Option<TopicRules> {
        let cohort = &mut self.cohorts[index];
        let looked_up = (topic, mark.is_letter());
        if let Some(known) = cohort.by_topic.get(&looked_up) {
            return known.clone();
        }
        let name = {
            let catalog = self
                .parts
                .catalog
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            catalog.topic_name(topic)
        };
        let entry = name.and_then(|name| {
            let selects = |key: &&RuleKey| {
                self.members
                    .get(*key)
                    .is_some_and(|member| member.selects(&name, mark))
            };
            let rules: Vec<RuleKey> = cohort.rules.iter().filter(selects).copied().collect();
            if rules.is_empty() {
                return None;
            }
            // Lists are compared by pointer when events are put together, so equal ones must be one.
            let mut known = cohort.by_topic.values().flatten().map(|(_, list)| list);
            let shared = known.find(|list| list[..] == rules[..]).cloned();
            Some((name, shared.unwrap_or_else(|| rules.into())))
        });
        cohort.by_topic.insert(looked_up, entry.clone());
        entry
    }
}

// How members of a ward fared in a call.
fn note_stays(
    members: &mut FxHashMap<RuleKey, Member>,
    asked: &[RuleKey],
    events: usize,
    failures: &[FilterFailure],
    undecided: &[Undecided],
) {
    for key in asked {
        if let Some(member) = members.get_mut(key) {
            member.stay.asked(events);
        }
    }
    let failed = failures.iter().map(|failure| failure.rule);
    for key in failed.chain(undecided.iter().map(|undecided| undecided.rule)) {
        if let Some(member) = members.get_mut(&key) {
            member.stay.failed();
        }
    }
}

// Events that go into one call: those of blocks whose topics have the same rules.
#[derive(Default)]
struct Call {
    rules: Arc<[RuleKey]>,
    events: Vec<InputEvent>,
    positions: Vec<Position>,
}

impl Call {
    fn same_rules(&self, rules: &Arc<[RuleKey]>) -> bool {
        Arc::ptr_eq(&self.rules, rules)
    }

    fn add(
        &mut self,
        block: &Block,
        topic: &TopicName,
        from: Position,
        stop: Position,
    ) -> Result<(), String> {
        for (index, bytes) in block.events().map_err(|error| error.to_string())? {
            let position = block.position(index);
            if position < from || position >= stop {
                continue;
            }
            self.positions.push(position);
            self.events.push(InputEvent {
                topic: topic.shared(),
                sequence: block.sequence(index),
                time: block.time,
                bytes,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_several_versions_are_told_apart() {
        let name = |byte| lane_name("scrub", Place::common(Digest([byte; 32])));
        assert_eq!(name(0xab), "lane of scrub (sha256:abababababab)");
        assert_ne!(name(1), name(2));
        let ward = Place {
            ward: Some(3),
            ..Place::common(Digest([0xab; 32]))
        };
        let ward = lane_name("scrub", ward);
        assert_eq!(ward, "lane of scrub (sha256:abababababab), ward 3");
    }
}
