//! `tidegate plugin`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;

use super::api::{Api, segment};
use super::connect::ManageFlags;
use super::{output, text};
use crate::domain::{Name, PluginInfo};

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
            let plugin: PluginInfo = api(flags)?.get(&path(name))?;
            output::either(flags.json, &plugin, |plugin| {
                list(std::slice::from_ref(plugin))
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
        ]
    });
    output::table(
        "no plugins",
        &["PLUGIN", "VERSION", "WORLD", "SIZE", "DIGEST", "UPLOADED"],
        rows.collect(),
    )
}
