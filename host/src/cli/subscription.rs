//! `tidegate subscription`, and what `tidegate route` does in the same way.

pub(super) mod display;
pub(super) mod flags;
pub(super) mod going_on;

use anyhow::bail;

use self::flags::{ChangeFlags, ChownArgs, DeleteArgs, NamedArgs, PauseArgs, SpecFlags};
use super::admin_client::{Api, segment};
use super::admin_flags::ManageFlags;
use super::wrong_usage::wrong_usage;
use super::{human_values, output};
use crate::domain::{
    LogLine, Name, PluginPatch, PluginWorld, SubscriptionInfo, SubscriptionPatch, SubscriptionSpec,
    TopicPattern,
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
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Show one subscription
    Show(NamedArgs),
    /// Delete a subscription and what it has not acked
    ///
    /// On a terminal it says what goes with it, and asks.
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Show what lately went wrong with a subscription or route: failures of its plugins, and events that it gave up
    Log(NamedArgs),
    /// Give a subscription to an owner
    Chown(ChownArgs),
    /// Let a subscription hand out nothing until it is resumed; what comes meanwhile waits
    Pause(PauseArgs),
    /// Let a paused subscription go on
    Resume(NamedArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name
    name: Name,
    /// Topics it reads: `*` stands for one token, a final `>` for the rest. Repeatable
    #[arg(long, short, required = true, value_name = "PATTERN")]
    topic: Vec<TopicPattern>,
    /// Let the broker delete it, with what it keeps, once it has had no consumer for so long: from 1s to 30 days. Without it, it stays
    #[arg(long, value_name = "TIME", value_parser = human_values::duration_ms)]
    delete_after_idle: Option<u64>,
    #[command(flatten)]
    what: SpecFlags,
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

impl CreateArgs {
    fn spec(&self) -> anyhow::Result<SubscriptionSpec> {
        Ok(SubscriptionSpec {
            delete_after_idle_ms: self.delete_after_idle,
            ..self.what.spec(&self.name, &self.topic)?
        })
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
            output::either(create.flags.format(), &info, |info| {
                let name = &info.spec.name;
                format!("created subscription {name}; receive with: tidegate sub {name}")
            })?;
            say_letters(&info);
            Ok(())
        }
        Command::Update(args) => {
            let patch = args.change.patch()?;
            update(&args.name, &patch, &args.flags, Kind::Subscription)
        }
        Command::List { flags } => {
            let mut all: Vec<SubscriptionInfo> = flags.api()?.list("/v1/subscriptions")?;
            all.retain(|info| !info.spec.is_route());
            let format = flags.format();
            output::either(format, &all, |all| display::list(format, all))
        }
        Command::Show(args) => show(args, Kind::Subscription),
        Command::Delete(args) => delete(args, Kind::Subscription),
        Command::Chown(args) => chown(args, Kind::Subscription),
        Command::Log(args) => log(args),
        Command::Pause(args) => pause(args),
        Command::Resume(args) => resume(args),
    }
}

/// Of either kind: what is said of one does not depend on it.
pub(super) fn log(args: &NamedArgs) -> anyhow::Result<()> {
    let NamedArgs { name, flags } = args;
    let lines: Vec<LogLine> = flags.api()?.get(&format!("{}/log", path(name)))?;
    output::either(flags.format(), &lines, |lines| display::log(lines))
}

/// Lets one of either kind stand still.
pub(super) fn pause(args: &PauseArgs) -> anyhow::Result<()> {
    let PauseArgs {
        name,
        reason,
        flags,
    } = args;
    let body = serde_json::json!({ "reason": reason });
    let info: SubscriptionInfo = flags.api()?.post(&format!("{}/pause", path(name)), &body)?;
    output::either(flags.format(), &info, |info| {
        let why = info.paused.as_deref().unwrap_or_default();
        format!(
            "paused {name} ({why}); let it go on with: {}",
            going_on::resume(info)
        )
    })
}

/// Lets a paused one of either kind go on.
pub(super) fn resume(args: &NamedArgs) -> anyhow::Result<()> {
    let NamedArgs { name, flags } = args;
    let api = flags.api()?;
    let before: SubscriptionInfo = api.get(&path(name))?;
    // Also of one that is not paused: what feeds it begins anew if it has died.
    api.post_empty(&format!("{}/resume", path(name)))?;
    let answer = serde_json::json!({ "resumed": name, "was_paused": before.paused.is_some() });
    output::either(flags.format(), &answer, |_| match before.paused {
        Some(_) => format!("resumed {name}"),
        None => format!("{name} was not paused"),
    })
}

/// Says that nobody keeps the dead letters of one that was made or changed, if that is so.
pub(super) fn say_letters(info: &SubscriptionInfo) {
    if let Some(note) = display::letters_note(info) {
        output::note(&note);
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
    output::either(args.flags.format(), &info, display::details)
}

pub(super) fn update(
    name: &str,
    patch: &SubscriptionPatch,
    flags: &ManageFlags,
    kind: Kind,
) -> anyhow::Result<()> {
    if *patch == SubscriptionPatch::default() {
        wrong_usage!(
            "nothing to change; `tidegate {} update --help` shows what can be",
            kind.word()
        );
    }
    let api = flags.api()?;
    let before = get(&api, name, kind)?;
    let info: SubscriptionInfo = api.patch(&path(name), patch)?;
    output::either(flags.format(), &info, |info| match info.fence {
        _ if info.revision == before.revision => format!("{name} is like that already"),
        Some(fence) if info.fence != before.fence => {
            format!(
                "updated {} {name}; its filters hold from position {fence} on",
                kind.word()
            )
        }
        _ => format!("updated {} {name}", kind.word()),
    })?;
    for note in left_out(patch, &before, &info) {
        output::note(&note);
    }
    if info.paused.is_some() {
        let resume = going_on::resume(&info);
        output::note(&format!(
            "note: {name} is paused; let it go on with: {resume}"
        ));
    }
    say_letters(&info);
    Ok(())
}

// Of lists that were named, which take the place of what was there, what is not there any more.
fn left_out(
    patch: &SubscriptionPatch,
    before: &SubscriptionInfo,
    after: &SubscriptionInfo,
) -> Vec<String> {
    let names = |info: &SubscriptionInfo, world: PluginWorld| {
        let plugins = display::plugin_names(info);
        let (filters, transforms) = plugins.split_at(info.spec.filters.len());
        match world {
            PluginWorld::Filter => filters.to_vec(),
            PluginWorld::Transform => transforms.to_vec(),
        }
    };
    let outputs = |info: &SubscriptionInfo| {
        let outputs = info.spec.outputs.keys().map(ToString::to_string);
        outputs.collect::<Vec<_>>()
    };
    let is_named =
        |list: &Option<Vec<PluginPatch>>| list.as_ref().is_some_and(|all| !all.is_empty());
    [
        (
            "--filter",
            "filter",
            is_named(&patch.filters),
            names(before, PluginWorld::Filter),
            names(after, PluginWorld::Filter),
        ),
        (
            "--transform",
            "transform",
            is_named(&patch.transforms),
            names(before, PluginWorld::Transform),
            names(after, PluginWorld::Transform),
        ),
        (
            "--to",
            "output",
            patch.outputs.is_some(),
            outputs(before),
            outputs(after),
        ),
    ]
    .into_iter()
    .filter(|(_, _, is_named, ..)| *is_named)
    .flat_map(|(flag, what, _, mut gone, stays)| {
        for name in stays {
            if let Some(at) = gone.iter().position(|before| *before == name) {
                gone.remove(at);
            }
        }
        gone.into_iter().map(move |name| {
            format!(
                "note: its {what} {name} is gone, since all that stay are to be named with {flag}"
            )
        })
    })
    .collect()
}

pub(super) fn chown(args: &ChownArgs, kind: Kind) -> anyhow::Result<()> {
    let api = args.flags.api()?;
    get(&api, &args.name, kind)?;
    let body = serde_json::json!({ "owner": args.owner });
    let info: SubscriptionInfo = api.post(&format!("{}/chown", path(&args.name)), &body)?;
    output::either(args.flags.format(), &info, |info| match &info.spec.owner {
        Some(owner) => format!("{} {} belongs to {owner}", kind.word(), args.name),
        None => format!("{} {} belongs to nobody", kind.word(), args.name),
    })
}

pub(super) fn delete(args: &DeleteArgs, kind: Kind) -> anyhow::Result<()> {
    let DeleteArgs {
        names,
        confirm,
        flags,
    } = args;
    let api = flags.api()?;
    // All of them first, so that one that is misspelled deletes none of the others.
    let mut going = Vec::with_capacity(names.len());
    for name in names {
        let info = get(&api, name, kind)?;
        let pending = info.depth + info.unevaluated;
        let lost = match pending {
            0 => String::new(),
            1 => " with 1 pending event".to_owned(),
            _ => format!(" with {pending} pending events"),
        };
        let consumers = match info.consumers {
            0 => String::new(),
            count => format!("; consumers that are attached end: {count}"),
        };
        let what = format!("{} {name}{lost}", kind.word());
        going.push((name, pending, what, consumers));
    }
    let asked: Vec<String> = going
        .iter()
        .map(|(.., what, consumers)| format!("{what}{consumers}"))
        .collect();
    let what = match names.len() {
        1 => "Delete it",
        _ => "Delete them",
    };
    confirm.confirm(&api, what, &asked.join("\n"))?;
    let deleted = going.into_iter().map(|(name, pending, what, _)| {
        api.delete(&path(name))?;
        let answer = serde_json::json!({ "deleted": name, "pending": pending });
        Ok((answer, format!("deleted {what}")))
    });
    output::each(flags.format(), names.len(), deleted)
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
