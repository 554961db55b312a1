//! `tidegate subscription`, and what it shares with `tidegate route`.

use anyhow::bail;

use super::api::{Api, segment};
use super::chain::Chain;
use super::connect::ManageFlags;
use super::{output, text};
use crate::domain::{
    DeliveryPatch, DeliveryPolicy, LogLine, Millis, Name, Owner, PluginUse, Principal, StartAt,
    SubscriptionInfo, SubscriptionPatch, SubscriptionSpec, TopicName, TopicPattern,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a subscription
    Create(Box<CreateArgs>),
    /// Change a subscription; what is not named stays
    ///
    /// Changed filters, a changed dead-letter topic and whether dead letters are taken in hold from a position on: events
    /// before it are judged as it was. Transforms and the rest of the delivery hold from the next delivery on. A plugin
    /// that is named again without a version is used in its newest one. Defaults that are mentioned below are those of
    /// `create`. Topics and the start cannot be changed.
    Update(Box<UpdateArgs>),
    /// List subscriptions
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Show one subscription
    Show(NamedArgs),
    /// Delete a subscription and what it has not acked
    Delete(NamedArgs),
    /// Show what was lately said of the failures of the plugins of a subscription or route
    Log(NamedArgs),
    /// Give a subscription to an owner
    Chown(ChownArgs),
    /// Let a paused subscription or route go on
    Resume(NamedArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name
    name: Name,
    /// Topics it reads: `*` stands for one token, a final `>` for the rest. Repeatable
    #[arg(long, short, required = true, value_name = "PATTERN")]
    topic: Vec<TopicPattern>,
    #[command(flatten)]
    what: SpecFlags,
    #[command(flatten)]
    flags: ManageFlags,
}

/// Which one. Shared with routes.
#[derive(Debug, clap::Args)]
pub(super) struct NamedArgs {
    /// Its name
    pub(super) name: String,
    #[command(flatten)]
    pub(super) flags: ManageFlags,
}

/// What a new one does with its events, and for whom. Shared with routes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SpecFlags {
    #[command(flatten)]
    chain: Chain,
    /// Take in the dead letters of all topics that the patterns match
    ///
    /// Without it a pattern that begins with a wildcard (`>`, `*.eu`) takes in none, so that who reads everything does
    /// not read, and give up, what others gave up. One that spells out at least the first token of their topic
    /// (`dead.>`, `dead.orders`) always takes them in.
    #[arg(long)]
    include_dead_letters: bool,
    #[command(flatten)]
    delivery: DeliveryFlags,
    /// Whose it is: a principal, or with `*` for any characters a group of them. Only the owner, and who has a consume
    /// right on its name, may attach; and the broker does what it does by itself with the owner's rights
    #[arg(long, value_name = "PRINCIPAL")]
    owner: Option<Owner>,
}

/// Who gets it. Shared with routes.
#[derive(Debug, clap::Args)]
pub(super) struct ChownArgs {
    /// Its name
    name: String,
    /// Whose it is from now on: a principal, or with `*` for any characters a group of them
    #[arg(required_unless_present = "nobody")]
    owner: Option<Owner>,
    /// It belongs to nobody: who may subscribe to its topics may attach
    #[arg(long, conflicts_with = "owner")]
    nobody: bool,
    #[command(flatten)]
    flags: ManageFlags,
}

#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(flatten)]
    flags: ManageFlags,
}

/// What to change. Shared with routes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ChangeFlags {
    #[command(flatten)]
    chain: Chain,
    /// Let every event of its topics pass
    #[arg(long, conflicts_with = "filter", help_heading = "Plugins")]
    no_filters: bool,
    /// Deliver events as they are
    #[arg(long, conflicts_with = "transform", help_heading = "Plugins")]
    no_transforms: bool,
    /// Take in the dead letters of all topics that the patterns match, or no longer (`=false`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    include_dead_letters: Option<bool>,
    #[command(flatten)]
    policy: PolicyFlags,
}

/// How events are handed out. What is not given is left to the broker's defaults.
#[derive(Clone, Debug, Default, clap::Args)]
struct DeliveryFlags {
    /// Where it starts: new (the next event) or earliest (the oldest that is kept)
    #[arg(long, default_value = "new", value_parser = text::word::<StartAt>, help_heading = "Delivery")]
    start: StartAt,
    #[command(flatten)]
    policy: PolicyFlags,
}

