//! `tidegate cert`: an authority and certificates, without openssl.

use std::net::IpAddr;
use std::path::PathBuf;

use super::human_values;
use super::output::{self, OutputFlags};
use crate::pki::{Authority, ClientName, PemPair, ServerNames, Validity, pair_paths, save_pair};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority: ca.pem and ca.key
    Ca {
        /// Its name
        #[arg(long, default_value = "Tidegate CA")]
        name: String,
        /// Days it is valid
        #[arg(long, default_value_t = 3_650, value_parser = days())]
        days: u32,
        #[command(flatten)]
        to: Destination,
    },
    /// Make a certificate for a broker: server.pem and server.key
    Server {
        /// Directory with ca.pem and ca.key
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// DNS name that clients reach it by. Repeatable
        #[arg(long, value_name = "NAME", required_unless_present = "ip")]
        dns: Vec<String>,
        /// Address that clients reach it by. Repeatable
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
        #[command(flatten)]
        leaf: LeafFlags,
    },
    /// Make a certificate for a client: client.pem and client.key
    Client {
        /// Directory with ca.pem and ca.key
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        #[command(flatten)]
        name: ClientFlags,
        #[command(flatten)]
        leaf: LeafFlags,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ClientFlags {
    /// It is the principal uri:URI, such as spiffe://plant/press-4
    #[arg(long, value_parser = human_values::uri)]
    uri: Option<String>,
    /// It is the principal dns:NAME
    #[arg(long, value_name = "NAME")]
    dns: Option<String>,
    /// It is the principal cn:NAME
    #[arg(long, value_name = "NAME")]
    cn: Option<String>,
}

/// What an authority is to sign, beside the name.
#[derive(Debug, clap::Args)]
struct LeafFlags {
    /// Days it is valid
    #[arg(long, default_value_t = 365, value_parser = days())]
    days: u32,
    #[command(flatten)]
    to: Destination,
}

#[derive(Debug, clap::Args)]
struct Destination {
    /// Directory for the two files; made when missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputFlags,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Ca { name, days, to } => {
            Authority::new(name, Validity::days(*days))?.save(&to.out, to.force)?;
            report(to, "ca", &format!("authority {name}"), *days)
        }
        Command::Server { ca, dns, ip, leaf } => {
            let names = ServerNames {
                dns: dns.clone(),
                ips: ip.clone(),
            };
            let pair = Authority::load(ca)?.issue_server(&names, Validity::days(leaf.days))?;
            leaf.save(&pair, "server", "broker certificate")
        }
        Command::Client { ca, name, leaf } => {
            let name = name.client_name();
            let pair = Authority::load(ca)?.issue_client(&name, Validity::days(leaf.days))?;
            let what = format!("client certificate of {}", principal(&name));
            leaf.save(&pair, "client", &what)
        }
    }
}

impl LeafFlags {
    fn save(&self, pair: &PemPair, stem: &str, what: &str) -> anyhow::Result<()> {
        let Self { days, to } = self;
        save_pair(&to.out, stem, pair, to.force)?;
        report(to, stem, what, *days)
    }
}

impl ClientFlags {
    fn client_name(&self) -> ClientName {
        match (&self.uri, &self.dns, &self.cn) {
            (Some(uri), ..) => ClientName::Uri(uri.clone()),
            (None, Some(dns), _) => ClientName::Dns(dns.clone()),
            (None, None, cn) => ClientName::CommonName(cn.clone().unwrap_or_default()),
        }
    }
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

fn principal(name: &ClientName) -> String {
    match name {
        ClientName::Uri(uri) => format!("uri:{uri}"),
        ClientName::Dns(dns) => format!("dns:{dns}"),
        ClientName::CommonName(cn) => format!("cn:{cn}"),
    }
}

fn report(to: &Destination, stem: &str, what: &str, days: u32) -> anyhow::Result<()> {
    let (cert, key) = pair_paths(&to.out, stem);
    let answer = serde_json::json!({ "what": what, "days": days, "cert": cert, "key": key });
    output::either(to.output.format(), &answer, |_| {
        format!(
            "{what}, {days} days\n  {}\n  {}",
            cert.display(),
            key.display()
        )
    })
}
