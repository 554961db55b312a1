//! `tidegate context`: names for brokers, so that commands need not be told where they are and whom to be.

use std::path::PathBuf;

use anyhow::bail;
use serde::Serialize;

use super::connection_flags::{AdminFlag, CertificateFlags, QuicFlags};
use super::human_values;
use super::output::{self, OutputFlags};
use super::target_broker::check_new_context;
use super::wrong_usage::wrong_usage;
use crate::config::{Context, ContextFolder, DEFAULT_CONTEXT};
use crate::domain::Name;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Name a broker
    ///
    /// The contexts are in `tidegate/contexts.toml` of the configuration folder (XDG_CONFIG_HOME, or ~/.config). Paths become absolute.
    Add(AddArgs),
    /// Let commands take a context unless they are told otherwise
    Use {
        /// Its name
        #[arg(required_unless_present = "none")]
        name: Option<String>,
        /// Take none: the data directory here, or the development broker that started last
        #[arg(long, conflicts_with = "name")]
        none: bool,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// List contexts
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Show one context, or what a command with these flags, or without any, would use
    Show {
        /// Its name
        #[arg(conflicts_with_all = ["context", "data_dir", "addr", "server_name", "admin", "ca", "cert"])]
        name: Option<String>,
        #[command(flatten)]
        quic: QuicFlags,
        #[command(flatten)]
        admin: AdminFlag,
        #[command(flatten)]
        certificates: CertificateFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Forget a context; the broker and the certificates stay
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        output: OutputFlags,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Its name
    name: Name,
    /// Data directory of a broker on this machine: its addresses and development certificates are taken from there
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the broker's QUIC listener
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Name in the broker's certificate [default: the host of the address]
    #[arg(long, value_name = "NAME", requires = "addr")]
    server_name: Option<String>,
    /// Address of the broker's admin API, http:// or https://
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Authority that signed the broker's certificate, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate to show, PEM
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    cert_key: Option<PathBuf>,
    /// Take it from now on, as `context use` does
    #[arg(long = "use")]
    take: bool,
    /// Overwrite the one of that name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputFlags,
}

/// One context as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    current: bool,
    #[serde(flatten)]
    context: Context,
}

/// What a command would use.
#[derive(Debug, Serialize)]
struct Resolved {
    addr: String,
    addr_from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    admin: String,
    admin_from: String,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Add(args) => add(args),
        Command::Use { name, output, .. } => take(name.as_deref(), output),
        Command::List { output } => {
            let all = listed(&ContextFolder::of_user()?)?;
            output::either(output.format(), &all, |all| table(all))
        }
        Command::Show {
            name: None,
            quic,
            admin,
            certificates,
            output,
        } => {
            let resolved = resolved(quic, admin, certificates)?;
            output::either(output.format(), &resolved, resolved_details)
        }
        Command::Show {
            name: Some(name),
            output,
            ..
        } => {
            let all = listed(&ContextFolder::of_user()?)?;
            let Some(one) = all.into_iter().find(|one| one.name == *name) else {
                return Err(no_such(name));
            };
            output::either(output.format(), &one, details)
        }
        Command::Remove { name, output } => remove(name, output),
    }
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    check_new_context(&args.name)?;
    let context = args.context()?;
    let one = ContextFolder::of_user()?.change(|contexts| {
        let name = &args.name;
        if contexts.all.contains_key(name) && !args.force {
            bail!("there is a context `{name}` already; --force overwrites it");
        }
        contexts.all.insert(name.clone(), context.clone());
        if args.take {
            contexts.current = Some(name.clone());
        }
        Ok(Listed {
            name: name.to_string(),
            current: contexts.current.as_ref() == Some(name),
            context,
        })
    })?;
    output::either(args.output.format(), &one, |one| match one.current {
        true => format!("added context {}; commands take it from now on", one.name),
        false => format!(
            "added context {0}; take it with: tidegate context use {0}",
            one.name
        ),
    })
}

impl AddArgs {
    fn context(&self) -> anyhow::Result<Context> {
        let Self {
            name,
            addr,
            admin,
            data_dir,
            ..
        } = self;
        if data_dir.is_none() && addr.is_none() && admin.is_none() {
            wrong_usage!(
                "say where the broker of context `{name}` is: --addr and --admin, or --data-dir"
            );
        }
        if let Some(addr) = addr
            && !human_values::is_host_and_port(addr)
        {
            wrong_usage!("`{addr}` is no address of a broker; write HOST:PORT");
        }
        let is_secure = match admin.as_deref().and_then(|admin| admin.split_once("://")) {
            Some(("https", _)) => true,
            Some(("http", _)) => false,
            None if admin.is_none() => false,
            _ => wrong_usage!(
                "`{}` is no address of an admin API; write http://HOST:PORT or https://HOST:PORT",
                admin.as_deref().unwrap_or_default()
            ),
        };
        let proves = self.ca.is_some() && self.cert.is_some();
        if (addr.is_some() || is_secure) && data_dir.is_none() && !proves {
            wrong_usage!(
                "say whom to trust and whom to be there: --ca, --cert and --cert-key, or --data-dir for development certificates"
            );
        }
        let found = |path: &Option<PathBuf>| -> anyhow::Result<Option<PathBuf>> {
            let Some(path) = path else { return Ok(None) };
            if !path.exists() {
                bail!("there is no {}", path.display());
            }
            Ok(Some(std::path::absolute(path)?))
        };
        Ok(Context {
            data_dir: found(data_dir)?,
            addr: addr.clone(),
            server_name: self.server_name.clone(),
            admin: admin.clone(),
            ca: found(&self.ca)?,
            cert: found(&self.cert)?,
            key: found(&self.cert_key)?,
        })
    }
}