/// How events are handed out, as far as that can be changed later.
#[derive(Clone, Debug, Default, clap::Args)]
struct PolicyFlags {
    /// Time a consumer has for an event before it is handed out again [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = text::duration_ms, help_heading = "Delivery")]
    ack_deadline: Option<u64>,
    /// Times an event is handed out before it goes to the dead-letter topic; 0: without end [default: 10]
    #[arg(long, value_name = "N", help_heading = "Delivery")]
    attempts: Option<u32>,
    /// Waits before the second, third … attempt; the last repeats [default: 1s,5s,30s]
    #[arg(long, value_name = "TIMES", value_delimiter = ',', value_parser = text::duration_ms, help_heading = "Delivery")]
    backoff: Option<Vec<u64>>,
    /// Topic for events that were given up [default: dead.NAME]
    #[arg(long, value_name = "TOPIC", help_heading = "Delivery")]
    dead_letter: Option<TopicName>,
    /// Events handed out and not acked, over all consumers [default: 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Delivery")]
    in_flight: Option<u32>,
}

impl DeliveryFlags {
    fn policy(&self) -> DeliveryPolicy {
        let mut policy = DeliveryPolicy::default();
        self.policy.patch().apply(&mut policy);
        policy
    }
}

impl PolicyFlags {
    fn patch(&self) -> DeliveryPatch {
        DeliveryPatch {
            ack_deadline_ms: self.ack_deadline,
            attempts_max: self.attempts,
            backoff_ms: self.backoff.clone(),
            dead_letter: self.dead_letter.clone(),
            in_flight_events_max: self.in_flight,
        }
    }
}

impl ChangeFlags {
    pub(super) fn patch(&self) -> anyhow::Result<SubscriptionPatch> {
        let chain = self.chain.clone().with_files_read()?;
        let named = |uses: Vec<PluginUse>, none: bool| (none || !uses.is_empty()).then_some(uses);
        Ok(SubscriptionPatch {
            filters: named(chain.filters, self.no_filters),
            transforms: named(chain.transforms, self.no_transforms),
            delivery: self.policy.patch(),
            outputs: None,
            include_dead_letters: self.include_dead_letters,
        })
    }
}

impl SpecFlags {
    /// The specification of `name`, which reads `topics` and has no outputs.
    ///
    /// # Errors
    ///
    /// A file that a flag names cannot be read.
    pub(super) fn spec(
        &self,
        name: &Name,
        topics: &[TopicPattern],
    ) -> anyhow::Result<SubscriptionSpec> {
        let chain = self.chain.clone().with_files_read()?;
        Ok(SubscriptionSpec {
            filters: chain.filters,
            transforms: chain.transforms,
            start: self.delivery.start,
            delivery: self.delivery.policy(),
            owner: self.owner.clone(),
            include_dead_letters: self.include_dead_letters,
            ..plain_spec(name.clone(), topics.to_vec())
        })
    }
}

impl CreateArgs {
    fn spec(&self) -> anyhow::Result<SubscriptionSpec> {
        self.what.spec(&self.name, &self.topic)
    }
}

/// A subscription with nothing but topics.
pub(super) fn plain_spec(name: Name, topics: Vec<TopicPattern>) -> SubscriptionSpec {
    SubscriptionSpec {
        name,
        topics,
        filters: Vec::new(),
        transforms: Vec::new(),
        start: StartAt::default(),
        delivery: DeliveryPolicy::default(),
        outputs: Default::default(),
        owner: None,
        include_dead_letters: false,
        created: Millis(0),
        created_by: None,
    }
}

#[cfg(test)]
impl Args {
    pub(super) fn spec_to_create(&self) -> SubscriptionSpec {
        match &self.command {
            Command::Create(create) => create.spec().expect("a specification"),
            other => panic!("{other:?} creates nothing"),
        }
    }

    pub(super) fn patch_to_apply(&self) -> SubscriptionPatch {
        match &self.command {
            Command::Update(update) => update.change.patch().expect("a patch"),
            other => panic!("{other:?} changes nothing"),
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Create(create) => {
            let info: SubscriptionInfo = create
                .flags
                .api()?
                .post("/v1/subscriptions", &create.spec()?)?;
            output::either(create.flags.json, &info, |info| {
                let name = &info.spec.name;
                format!("created subscription {name}; receive with: tidegate sub {name}")
            })
        }
        Command::Update(args) => {
            let patch = args.change.patch()?;
            update(&args.name, &patch, &args.flags, Kind::Subscription)
        }
        Command::List { flags } => {
            let mut all: Vec<SubscriptionInfo> = flags.api()?.list("/v1/subscriptions")?;
            all.retain(|info| !info.spec.is_route());
            output::either(flags.json, &all, |all| list(all))
        }
        Command::Show(args) => show(args, Kind::Subscription),
        Command::Delete(args) => delete(args, Kind::Subscription),
        Command::Chown(args) => chown(args, Kind::Subscription),
        Command::Log(NamedArgs { name, flags }) => {
            let lines: Vec<LogLine> = flags.api()?.get(&format!("{}/log", path(name)))?;
            output::either(flags.json, &lines, |lines| log(lines))
        }
        Command::Resume(NamedArgs { name, flags }) => {
            flags.api()?.post_empty(&format!("{}/resume", path(name)))?;
            let answer = serde_json::json!({ "resumed": name });
            output::either(flags.json, &answer, |_| format!("resumed {name}"))
        }
    }
}

/// Which of the two a command is about; they share one name space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Subscription,
    Route,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Route => "route",
        }
    }
}

