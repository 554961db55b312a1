//! `tidegate topic`.

use super::admin_client::segment;
use super::admin_flags::ManageFlags;
use super::{human_values, output};
use crate::domain::{Durability, TopicInfo, TopicName, TopicSpec};

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
        /// power cut)
        #[arg(long, default_value = "sync", value_parser = human_values::word::<Durability>)]
        durability: Durability,
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// List topics
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
    /// Delete a topic and its events
    Delete {
        /// Its name
        name: TopicName,
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
            let spec = TopicSpec {
                name: name.clone(),
                durability: *durability,
                created_by: None,
            };
            let info: TopicInfo = flags.api()?.post("/v1/topics", &spec)?;
            output::either(flags.json, &info, |info| {
                format!("created topic {}", info.spec.name)
            })
        }
        Command::List { flags } => {
            let topics: Vec<TopicInfo> = flags.api()?.list("/v1/topics")?;
            output::either(flags.json, &topics, |topics| list(topics))
        }
        Command::Show { name, flags } => {
            let info: TopicInfo = flags.api()?.get(&path(name))?;
            output::either(flags.json, &info, details)
        }
        Command::Delete { name, flags } => {
            flags.api()?.delete(&path(name))?;
            let answer = serde_json::json!({ "deleted": name });
            output::either(flags.json, &answer, |_| format!("deleted topic {name}"))
        }
    }
}

fn path(name: &TopicName) -> String {
    format!("/v1/topics/{}", segment(name.as_str()))
}

fn list(topics: &[TopicInfo]) -> String {
    let rows = topics.iter().map(|info| {
        vec![
            info.spec.name.to_string(),
            info.next_sequence.0.saturating_sub(1).to_string(),
            human_values::word_of(&info.spec.durability),
            info.subscription_count.to_string(),
        ]
    });
    output::table(
        "no topics",
        &["TOPIC", "EVENTS", "DURABILITY", "SUBSCRIPTIONS"],
        rows.collect(),
    )
}

fn details(info: &TopicInfo) -> String {
    output::details(vec![
        ("topic", info.spec.name.to_string()),
        ("id", info.id.to_string()),
        (
            "events so far",
            info.next_sequence.0.saturating_sub(1).to_string(),
        ),
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