fn take(name: Option<&str>, output: &OutputFlags) -> anyhow::Result<()> {
    let folder = ContextFolder::of_user()?;
    let Some(name) = name else {
        folder.change(|contexts| {
            contexts.current = None;
            anyhow::Ok(())
        })?;
        let answer = serde_json::json!({ "current": null });
        return output::either(output.format(), &answer, |_| {
            "commands take no context".to_owned()
        });
    };
    let default = folder.default_context()?;
    folder.change(|contexts| {
        let is_there =
            contexts.all.contains_key(name) || (name == DEFAULT_CONTEXT && default.is_some());
        if !is_there {
            return Err(no_such(name));
        }
        contexts.current = Some(name.parse()?);
        Ok(())
    })?;
    let answer = serde_json::json!({ "current": name });
    output::either(output.format(), &answer, |_| {
        format!("commands take context {name} from now on")
    })
}

fn remove(name: &str, output: &OutputFlags) -> anyhow::Result<()> {
    let folder = ContextFolder::of_user()?;
    let is_default = name == DEFAULT_CONTEXT;
    let had_default = is_default && folder.remove_default()?;
    let was_current = folder.change(|contexts| {
        let had = contexts.all.remove(name).is_some();
        if !had && !had_default {
            return Err(no_such(name));
        }
        let was_current = contexts
            .current
            .as_ref()
            .is_some_and(|current| current.as_str() == name);
        if was_current {
            contexts.current = None;
        }
        Ok(was_current)
    })?;
    let answer = serde_json::json!({ "removed": name });
    output::either(output.format(), &answer, |_| match was_current {
        true => format!("removed context {name}; commands take no context now"),
        false => format!("removed context {name}"),
    })
}

fn no_such(name: &str) -> anyhow::Error {
    anyhow::anyhow!("there is no context `{name}`; `tidegate context list` shows what there is")
}

fn listed(folder: &ContextFolder) -> anyhow::Result<Vec<Listed>> {
    let contexts = folder.contexts()?;
    let current = contexts.current;
    let named = contexts
        .all
        .into_iter()
        .map(|(name, context)| (name.to_string(), context));
    let default = folder
        .default_context()?
        .map(|context| (DEFAULT_CONTEXT.to_owned(), context));
    let all = named.chain(default).map(|(name, context)| Listed {
        current: current
            .as_ref()
            .is_some_and(|current| current.as_str() == name),
        name,
        context,
    });
    Ok(all.collect())
}

fn resolved(
    quic: &QuicFlags,
    admin: &AdminFlag,
    certificates: &CertificateFlags,
) -> anyhow::Result<Resolved> {
    let files = certificates.files()?;
    let (door, server_name) = quic.door(certificates)?;
    let admin = admin.door(certificates)?;
    Ok(Resolved {
        addr_from: door.from,
        addr: door.address,
        server_name,
        admin_from: admin.from,
        admin: admin.address,
        ca: files.ca,
        cert: files.cert,
        key: files.key,
    })
}

fn table(all: &[Listed]) -> String {
    let rows = all.iter().map(|one| {
        let Context {
            data_dir,
            addr,
            admin,
            cert,
            ..
        } = &one.context;
        let path = |path: &Option<PathBuf>| {
            path.as_ref()
                .map_or(String::new(), |path| path.display().to_string())
        };
        vec![
            one.name.clone(),
            if one.current {
                "*".to_owned()
            } else {
                String::new()
            },
            addr.clone().unwrap_or_default(),
            admin.clone().unwrap_or_default(),
            path(data_dir),
            path(cert),
        ]
    });
    output::table(
        "no contexts; `tidegate context add` names a broker",
        &[
            "CONTEXT",
            "CURRENT",
            "ADDR",
            "ADMIN",
            "DATA DIRECTORY",
            "CERTIFICATE",
        ],
        rows.collect(),
    )
}

fn details(one: &Listed) -> String {
    let Context {
        data_dir,
        addr,
        server_name,
        admin,
        ca,
        cert,
        key,
    } = &one.context;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let rows = [
        ("context", Some(one.name.clone())),
        ("data directory", path(data_dir)),
        ("addr", addr.clone()),
        ("server name", server_name.clone()),
        ("admin", admin.clone()),
        ("authority", path(ca)),
        ("certificate", path(cert)),
        ("key", path(key)),
    ];
    output::details(
        rows.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
    )
}

fn resolved_details(resolved: &Resolved) -> String {
    let Resolved {
        addr,
        addr_from,
        server_name,
        admin,
        admin_from,
        ca,
        cert,
        key,
    } = resolved;
    let mut rows = vec![
        ("addr", format!("{addr} (from {addr_from})")),
        ("admin", format!("{admin} (from {admin_from})")),
        ("authority", ca.display().to_string()),
        ("certificate", cert.display().to_string()),
        ("key", key.display().to_string()),
    ];
    if let Some(name) = server_name {
        rows.insert(1, ("server name", name.clone()));
    }
    output::details(rows)
}