pub(super) fn show(args: &NamedArgs, kind: Kind) -> anyhow::Result<()> {
    let info = get(&args.flags.api()?, &args.name, kind)?;
    output::either(args.flags.json, &info, details)
}

pub(super) fn update(
    name: &str,
    patch: &SubscriptionPatch,
    flags: &ManageFlags,
    kind: Kind,
) -> anyhow::Result<()> {
    if *patch == SubscriptionPatch::default() {
        bail!(
            "nothing to change; `tidegate {} update --help` shows what can be",
            kind.word()
        );
    }
    let api = flags.api()?;
    let before = get(&api, name, kind)?;
    let info: SubscriptionInfo = api.patch(&path(name), patch)?;
    output::either(flags.json, &info, |info| match info.fence {
        _ if info.revision == before.revision => format!("{name} is like that already"),
        Some(fence) if info.fence != before.fence => {
            format!(
                "updated {} {name}; its filters hold from position {fence} on",
                kind.word()
            )
        }
        _ => format!("updated {} {name}", kind.word()),
    })
}

pub(super) fn chown(args: &ChownArgs, kind: Kind) -> anyhow::Result<()> {
    let api = args.flags.api()?;
    get(&api, &args.name, kind)?;
    let body = serde_json::json!({ "owner": args.owner });
    let info: SubscriptionInfo = api.post(&format!("{}/chown", path(&args.name)), &body)?;
    output::either(args.flags.json, &info, |info| match &info.spec.owner {
        Some(owner) => format!("{} {} belongs to {owner}", kind.word(), args.name),
        None => format!("{} {} belongs to nobody", kind.word(), args.name),
    })
}

pub(super) fn delete(args: &NamedArgs, kind: Kind) -> anyhow::Result<()> {
    let NamedArgs { name, flags } = args;
    let api = flags.api()?;
    get(&api, name, kind)?;
    api.delete(&path(name))?;
    let answer = serde_json::json!({ "deleted": name });
    output::either(flags.json, &answer, |_| {
        format!("deleted {} {name}", kind.word())
    })
}

/// The path of a subscription or route.
pub(super) fn path(name: &str) -> String {
    format!("/v1/subscriptions/{}", segment(name))
}

// A route deleted as a subscription would be a surprise.
fn get(api: &Api, name: &str, kind: Kind) -> anyhow::Result<SubscriptionInfo> {
    let info: SubscriptionInfo = api.get(&path(name))?;
    let actual = if info.spec.is_route() {
        Kind::Route
    } else {
        Kind::Subscription
    };
    if actual != kind {
        bail!("`{name}` is a {0}; use `tidegate {0} …`", actual.word());
    }
    Ok(info)
}

fn list(all: &[SubscriptionInfo]) -> String {
    let rows = all.iter().map(|info| {
        vec![
            info.spec.name.to_string(),
            joined(&info.spec.topics, " "),
            plugins(&info.spec, " "),
            info.depth.to_string(),
            info.unevaluated.to_string(),
            info.in_flight.to_string(),
            text::age(info.oldest_unacked_ms),
            info.dead_lettered.to_string(),
            info.consumers.to_string(),
            state(info),
        ]
    });
    let heading = [
        "SUBSCRIPTION",
        "TOPICS",
        "PLUGINS",
        "DEPTH",
        "UNEVALUATED",
        "IN FLIGHT",
        "OLDEST",
        "DEAD",
        "CONSUMERS",
        "STATE",
    ];
    output::table("no subscriptions", &heading, rows.collect())
}

