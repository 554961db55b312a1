//! `tidegate loss`.

use super::admin_client::Api;
use super::admin_flags::ManageFlags;
use super::confirm::ConfirmFlags;
use super::output;
use crate::domain::UnreadableInfo;

const PATH: &str = "/v1/unreadable";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List stored events that cannot be read
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        flags: ManageFlags,
    },
    /// Give up what is damaged of them, for all subscriptions and for good
    ///
    /// On a terminal it says what that is, and asks.
    Accept {
        /// Write a dead letter for each event that a subscription waits for, with what is known of it
        #[arg(long)]
        dead_letters: bool,
        #[command(flatten)]
        confirm: ConfirmFlags,
        #[command(flatten)]
        flags: ManageFlags,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::List { flags } => {
            let unreadable: Vec<UnreadableInfo> = flags.api()?.get(PATH)?;
            output::either(flags.format(), &unreadable, |all| {
                table("everything that was asked for can be read", all)
            })
        }
        Command::Accept {
            dead_letters,
            confirm,
            flags,
        } => {
            let api = flags.api()?;
            confirm_loss(&api, confirm)?;
            let body = serde_json::json!({ "dead_letters": dead_letters });
            let given_up: Vec<UnreadableInfo> = api.post(PATH, &body)?;
            output::either(flags.format(), &given_up, |all| {
                table(
                    "nothing was given up: no generation is known to be damaged. Damage of the journal takes a start with --accept-loss",
                    all,
                )
            })
        }
    }
}

fn confirm_loss(api: &Api, confirm: &ConfirmFlags) -> anyhow::Result<()> {
    if !confirm.would_ask() {
        return Ok(());
    }
    let mut unreadable: Vec<UnreadableInfo> = api.get(PATH)?;
    unreadable.retain(|info| info.damage && info.kept_as.is_none());
    if unreadable.is_empty() {
        // Nothing would go, and the broker says so.
        return Ok(());
    }
    let lost = table("", &unreadable);
    confirm.confirm(
        api,
        "Give up these events, for all subscriptions and for good",
        &lost,
    )
}

fn table(empty: &str, all: &[UnreadableInfo]) -> String {
    let rows = all.iter().map(|info| {
        let position = |position: Option<_>| {
            position.map_or_else(String::new, |at: crate::domain::Position| at.to_string())
        };
        let what = match (info.damage, &info.kept_as) {
            (_, Some(kept)) => format!("given up, kept as {kept}"),
            (true, None) => "damaged".to_owned(),
            (false, None) => "the system fails".to_owned(),
        };
        let reason = info.reason.clone().unwrap_or_default();
        vec![
            info.path.clone(),
            position(info.first),
            position(info.last),
            what,
            reason,
        ]
    });
    output::table(
        empty,
        &["FILE", "FIRST POSITION", "LAST POSITION", "STATE", "REASON"],
        rows.collect(),
    )
}
