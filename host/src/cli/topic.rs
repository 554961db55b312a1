//! `tidegate topic`.

use super::admin_client::segment;
use super::admin_flags::ManageFlags;
use super::confirm::{ConfirmFlags, some_of};
use super::human_values;
use super::output::{self, Format};
use crate::domain::{DeletedTopicInfo, Durability, NewTopic, TopicInfo, TopicName};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a topic
    Create {
        /// Its name: tokens separated by dots, such as orders.eu.created
        name: TopicName,
        /// When a publish is answered: sync (on disk) or interval (survives the end of the process, not a
        /// power cut). Without it, as a topic of that name was that was deleted, or sync
        #[arg(long, value_parser = human_values::word::<Durability>)]
        durability: Option<Durability>,
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// List topics
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Show one topic
    Show {
        /// Its name
        name: TopicName,
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Delete a topic and its events, also those that subscriptions have pending
    ///
    /// On a terminal it says what goes with it, and asks. A topic that a route appends to is not deleted.
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: TopicName,
        #[command(flatten)]
        confirm: ConfirmFlags,
        #[command(flatten)]
        flags: ManageFlags,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Create {
            name,
            durability,
            flags,
        } => {
            let new = NewTopic {
                name: name.clone(),
                durability: *durability,
                created_by: None,
            };
            let info: TopicInfo = flags.api()?.post("/v1/topics", &new)?;
            output::either(flags.format(), &info, |info| {
                format!("created topic {}", info.spec.name)
            })
        }
        Command::List { flags } => {
            let topics: Vec<TopicInfo> = flags.api()?.list("/v1/topics")?;
            output::either(flags.format(), &topics, |topics| {
                list(flags.format(), topics)
            })
        }
        Command::Show { name, flags } => {
            let info: TopicInfo = flags.api()?.get(&path(name))?;
            output::either(flags.format(), &info, details)
        }
        Command::Delete {
            name,
            confirm,
            flags,
        } => delete(name, confirm, flags),
    }
}

fn delete(name: &TopicName, confirm: &ConfirmFlags, flags: &ManageFlags) -> anyhow::Result<()> {
    let api = flags.api()?;
    let info: Option<TopicInfo> = match api.get(&path(name)) {
        Ok(info) => Some(info),
        // Who may delete it may not be allowed to look at it.
        Err(error) if error.is_denied() => None,
        Err(error) => return Err(error.into()),
    };
    let lost = info.as_ref().map(to_be_lost).unwrap_or_default();
    confirm.confirm(&api, "Delete it", &format!("topic {name}{lost}"))?;
    let told: Option<DeletedTopicInfo> = api.delete_told(&path(name))?;
    let subscriptions = told.as_ref().map(|told| told.pending.keys());
    let subscriptions: Option<Vec<&String>> = subscriptions.map(Iterator::collect);
    let last = told.as_ref().map(|told| told.last_sequence);
    let answer = serde_json::json!({
        "deleted": name,
        // Named before it was known that a topic that is made again goes on above its last sequence.
        "events": last,
        "last_sequence": last,
        "subscriptions": subscriptions,
        "pending": told.as_ref().map(|told| &told.pending),
        "pending_unseen": told.as_ref().map(|told| told.pending_unseen),
    });
    output::either(flags.format(), &answer, |_| {
        let went = told.as_ref().map(went).unwrap_or_default();
        format!("deleted topic {name}{went}")
    })
}

fn last_sequence(info: &TopicInfo) -> u64 {
    info.next_sequence.0.saturating_sub(1)
}

// What would go with a topic, to be said after its name.
fn to_be_lost(info: &TopicInfo) -> String {
    let subscriptions = match info.subscriptions.as_slice() {
        [] => "; no subscription reads it".to_owned(),
        names => format!("; what is pending of it goes from {}", some_of(names)),
    };
    match last_sequence(info) {
        0 => format!(", which never had an event{subscriptions}"),
        last => format!(" with its events up to #{last}{subscriptions}"),
    }
}

// What went with a topic, likewise.
fn went(told: &DeletedTopicInfo) -> String {
    let mut went: Vec<String> = told
        .pending
        .iter()
        .map(|(name, events)| format!("{events} of {name}"))
        .collect();
    if told.pending_unseen > 0 {
        went.push(format!("{} of others'", told.pending_unseen));
    }
    match went.as_slice() {
        [] => "; nothing of it was pending".to_owned(),
        went => format!("; with it went what was pending: {}", some_of(went)),
    }
}

fn path(name: &TopicName) -> String {
    format!("/v1/topics/{}", segment(name.as_str()))
}

fn list(format: Format, topics: &[TopicInfo]) -> String {
    let rows = topics.iter().map(|info| {
        let by = info.spec.created_by.as_ref();
        vec![
            info.spec.name.to_string(),
            last_sequence(info).to_string(),
            human_values::word_of(&info.spec.durability),
            info.subscription_count.to_string(),
            info.id.to_string(),
            by.map_or_else(String::new, ToString::to_string),
            some_of(&info.subscriptions),
        ]
    });
    let heading = [
        "TOPIC",
        "LAST SEQUENCE",
        "DURABILITY",
        "SUBSCRIPTIONS",
        "ID",
        "CREATED BY",
        "READ BY",
    ];
    let (heading, rows) = output::columns(format, 4, &heading, rows.collect());
    output::table("no topics", heading, rows)
}

fn details(info: &TopicInfo) -> String {
    output::details(vec![
        ("topic", info.spec.name.to_string()),
        ("id", info.id.to_string()),
        ("last sequence", last_sequence(info).to_string()),
        ("durability", human_values::word_of(&info.spec.durability)),
        (
            "created by",
            info.spec
                .created_by
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        ),
        ("subscriptions", info.subscriptions.join("\n")),
    ])
}