pub(super) fn details(info: &SubscriptionInfo) -> String {
    let SubscriptionSpec {
        name,
        topics,
        filters,
        transforms,
        start,
        delivery,
        outputs,
        owner,
        include_dead_letters,
        created,
        created_by,
    } = &info.spec;
    let mut rows = vec![
        ("name", name.to_string()),
        ("topics", joined(topics, "\n")),
        ("filters", plugins_in_full(filters)),
        ("transforms", plugins_in_full(transforms)),
    ];
    if info.spec.is_route() {
        let lines: Vec<String> = outputs
            .iter()
            .map(|(name, topic)| format!("{name} = {topic}"))
            .collect();
        rows.push(("outputs", lines.join("\n")));
    }
    let backoff: Vec<String> = delivery
        .backoff_ms
        .iter()
        .map(|ms| text::age(*ms))
        .collect();
    let letters = match include_dead_letters {
        true => "all of its topics'",
        false => "where a pattern spells out the first token of their topic",
    };
    let attempts = match delivery.attempts_max {
        0 => "without end".to_owned(),
        max => max.to_string(),
    };
    rows.extend([
        ("takes in letters", letters.to_owned()),
        ("start", text::word_of(start)),
        ("ack deadline", text::age(delivery.ack_deadline_ms)),
        ("attempts", attempts),
        ("back-off", backoff.join(", ")),
        ("dead letters", info.spec.dead_letter_topic().to_string()),
        ("in flight max", delivery.in_flight_events_max.to_string()),
        ("owner", owner_of(owner.as_ref())),
        ("created", created_at(*created, created_by.as_ref())),
        ("changes", changes(info)),
        ("state", state(info)),
        ("depth", info.depth.to_string()),
        ("unevaluated", info.unevaluated.to_string()),
        ("in flight", info.in_flight.to_string()),
        ("oldest", text::age(info.oldest_unacked_ms)),
        ("consumers", info.consumers.to_string()),
        ("redelivered", info.redelivered.to_string()),
        ("dead-lettered", info.dead_lettered.to_string()),
        ("letters dropped", info.letters_dropped.to_string()),
        ("unreadable", info.unreadable.to_string()),
    ]);
    output::details(rows)
}

pub(super) fn state(info: &SubscriptionInfo) -> String {
    let mut state = match (&info.paused, &info.stopped) {
        (Some(reason), _) => return with_limits(format!("paused: {reason}"), info),
        (None, Some(denied)) if info.spec.is_route() => {
            return with_limits(format!("stopped: {denied}"), info);
        }
        (None, _) => "active".to_owned(),
    };
    match info.pending_changes {
        0 => {}
        1 => state.push_str(", 1 change pending"),
        pending => state.push_str(&format!(", {pending} changes pending")),
    }
    if let Some(denied) = &info.stopped {
        state.push_str(&format!(", dead letters wait: {denied}"));
    }
    with_limits(state, info)
}

fn with_limits(mut state: String, info: &SubscriptionInfo) -> String {
    if let Some(position) = info.stands_at {
        state.push_str(&format!(
            ", stands at position {position}, which cannot be read"
        ));
    } else if info.unreadable > 0 {
        state.push_str(&format!(", {} events cannot be read", info.unreadable));
    }
    if !info.limits_reached.is_empty() {
        state.push_str(&format!(", at a limit: {}", info.limits_reached.join(" ")));
    }
    state
}

fn log(lines: &[LogLine]) -> String {
    let line = |line: &LogLine| {
        let text = line.text.replace(char::is_control, " ");
        format!("{} {text}", text::moment(line.time.0))
    };
    match lines {
        [] => "nothing was said since the broker started".to_owned(),
        lines => lines.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

fn owner_of(owner: Option<&Owner>) -> String {
    match owner {
        Some(owner) => owner.to_string(),
        None => "nobody; whoever may subscribe to its topics may attach".to_owned(),
    }
}

fn created_at(created: Millis, by: Option<&Principal>) -> String {
    let at = text::moment(created.0);
    by.map_or(at.clone(), |by| format!("{at} by {by}"))
}

fn changes(info: &SubscriptionInfo) -> String {
    let fence = info.fence;
    let fence = fence.map(|fence| format!("; these filters hold from position {fence} on"));
    let pending = match info.pending_changes {
        0 => String::new(),
        pending => format!("; {pending} pending"),
    };
    format!("{}{}{pending}", info.revision, fence.unwrap_or_default())
}

pub(super) fn joined<T: ToString>(items: &[T], separator: &str) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(separator)
}

/// Names of all plugins, in the order of their use.
pub(super) fn plugins(spec: &SubscriptionSpec, separator: &str) -> String {
    let names = spec
        .filters
        .iter()
        .chain(&spec.transforms)
        .map(|plugin| plugin.plugin.as_str());
    names.collect::<Vec<_>>().join(separator)
}

fn plugins_in_full(plugins: &[PluginUse]) -> String {
    let lines = plugins.iter().map(|plugin| {
        let on_failure = text::word_of(&plugin.on_failure);
        format!(
            "{} (on failure: {on_failure}) {}",
            plugin.plugin,
            plugin.config.trim()
        )
    });
    lines
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
