//! What a person who starts a broker is shown: what was chosen for them, and the commands to try. It
//! names commands of [`cli`](crate::cli), which nothing below does.

use std::fmt::Write as _;

use crate::config::{Config, Endpoints};

/// The lines about the broker at `endpoints` that runs on `config`. `program` is what they called it by; `is_default` says that
/// commands come to it that are told nothing.
pub(super) fn banner(
    endpoints: &Endpoints,
    config: &Config,
    program: &str,
    is_default: bool,
) -> String {
    let mut out = format!("Tidegate {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {name:<10}{text}");
    };
    line("data", &config.data_dir.display().to_string());
    let quic = endpoints.quic;
    line("quic", &format!("{quic} (client certificate required)"));
    if let Some(address) = endpoints.anonymous {
        line("", &format!("{address} (no certificate: `anonymous`)"));
    }
    for base in endpoints.admin.iter().chain(&endpoints.admin_tls) {
        line("admin", &format!("{base} (/healthz, /metrics, /v1/…)"));
    }
    if config.tls.cert.is_none() {
        let client = config.pki_dir().join("client.pem");
        let client = client.display();
        line("certs", &format!("development CA; clients use {client}"));
    }
    let flags = connection_flags(config, is_default);
    let _ = write!(
        out,
        "Try it from two other terminals:\n  \
         {program} sub hello --create --topic 'greetings.>'{flags}\n  \
         {program} pub greetings.en 'Hello, world'{flags}\n"
    );
    out
}

// What a client has to say because it is not what it would assume. The addresses it finds in the data directory.
fn connection_flags(config: &Config, is_default: bool) -> String {
    let mut flags = String::new();
    if config.tls.cert.is_some() {
        flags.push_str(" --ca CA.pem --cert CLIENT.pem --cert-key CLIENT.key");
    }
    if !is_default {
        let dir = quoted(&config.data_dir.display().to_string());
        flags.push_str(&format!(" --data-dir {dir}"));
    }
    flags
}

// For a shell, when it needs it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_banner_has_lines_that_work() {
        let check = |config: &Config, quic: &str, admin: &str, expected: &[&str]| {
            let endpoints = Endpoints::new(address(quic), None, Some(address(admin)), None);
            let banner = banner(&endpoints, config, "tidegate", config == &Config::default());
            for line in expected {
                assert!(banner.contains(&format!("  {line}\n")), "{banner}");
            }
        };
        let mut config = Config::default();
        check(
            &config,
            "127.0.0.1:4433",
            "127.0.0.1:4480",
            &[
                "tidegate sub hello --create --topic 'greetings.>'",
                "tidegate pub greetings.en 'Hello, world'",
            ],
        );
        config.data_dir = "/tmp/a b".into();
        check(
            &config,
            "127.0.0.1:1",
            "127.0.0.1:2",
            &[
                "tidegate sub hello --create --topic 'greetings.>' --data-dir '/tmp/a b'",
                "tidegate pub greetings.en 'Hello, world' --data-dir '/tmp/a b'",
            ],
        );
    }
}
