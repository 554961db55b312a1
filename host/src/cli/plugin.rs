//! `tidegate plugin`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;

use super::api::{Api, segment};
use super::connect::ManageFlags;
use super::{output, text};
use crate::domain::{Name, Owner, PluginDetails, PluginInfo};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Upload a WebAssembly component as the next version of a plugin
    Upload {
        /// Name to use it by
        name: Name,
        /// The component (.wasm)
        file: PathBuf,
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// List plugins
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Show one plugin
    Show {
        /// Its name for the newest version, name@version, or a digest
        name: String,
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Give the name of a plugin, with all its versions, to an owner
    Chown {
        /// Its name
        name: Name,
        /// Whose it is from now on: a principal, or with `*` for any characters a group of them
        owner: Owner,
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Delete a plugin that nobody uses
    Delete {
        /// Its name for all versions, or name@version for one
        name: String,
        #[command(flatten)]
        flags: ManageFlags,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Upload { name, file, flags } => {
            let component =
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let busy = busy(&format!("uploading and compiling {name}"));
            let info: Result<PluginInfo, _> = api(flags)?.upload(&path(name.as_str()), &component);
            busy.finish_and_clear();
            output::either(flags.json, &info?, |info| {
                let world = text::word_of(&info.world);
                format!(
                    "{world} {} version {} is {}",
                    info.name, info.version, info.digest
                )
            })
        }
        Command::List { flags } => {
            let plugins: Vec<PluginInfo> = api(flags)?.get("/v1/plugins")?;
            output::either(flags.json, &plugins, |plugins| list(plugins))
        }
        Command::Show { name, flags } => {
            let plugin: PluginDetails = api(flags)?.get(&path(name))?;
            output::either(flags.json, &plugin, details)
        }
        Command::Chown { name, owner, flags } => {
            let body = serde_json::json!({ "owner": owner });
            let chown = format!("{}/chown", path(name.as_str()));
            let info: PluginInfo = api(flags)?.post(&chown, &body)?;
            output::either(flags.json, &info, |_| {
                format!("plugin {name} belongs to {owner}")
            })
        }
        Command::Delete { name, flags } => {
            api(flags)?.delete(&path(name))?;
            let answer = serde_json::json!({ "deleted": name });
            output::either(flags.json, &answer, |_| format!("deleted plugin {name}"))
        }
    }
}

fn api(flags: &ManageFlags) -> anyhow::Result<Api> {
    Api::new(&flags.admin, &flags.certificates)
}

fn path(name: &str) -> String {
    format!("/v1/plugins/{}", segment(name))
}

fn busy(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn details(plugin: &PluginDetails) -> String {
    let PluginDetails { info, wit, limits } = plugin;
    let by = info.uploaded_by.as_ref();
    let uploaded = match info.bundled {
        true => "bundled".to_owned(),
        false => {
            text::moment(info.uploaded.0) + &by.map_or(String::new(), |by| format!(" by {by}"))
        }
    };
    let owner = info.owner.as_ref().map(Owner::to_string);
    let time = format!(
        "{} and {} µs for each event and rule",
        text::age(limits.deadline_base_ms),
        limits.deadline_pair_us
    );
    output::details(vec![
        ("name", info.name.clone()),
        ("version", info.version.to_string()),
        ("implements", wit.clone()),
        ("digest", info.digest.to_string()),
        ("size", text::bytes(info.bytes)),
        ("uploaded", uploaded),
        (
            "owner",
            owner.unwrap_or_else(|| "nobody; everybody may use it".to_owned()),
        ),
        ("memory", text::bytes(limits.memory_bytes_max)),
        ("time of a call", time),
        ("output of a call", text::bytes(limits.output_bytes_max)),
    ])
}

fn list(plugins: &[PluginInfo]) -> String {
    let rows = plugins.iter().map(|info| {
        vec![
            info.name.clone(),
            info.version.to_string(),
            text::word_of(&info.world),
            text::bytes(info.bytes),
            info.digest.to_string().chars().take(19).collect(),
            if info.bundled {
                "bundled".to_owned()
            } else {
                text::moment(info.uploaded.0)
            },
            info.owner
                .as_ref()
                .map(Owner::to_string)
                .unwrap_or_default(),
        ]
    });
    output::table(
        "no plugins",
        &[
            "PLUGIN", "VERSION", "WORLD", "SIZE", "DIGEST", "UPLOADED", "OWNER",
        ],
        rows.collect(),
    )
}
