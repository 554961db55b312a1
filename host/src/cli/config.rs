//! `tidegate config`.

use std::path::PathBuf;

use super::error_hints;
use super::output::{self, OutputFlags};
use crate::app;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read a configuration and the certificates it names as the broker would, and say what is wrong with them
    Check(FileArg),
    /// Print what holds, every key explained
    Show(FileArg),
}

#[derive(Debug, clap::Args)]
struct FileArg {
    /// The file [default: the embedded configuration]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlags,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Check(FileArg { file, output }) => {
            let config = Config::load(file.as_deref())?;
            let warnings = config.warnings().into_iter().map(error_hints::warned);
            let warnings: Vec<String> = warnings.collect();
            for warning in &warnings {
                output::note(&format!("warning: {warning}"));
            }
            app::check_tls(&config)?;
            let name = file
                .as_ref()
                .map_or("the embedded configuration".to_owned(), |file| {
                    file.display().to_string()
                });
            let answer = serde_json::json!({ "checked": name, "warnings": warnings });
            output::either(output.format(), &answer, |_| {
                format!("{name} is well formed")
            })
        }
        Command::Show(FileArg { file, output }) => {
            let config = Config::load(file.as_deref())?;
            output::either(output.format(), &config, |config| {
                config.to_documented_toml().trim_end().to_owned()
            })
        }
    }
}
