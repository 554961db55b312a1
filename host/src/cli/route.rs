//! `tidegate route`: subscriptions that the broker itself consumes, and whose results go to topics.

use std::collections::BTreeMap;

use super::admin_flags::ManageFlags;
use super::human_values;
use super::output::{self, Format};
use super::subscription::display::{joined, plugins, state_in_list};
use super::subscription::flags::{
    ChangeFlags, ChownArgs, DeleteArgs, NamedArgs, PauseArgs, SpecFlags,
};
use super::subscription::{self, Kind};
use super::wrong_usage::wrong_usage;
use crate::domain::{
    Name, SubscriptionInfo, SubscriptionPatch, SubscriptionSpec, TopicName, TopicPattern,
};

/// Name of an output that was given without one. Transforms that name no output mean the only one.
const ONLY_OUTPUT: &str = "out";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a route
    Create(Box<CreateArgs>),
    /// Change a route; what is not named stays
    ///
    /// Changed filters, a changed dead-letter topic and whether dead letters are taken in hold from a position on: events
    /// before it are judged as it was. Transforms, outputs and the rest hold from the next event on that the route takes
    /// up. A plugin that is named again without a version is used in its newest one. Defaults that are mentioned
    /// below are those of `create`. What it reads and its start cannot be changed.
    Update(Box<UpdateArgs>),
    /// List routes
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Show one route
    Show(NamedArgs),
    /// Give a route to an owner, with whose rights it works from then on
    Chown(ChownArgs),
    /// Delete a route and what it has not handled
    ///
    /// On a terminal it says what goes with it, and asks.
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Show what lately went wrong with a route: failures of its plugins, and events that it gave up
    Log(NamedArgs),
    /// Let a route do nothing until it is resumed; what comes meanwhile waits
    Pause(PauseArgs),
    /// Let a paused route go on
    Resume(NamedArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name
    name: Name,
    /// Topics it reads: `*` stands for one token, a final `>` for the rest. Repeatable
    #[arg(long, required = true, value_name = "PATTERN")]
    from: Vec<TopicPattern>,
    /// Where its results go: the output's name in the transform, and a topic. One output needs no name.
    /// Repeatable
    #[arg(long, required = true, value_name = "[OUTPUT=]TOPIC", value_parser = output_of)]
    to: Vec<(Name, TopicName)>,
    #[command(flatten)]
    what: SpecFlags,
    #[command(flatten)]
    flags: ManageFlags,
}

#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// Its name
    name: String,
    /// All of its outputs, as for `create`; those that are not named end. Repeatable
    #[arg(long, value_name = "[OUTPUT=]TOPIC", value_parser = output_of)]
    to: Vec<(Name, TopicName)>,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(flatten)]
    flags: ManageFlags,
}

impl UpdateArgs {
    fn patch(&self) -> anyhow::Result<SubscriptionPatch> {
        let outputs = outputs(&self.to)?;
        Ok(SubscriptionPatch {
            outputs: (!outputs.is_empty()).then_some(outputs),
            ..self.change.patch()?
        })
    }
}

impl CreateArgs {
    fn spec(&self) -> anyhow::Result<SubscriptionSpec> {
        Ok(SubscriptionSpec {
            outputs: outputs(&self.to)?,
            ..self.what.spec(&self.name, &self.from)?
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
            Command::Update(update) => update.patch().expect("a patch"),
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
                format!("created route {}", info.spec.name)
            })?;
            subscription::say_letters(&info);
            Ok(())
        }
        Command::Update(args) => {
            subscription::update(&args.name, &args.patch()?, &args.flags, Kind::Route)
        }
        Command::List { flags } => {
            let all: Vec<SubscriptionInfo> = flags.api()?.list("/v1/routes")?;
            output::either(flags.format(), &all, |all| list(flags.format(), all))
        }
        Command::Show(args) => subscription::show(args, Kind::Route),
        Command::Chown(args) => subscription::chown(args, Kind::Route),
        Command::Delete(args) => subscription::delete(args, Kind::Route),
        Command::Log(args) => subscription::log(args),
        Command::Pause(args) => subscription::pause(args),
        Command::Resume(args) => subscription::resume(args),
    }
}

fn outputs(to: &[(Name, TopicName)]) -> anyhow::Result<BTreeMap<Name, TopicName>> {
    let outputs: BTreeMap<Name, TopicName> = to.iter().cloned().collect();
    if outputs.len() < to.len() {
        wrong_usage!("two outputs have the same name; write --to NAME=TOPIC with different names");
    }
    Ok(outputs)
}

fn output_of(text: &str) -> Result<(Name, TopicName), String> {
    let (name, topic) = text.split_once('=').unwrap_or((ONLY_OUTPUT, text));
    let name = name
        .parse()
        .map_err(|error: crate::domain::NameError| error.to_string())?;
    let topic = topic
        .parse()
        .map_err(|error: crate::domain::NameError| error.to_string())?;
    Ok((name, topic))
}

fn list(format: Format, all: &[SubscriptionInfo]) -> String {
    let rows = all.iter().map(|info| {
        let owner = info.spec.owner.as_ref();
        let outputs: Vec<String> = info
            .spec
            .outputs
            .iter()
            .map(|(name, topic)| format!("{name}={topic}"))
            .collect();
        vec![
            info.spec.name.to_string(),
            joined(&info.spec.topics, " "),
            plugins(info, " "),
            outputs.join(" "),
            info.depth.to_string(),
            human_values::age_if_known(info.oldest_unacked_ms),
            info.dead_lettered.to_string(),
            state_in_list(format, info),
            owner.map_or_else(String::new, ToString::to_string),
            info.unevaluated.to_string(),
            info.in_flight.to_string(),
            human_values::moment(info.spec.created.0),
        ]
    });
    let heading = [
        "ROUTE",
        "FROM",
        "PLUGINS",
        "TO",
        "DEPTH",
        "OLDEST",
        "DEAD",
        "STATE",
        "OWNER",
        "UNEVALUATED",
        "IN FLIGHT",
        "CREATED",
    ];
    let (heading, rows) = output::columns(format, 8, &heading, rows.collect());
    output::table("no routes", heading, rows)
}
