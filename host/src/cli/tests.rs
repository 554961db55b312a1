//! What command lines mean.

use std::collections::BTreeMap;

use clap::CommandFactory;

use super::*;
use crate::domain::{FailurePolicy, SubscriptionSpec};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = line.split_whitespace().map(|word| word.replace('~', " "));
    Cli::try_parse_from(std::iter::once("tidegate".to_owned()).chain(words))
}

fn spec(line: &str) -> SubscriptionSpec {
    let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    match cli.command {
        Command::Subscription(args) => args.spec_to_create(),
        Command::Route(args) => args.spec_to_create(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_understood() {
    for line in [
        "serve",
        "serve --config a.toml --data-dir d --accept-loss",
        "topic create a.b --durability interval",
        "topic list --json",
        "topic show a.b --admin http://127.0.0.1:1",
        "topic delete a.b",
        "topic rm a.b --yes",
        "topic ls -o wide",
        "subscription ls --output table",
        "subscription rm s -y",
        "subscription pause s --reason why",
        "route ls -o json",
        "route rm r --yes",
        "plugin ls -o wide",
        "plugin rm p@3 --yes --free-name",
        "loss ls",
        "context add prod --addr h:1 --admin https://h:2 --ca a --cert b --cert-key c --use --force",
        "context add here --data-dir d",
        "context use prod",
        "context use --none",
        "context ls -o json",
        "context show",
        "context show prod -o json",
        "context show --data-dir d",
        "context rm prod",
        "topic list --context prod",
        "subscription create --topic a.> -t b.* s",
        "subscription update s --filter p=x --on-failure drop --no-transforms --ack-deadline 5s",
        "subscription update s --no-filters --transform q --json",
        "subscription list",
        "subscription show s",
        "subscription delete s --json",
        "subscription resume s",
        "subscription create --topic a.> s --owner uri:spiffe://a/b/*",
        "subscription chown s cn:billing",
        "subscription chown s --nobody",
        "subscription log s",
        "route log r",
        "route pause r --reason why",
        "route resume r --json",
        "loss accept --dead-letters --yes",
        "route chown r local --json",
        "plugin chown p uri:spiffe://a/*",
        "route create r --from a.> --to b",
        "route update r --to b --to c=d --transform q --attempts 3",
        "route list",
        "route show r",
        "route delete r",
        "plugin upload p file.wasm",
        "plugin list",
        "plugin delete p@3",
        "pub a.b hello --header a=b -H c=d --key k --content-type text/plain",
        "pub a.b --file -",
        "pub a.b --ndjson events.json --addr localhost:1 --server-name broker",
        "pub a.b --lines --key k --ca a --cert b --cert-key c",
        "pub a.b hello --congestion cubic --compression always",
        "sub s --congestion bbr --compression off",
        "sub s --no-ack --count 5 --ndjson",
        "sub --create --start earliest --topic a.> s",
        "cert ca --out d",
        "cert server --ca d --dns localhost --ip 127.0.0.1 --out e",
        "cert client --ca d --uri spiffe://plant/press --days 30 --out e --force",
        "config check a.toml",
        "config show",
        "config show a.toml -o json",
        "cert ca --out d -o json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn a_flag_of_several_commands_is_said_in_the_same_words() {
    fn look(command: &clap::Command, said: &mut BTreeMap<(String, String), String>) {
        for flag in command.get_arguments() {
            let (Some(heading), Some(name)) = (flag.get_help_heading(), flag.get_long()) else {
                continue;
            };
            let text = format!("{:?} {:?}", flag.get_help(), flag.get_value_names());
            let before = said.insert((heading.to_owned(), name.to_owned()), text.clone());
            let before = before.unwrap_or_else(|| text.clone());
            assert_eq!(before, text, "{}: --{name}", command.get_name());
        }
        for below in command.get_subcommands() {
            look(below, said);
        }
    }
    let mut said = BTreeMap::new();
    look(&Cli::command(), &mut said);
    assert!(said.len() > 10, "{said:?}");
}

#[test]
fn every_command_that_prints_has_its_output_for_scripts() {
    fn look(path: &str, command: &clap::Command, without: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        // What is hidden is for the broker itself.
        let is_leaf = !command.has_subcommands() && !command.is_hide_set();
        if is_leaf
            && !command
                .get_arguments()
                .any(|flag| flag.get_id() == "output")
        {
            without.push(path.clone());
        }
        for below in command.get_subcommands() {
            look(&path, below, without);
        }
    }
    let mut without = Vec::new();
    look("", &Cli::command(), &mut without);
    // A broker prints nothing but its log and what to try.
    assert_eq!(without, [" tidegate serve"]);
}

#[test]
fn what_lists_and_deletes_has_the_short_name_too() {
    fn look(command: &clap::Command, found: &mut usize) {
        let short = match command.get_name() {
            "list" => "ls",
            "delete" | "remove" => "rm",
            _ => "",
        };
        if !short.is_empty() {
            *found += 1;
            let aliases: Vec<&str> = command.get_visible_aliases().collect();
            assert_eq!(aliases, [short], "{}", command.get_name());
        }
        for below in command.get_subcommands() {
            look(below, found);
        }
    }
    let mut found = 0;
    look(&Cli::command(), &mut found);
    assert!(found > 8, "{found}");
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "",
        "topic create a..b",
        "topic create a.*",
        "topic create a --durability maybe",
        "subscription create s",
        "subscription create s --topic a --config x",
        "subscription update s --topic a",
        "subscription update s --start new",
        "subscription update s --filter p --no-filters",
        "subscription update s --transform p --no-transforms",
        "subscription create s --topic a --filter =x",
        "subscription create s --topic a --filter p=x --config y",
        "subscription create s --topic a --filter p --on-failure explode",
        "subscription create s --topic a --ack-deadline 30",
        "subscription create s --topic a --in-flight 0",
        "route create r --from a",
        "topic list -o yaml",
        "topic list --json -o table",
        "topic list --context a --data-dir b",
        "context use",
        "context use a --none",
        "context show a --addr h:1",
        "context add a --cert b",
        "route create r --from a --to b.*",
        "pub a.b hello --file f",
        "pub a.b --ndjson f --lines",
        "pub a.b hello --header x",
        "pub a.b hello --cert only",
        "pub a.b hello --congestion reno",
        "sub s --compression on",
        "sub s --create",
        "sub s --topic a",
        "sub s --count 0",
        "cert client --ca d --out e",
        "cert client --ca d --out e --uri a --cn b",
        "cert server --ca d --out e",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
}

#[test]
fn a_subscription_is_what_its_flags_say() {
    let made = spec(
        "subscription create s --topic a.> --topic b --filter event-pattern={\"x\":[1]} --on-failure pause \
         --filter scrub --filter-config deep=yes --transform json-reshape --config {} --start earliest \
         --ack-deadline 5s --attempts 3 --backoff 1s,500ms --dead-letter dead.all --in-flight 10",
    );
    assert_eq!(made.topics.len(), 2);
    let filters: Vec<_> = made
        .filters
        .iter()
        .map(|plugin| {
            (
                plugin.plugin.as_str(),
                plugin.config.as_str(),
                plugin.on_failure,
            )
        })
        .collect();
    assert_eq!(
        filters,
        [
            ("event-pattern", "{\"x\":[1]}", FailurePolicy::Pause),
            ("scrub", "deep=yes", FailurePolicy::DeadLetter),
        ]
    );
    assert_eq!(made.transforms[0].config, "{}");
    assert_eq!(made.start, crate::domain::StartAt::Earliest);
    assert_eq!(made.delivery.ack_deadline_ms, 5_000);
    assert_eq!(made.delivery.attempts_max, 3);
    assert_eq!(made.delivery.backoff_ms, [1_000, 500]);
    assert_eq!(made.dead_letter_topic().as_str(), "dead.all");
    assert_eq!(made.delivery.in_flight_events_max, 10);
    assert!(!made.is_route() && !made.include_dead_letters);
    for line in [
        "subscription create s --topic > --include-dead-letters",
        "route create r --from > --to b --include-dead-letters",
    ] {
        assert!(spec(line).include_dead_letters, "{line}");
    }
}

#[test]
fn what_is_not_said_has_the_defaults() {
    let made = spec("subscription create s --topic a");
    assert_eq!(made.delivery, crate::domain::DeliveryPolicy::default());
    assert_eq!(made.start, crate::domain::StartAt::New);
    assert!(made.filters.is_empty() && made.transforms.is_empty());
}

#[test]
fn a_route_names_its_outputs() {
    let made = spec(
        "route create r --from bids --filter f=a --transform t=b --to won=bids.won --to lost=bids.lost",
    );
    let outputs: Vec<String> = made
        .outputs
        .iter()
        .map(|(name, topic)| format!("{name}={topic}"))
        .collect();
    assert_eq!(outputs, ["lost=bids.lost", "won=bids.won"]);
    assert!(made.is_route());
    let single = spec("route create r --from a --to b");
    assert_eq!(
        single
            .outputs
            .keys()
            .map(|name| name.as_str())
            .collect::<Vec<_>>(),
        ["out"]
    );
}

#[test]
fn a_configuration_may_come_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "{\"from\":\"file\"}").expect("written");
    let path = file.path().display();
    let made = spec(&format!(
        "subscription create s --topic a --filter p=@{path} --transform q --config @{path}"
    ));
    assert_eq!(made.filters[0].config, "{\"from\":\"file\"}");
    assert_eq!(made.transforms[0].config, "{\"from\":\"file\"}");
}

#[test]
fn an_update_says_only_what_was_named() {
    let patch = |line: &str| {
        let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let patch = match cli.command {
            Command::Subscription(args) => args.patch_to_apply(),
            Command::Route(args) => args.patch_to_apply(),
            other => panic!("{other:?}"),
        };
        serde_json::to_string(&patch).expect("plain data")
    };
    assert_eq!(patch("subscription update s"), "{}");
    assert_eq!(
        patch("subscription update s --no-filters --attempts 0 --backoff 1s,2s"),
        r#"{"filters":[],"delivery":{"attempts_max":0,"backoff_ms":[1000,2000]}}"#
    );
    assert_eq!(
        patch("subscription update s --filter p=x --on-failure pause"),
        r#"{"filters":[{"plugin":"p","config":"x","on_failure":"pause"}]}"#
    );
    assert_eq!(
        patch("route update r --no-transforms --to b"),
        r#"{"transforms":[],"outputs":{"out":"b"}}"#
    );
    for (flag, said) in [("", "true"), ("=true", "true"), ("=false", "false")] {
        assert_eq!(
            patch(&format!(
                "subscription update s --include-dead-letters{flag}"
            )),
            format!(r#"{{"include_dead_letters":{said}}}"#)
        );
    }
}

#[test]
fn only_closed_standard_output_ends_quietly() {
    let broken = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let check = |error: anyhow::Error, quiet: bool| {
        let error = error.context("while doing something");
        assert_eq!(is_closed_output(&error), quiet, "{error:#}");
    };
    check(output::OutputError(broken()).into(), true);
    check(broken().into(), false);
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    check(output::OutputError(full).into(), false);
}
