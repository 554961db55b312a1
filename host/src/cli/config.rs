//! `tidegate config`.

use std::path::PathBuf;

use super::{error_hints, output};
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
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Check(FileArg { file }) => {
            let config = Config::load(file.as_deref())?;
            for warning in config.warnings() {
                eprintln!("warning: {}", error_hints::warned(warning));
            }
            app::check_tls(&config)?;
            let name = file
                .as_ref()
                .map_or("the embedded configuration".to_owned(), |file| {
                    file.display().to_string()
                });
            Ok(output::line(&format!("{name} is well formed"))?)
        }
        Command::Show(FileArg { file }) => {
            let shown = Config::load(file.as_deref())?.to_documented_toml();
            Ok(output::line(shown.trim_end())?)
        }
    }
}
