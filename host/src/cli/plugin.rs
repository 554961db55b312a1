//! `tidegate plugin`.

use std::path::PathBuf;

use anyhow::Context;

use super::admin_client::segment;
use super::admin_flags::ManageFlags;
use super::confirm::ConfirmFlags;
use super::human_values;
use super::output::{self, Format};
use super::upload_progress::UploadProgress;
use crate::disk::read_whole;
use crate::domain::{Name, Owner, PluginDetails, PluginInfo, PluginName};

/// What a component may have at most, however a broker is set: the bound of `plugins.module_bytes_max`.
const COMPONENT_BYTES_MAX: u64 = 1 << 30;

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
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// List names of plugins, also those whose versions are all deleted
    Names {
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
    /// Delete a plugin that nobody uses; its name stays its owner's
    ///
    /// On a terminal it says what goes, and asks.
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name for all versions, or name@version for one
        name: String,
        /// Give up the name as well, so that whoever uploads under it next has it
        #[arg(long)]
        free_name: bool,
        #[command(flatten)]
        confirm: ConfirmFlags,
        #[command(flatten)]
        flags: ManageFlags,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Upload { name, file, flags } => {
            let component = read_whole(file, COMPONENT_BYTES_MAX)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let api = flags.api()?;
            let progress = UploadProgress::new(name.as_str(), component.len() as u64);
            let bytes = component.len();
            let mut counted = progress.counted(&component);
            let info: Result<PluginInfo, _> = api.upload(&path(name.as_str()), bytes, &mut counted);
            drop(progress);
            output::either(flags.format(), &info?, |info| {
                let world = human_values::word_of(&info.world);
                format!(
                    "{world} {} version {} is {}",
                    info.name, info.version, info.digest
                )
            })
        }
        Command::List { flags } => {
            let plugins: Vec<PluginInfo> = flags.api()?.list("/v1/plugins")?;
            output::either(flags.format(), &plugins, |plugins| {
                list(flags.format(), plugins)
            })
        }
        Command::Names { flags } => {
            let names: Vec<PluginName> = flags.api()?.list("/v1/plugin-names")?;
            output::either(flags.format(), &names, |names| list_names(names))
        }
        Command::Show { name, flags } => {
            let plugin: PluginDetails = flags.api()?.get(&path(name))?;
            output::either(flags.format(), &plugin, details)
        }
        Command::Chown { name, owner, flags } => {
            let body = serde_json::json!({ "owner": owner });
            let chown = format!("{}/chown", path(name.as_str()));
            let given: PluginName = flags.api()?.post(&chown, &body)?;
            output::either(flags.format(), &given, |_| {
                format!("plugin {name} belongs to {owner}")
            })
        }
        Command::Delete {
            name,
            free_name,
            confirm,
            flags,
        } => {
            let versions = match name.contains('@') {
                true => "",
                false => ", all its versions",
            };
            let api = flags.api()?;
            confirm.confirm(&api, "Delete it", &format!("plugin {name}{versions}"))?;
            let query = if *free_name { "?free_name=true" } else { "" };
            api.delete(&format!("{}{query}", path(name)))?;
            let answer = serde_json::json!({ "deleted": name, "free_name": free_name });
            output::either(flags.format(), &answer, |_| match free_name {
                true => format!("deleted plugin {name}, and its name is free"),
                false => format!("deleted plugin {name}"),
            })
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/plugins/{}", segment(name))
}

fn details(plugin: &PluginDetails) -> String {
    let PluginDetails {
        info,
        wit,
        limits,
        holds,
    } = plugin;
    let by = info.uploaded_by.as_ref();
    let uploaded = match info.bundled {
        true => "bundled".to_owned(),
        false => {
            human_values::moment(info.uploaded.0)
                + &by.map_or(String::new(), |by| format!(" by {by}"))
        }
    };
    let owner = info.owner.as_ref().map(Owner::to_string);
    let time = format!(
        "{} and {} µs for each event and rule",
        human_values::age(limits.deadline_base_ms),
        limits.deadline_pair_us
    );
    let mut rows = vec![
        ("name", info.name.clone()),
        ("version", info.version.to_string()),
        ("implements", wit.clone()),
        ("digest", info.digest.to_string()),
        ("size", human_values::bytes(info.bytes)),
        ("uploaded", uploaded),
        (
            "owner",
            owner.unwrap_or_else(|| "nobody; everybody may use it".to_owned()),
        ),
        (
            "memory of an instance",
            human_values::bytes(limits.memory_bytes_max),
        ),
        ("time of a call", time),
        (
            "output of a call",
            human_values::bytes(limits.output_bytes_max),
        ),
    ];
    if let Some(holds) = holds {
        let instances = format!(
            "{}; of its owner's share {} of {}",
            holds.instances, holds.owner_instances, holds.owner_instances_max
        );
        let memory = format!(
            "{}; of its owner's share {} of {}",
            human_values::bytes(holds.memory_bytes),
            human_values::bytes(holds.owner_memory_bytes),
            human_values::bytes(holds.owner_memory_bytes_max)
        );
        rows.extend([("instances", instances), ("their memory", memory)]);
    }
    output::details(rows)
}

fn list(format: Format, plugins: &[PluginInfo]) -> String {
    let rows = plugins.iter().map(|info| {
        let by = info.uploaded_by.as_ref();
        vec![
            info.name.clone(),
            info.version.to_string(),
            human_values::word_of(&info.world),
            human_values::bytes(info.bytes),
            info.digest.to_string().chars().take(19).collect(),
            if info.bundled {
                "bundled".to_owned()
            } else {
                human_values::moment(info.uploaded.0)
            },
            info.owner
                .as_ref()
                .map(Owner::to_string)
                .unwrap_or_default(),
            by.map_or_else(String::new, ToString::to_string),
            info.digest.to_string(),
        ]
    });
    let heading = [
        "PLUGIN",
        "VERSION",
        "WORLD",
        "SIZE",
        "DIGEST",
        "UPLOADED",
        "OWNER",
        "UPLOADED BY",
        "WHOLE DIGEST",
    ];
    let (heading, rows) = output::columns(format, 7, &heading, rows.collect());
    output::table("no plugins", heading, rows)
}

fn list_names(names: &[PluginName]) -> String {
    let rows = names.iter().map(|known| {
        let owner = known.owner.as_ref().map(Owner::to_string);
        vec![
            known.name.clone(),
            known.versions.to_string(),
            known.last_version.to_string(),
            match known.bundled {
                true => "bundled".to_owned(),
                false => owner.unwrap_or_default(),
            },
        ]
    });
    output::table(
        "no plugins",
        &["PLUGIN", "VERSIONS", "LAST", "OWNER"],
        rows.collect(),
    )
}
