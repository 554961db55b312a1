//! One test per way a file can be wrong, and that documentation, defaults and code say the same.

use std::path::Path;

use super::loading::FILE_BYTES_MAX;
use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml")
}

#[test]
fn the_documented_file_has_the_defaults() {
    let mut development = Config::development();
    assert_eq!(
        development.policy.grants.len(),
        2,
        "local and the development certificates"
    );
    assert!(development.warnings().is_empty());
    development.policy = Policy::default();
    assert_eq!(development, Config::default());
    assert_eq!(parse("").expect("empty file"), Config::default());
}

#[test]
fn the_documented_file_has_every_key() {
    let documented: toml::Table = documented_file::full().parse().expect("TOML");
    let full: Config = parse(&documented_file::full()).expect("valid with every key set");
    let actual = toml::Table::try_from(&full).expect("a form in TOML");
    assert_eq!(paths(&documented), paths(&actual));
}

#[test]
fn every_key_is_preceded_by_prose() {
    let mut previous_is_prose_or_key = false;
    for line in DEVELOPMENT
        .split("[[policy.grants]]")
        .next()
        .unwrap_or_default()
        .lines()
    {
        let is_key = documented_file::commented_key(line)
            .unwrap_or(line)
            .contains(" = ");
        assert!(
            !is_key || previous_is_prose_or_key,
            "no prose before {line}"
        );
        previous_is_prose_or_key = line.starts_with('#') || is_key;
    }
}

#[test]
fn what_is_shown_reads_back_to_the_same() {
    let check = |config: &Config| {
        let shown = config.to_documented_toml();
        assert_eq!(
            &parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}")),
            config
        );
    };
    check(&Config::default());
    check(&Config::development());
    check(&parse(&documented_file::full()).expect("valid"));
    check(
        &parse("listen.admin = \"\"\nplugins.override.\"a.b\".deadline_base_ms = 7")
            .expect("valid"),
    );
}

#[test]
fn what_is_shown_for_the_development_configuration_is_nearly_the_documented_file() {
    let shown = Config::development().to_documented_toml();
    let settings = DEVELOPMENT
        .split("[[policy.grants]]")
        .next()
        .unwrap_or_default();
    assert!(shown.starts_with(settings), "{shown}");
}

#[test]
fn text_that_is_no_toml_is_told_where_and_what() {
    check_refused("[listen\nquic = 1", &["line 1"]);
    check_refused(
        "data_dir = \"a\"\ndata_dir = \"b\"",
        &["duplicate key", "line 2, column 1"],
    );
}

#[test]
fn every_unknown_key_is_told_with_the_nearest_known_one() {
    check_refused(
        "data_dri = \"x\"",
        &["line 1, column 1", "`data_dri`", "did you mean `data_dir`?"],
    );
    check_refused(
        "\n[store]\njournal_byte_max = 1",
        &["line 3, column 1", "`store.journal_bytes_max`?"],
    );
    check_refused(
        "a = 1\nlogg.level = \"info\"",
        &["`a`", "`logg`", "did you mean `log`?"],
    );
    check_refused(
        "auto_create = true",
        &["did you mean `topics.auto_create`, in its own section?"],
    );
    check_refused("[topics]\nzzz = 1", &["known here: auto_create"]);
    check_refused(
        "[plugins.override.scrub]\nmemory = 1",
        &["`plugins.override.scrub.memory`", "memory_bytes_max"],
    );
    check_refused(
        "[[policy.grants]]\nprincipal = [\"local\"]",
        &["`policy.grants.principal`", "principals"],
    );
}

#[test]
fn a_wrong_type_is_told_with_its_line() {
    check_refused("[listen]\nquic = 4433", &["line 2, column 8", "expected"]);
    check_refused(
        "[listen]\nquic = \"localhost\"",
        &["line 2", "invalid socket address"],
    );
    check_refused(
        "[listen]\nadmin = \"localhost:4480\"",
        &["line 2", "is not an address and port"],
    );
    check_refused(
        "[topics]\nauto_create = \"yes\"",
        &["line 2, column 15", "expected a boolean"],
    );
    check_refused(
        "[log]\nformat = \"xml\"",
        &["line 2", "expected \"text\" or \"json\""],
    );
    check_refused(
        "[[policy.grants]]\nprincipals = [\"press\"]",
        &["line 2", "is not a principal"],
    );
    check_refused(
        "[[policy.grants]]\nprincipals = [\"local\"]\npublish = [\"a..b\"]",
        &["line 3", "empty token"],
    );
    check_refused(
        "[[policy.grants]]\npublish = [\">\"]",
        &["missing field `principals`"],
    );
}

#[test]
fn whatever_is_written_where_a_table_or_a_list_is_to_be_it_is_told_how_that_is_written() {
    let known = documented_file::all_keys();
    for (section, _) in known.iter().filter(|(_, value)| value.is_table()) {
        for value in ["3", "\"x\"", "true", "[1]"] {
            let text = format!("{section} = {value}");
            let place = format!("line 1, column {}", section.len() + 4);
            check_refused(
                &text,
                &[&place, &format!("`{section}`: this is a table: write [")],
            );
        }
    }
    check_refused("listen = 5", &["write [listen] on", "such as `admin = \""]);
    // A table that only has others in it.
    check_refused("policy = 1", &["write [[policy.grants]] on", "such as `"]);
    check_refused(
        "[policy.grants]\nprincipals = [\"local\"]",
        &[
            "line 1",
            "`policy.grants`: this is a table: write [[policy.grants]]",
        ],
    );
    check_refused("policy.grants = [1]", &["write [[policy.grants]] on"]);
    check_refused(
        "[plugins]\noverride = true",
        &["line 2, column 12", "write [plugins.override."],
    );
    check_refused(
        "plugins.override.scrub = 1",
        &["write [plugins.override.scrub] on"],
    );
    check_refused(
        "[[policy.grants]]\nprincipals = \"local\"",
        &[
            "line 2, column 14",
            "this is a list, written as `principals = [",
        ],
    );
}

#[test]
fn a_value_out_of_bounds_or_that_does_not_fit_is_told_with_its_key() {
    check_refused(
        "[listen]\nadmin = \"0.0.0.0:4480\"",
        &["line 2, column 1", "loopback only", "listen.admin_tls"],
    );
    check_refused(
        "[listen]\nanonymous = \"127.0.0.1:4433\"",
        &["line 2", "same address as listen.quic"],
    );
    check_refused(
        "[listen]\nadmin_tls = \"127.0.0.1:4480\"",
        &["line 2", "same address as listen.admin"],
    );
    check_refused(
        "[tls]\ncert = \"a.pem\"",
        &["`tls.key`: is missing", "`tls.client_ca`: is missing"],
    );
    check_refused(
        "[limits]\nevent_bytes_max = 8_000_000",
        &[
            "line 2, column 1",
            "`limits.frame_bytes_max`",
            "allowed are 8001024 to 1073741824, since `limits.event_bytes_max`",
        ],
    );
    check_refused(
        "[topics]\nrecreate_after_ms = 31_536_000_001",
        &["`topics.recreate_after_ms`", "allowed are 0 to 31536000000"],
    );
    check_refused(
        "[limits]\nconnections_max = 0",
        &["line 2, column 1", "allowed are 1 to 1000000"],
    );
    check_refused(
        "[store]\njournal_bytes_max = 67_108_864",
        &["line 2", "allowed are 268435456 to"],
    );
    check_refused(
        "[store]\njournal_file_bytes = 1",
        &["line 2", "store.journal_file_bytes"],
    );
    check_refused(
        "[plugins]\ninstances_max = 12\nowner_instances_max = 13",
        &["line 3", "allowed are 0 to 12"],
    );
    check_refused(
        "[plugins]\ninstances_memory_bytes_max = 67_108_864\nowner_memory_bytes_max = 67_108_865",
        &["line 3", "allowed are 0 to 67108864"],
    );
    check_refused(
        "[plugins]\ninstances_memory_bytes_max = 1",
        &["line 2", "plugins.instances_memory_bytes_max"],
    );
    check_refused(
        "[plugins]\ncompile_memory_bytes_max = 67_108_863",
        &["line 2", "plugins.compile_memory_bytes_max"],
    );
    check_refused(
        "[plugins.override.x]\nmemory_bytes_max = 1",
        &["line 2", "`plugins.override.x.memory_bytes_max`"],
    );
    check_refused(
        "[plugins.override.x]\nmodule_bytes_max = 1",
        &["line 2", "`plugins.override.x.module_bytes_max`"],
    );
    check_refused(
        "[log]\nlevel = \"info,loud=very=much\"",
        &["line 2", "is no filter"],
    );
    check_refused(
        "[log]\nlevel = \"verbose\"",
        &["line 2", "`verbose` is no level"],
    );
    check_refused("data_dir = \"\"", &["line 1", "`data_dir`: is empty"]);
    check_refused(
        "[tls]\ncert = \"\"\nkey = \"k\"\nclient_ca = \"c\"",
        &["line 2", "`tls.cert`: is empty"],
    );
}

#[test]
fn a_number_that_no_type_holds_is_told_its_bounds_as_well() {
    for (number, told) in [
        ("-1", "-1 is out of bounds"),
        ("4294967296", "4294967296 is out of bounds"),
        ("0x1_0000_0000", "0x100000000 is out of bounds"),
        (
            "18446744073709551616",
            "18446744073709551616 is out of bounds",
        ),
        ("1e3", "is no whole number"),
        ("\"12\"", "is no whole number"),
        ("true", "is no whole number"),
        ("[1]", "is no whole number"),
    ] {
        let text = format!("[limits]\nconnections_max = {number}");
        let expected = ["line 2, column 1", told, "allowed are 1 to 1000000"];
        check_refused(&text, &expected);
    }
    check_refused(
        "[store]\njournal_bytes_max = -1",
        &["`store.journal_bytes_max`: -1 is out of bounds"],
    );
    check_refused(
        "plugins.override.\"a.b\".deadline_base_ms = -7",
        &["`plugins.override.a.b.deadline_base_ms`: -7 is out of bounds; allowed are 1 to"],
    );
}

#[test]
fn a_wrong_number_says_nothing_of_those_that_follow_from_it() {
    for wrong in [
        "limits.frame_bytes_max = 18446744073709551615",
        "limits.frame_bytes_max = 1",
        "limits.event_bytes_max = 0",
        "limits.event_bytes_max = 9_999_999_999",
        "limits.connections_max = 0",
        "store.journal_file_bytes = 1",
        "store.journal_bytes_max = 99_999_999_999_999",
        "plugins.instances_max = 0",
        "plugins.instances_memory_bytes_max = 0",
        // It does not fit another, and what follows from it would be wrong in turn.
        "limits.event_bytes_max = 8_000_000",
    ] {
        let error = parse(wrong).expect_err(wrong).to_string();
        assert_eq!(error.lines().count(), 1, "{wrong}: {error}");
    }
    // Those that are wrong by themselves are told at once.
    let error = parse("limits.event_bytes_max = 0\nlimits.headers_max = -1\nlog.level = \"x\"");
    assert_eq!(error.expect_err("wrong").to_string().lines().count(), 2);
    let error = parse("limits.event_bytes_max = 0\nlog.level = \"x\"");
    assert_eq!(error.expect_err("wrong").to_string().lines().count(), 2);
}

#[test]
fn whatever_is_written_where_a_name_is_to_be_chosen_the_names_are_told() {
    let keys = documented_file::all_keys();
    let listen = keys["listen"].as_table().expect("a section");
    let chosen = |name: &&String| name.ends_with("congestion") || name.ends_with("compression");
    let keys = listen.keys().filter(chosen).map(|name| {
        let names = match name.ends_with("compression") {
            true => "\"auto\", \"off\" or \"always\"",
            false => "\"auto\", \"cubic\" or \"bbr\"",
        };
        (format!("listen.{name}"), names)
    });
    let format = ("log.format".to_owned(), "\"text\" or \"json\"");
    let keys: Vec<_> = keys.chain([format]).collect();
    assert_eq!(keys.len(), 5);
    let written = [
        "true",
        "1",
        "1.5",
        "\"Auto\"",
        "\"\"",
        "[\"auto\"]",
        "{ auto = 1 }",
        "1979-05-27",
    ];
    for (key, names) in keys {
        for value in written {
            check_refused(&format!("{key} = {value}"), &["line 1", names]);
        }
    }
}

#[test]
fn a_grant_that_gives_nobody_anything_is_told_with_its_line() {
    let sound = "[[policy.grants]]\nprincipals = [\"local\"]\npublish = [\">\"]\n";
    check_refused(
        &format!("{sound}[[policy.grants]]\nprincipals = []\npublish = [\">\"]"),
        &["line 5", "`policy.grants.principals`", "for nobody"],
    );
    check_refused(
        &format!("{sound}\n[[policy.grants]]\nprincipals = [\"local\"]\npublish = []"),
        &["line 5", "gives no right", "`metrics`"],
    );
    check_refused(
        "policy.grants = [{ principals = [] }]",
        &["line 1", "for nobody", "no right"],
    );
    let metrics = "[[policy.grants]]\nprincipals = [\"local\"]\nmetrics = true";
    assert!(parse(metrics).is_ok());
}

#[test]
fn a_missing_file_is_named() {
    let error =
        Config::load(Some(Path::new("/nonexistent/tidegate.toml"))).expect_err("no such file");
    assert!(error.to_string().contains("/nonexistent/tidegate.toml"));
}

#[test]
fn doubtful_settings_are_warned_about() {
    let check = |text: &str, expected: &str| {
        let warnings = parse(text).expect("valid").warnings();
        let said = |warning: &Warning| warning.to_string().contains(expected);
        assert!(warnings.iter().any(said), "{text:?} gave {warnings:?}");
    };
    check("", "no grants");
    check(
        "listen.anonymous = \"127.0.0.1:1\"",
        "no grant names `anonymous`",
    );
    check("listen.admin = \"\"", "cannot be managed");
}

// The file is refused, with all of `expected` in what a person sees.
fn check_refused(text: &str, expected: &[&str]) {
    let error = parse(text).expect_err(text);
    let message = format!("{:#}", anyhow::Error::new(error));
    for part in expected {
        assert!(
            message.contains(part),
            "{text:?} gave {message:?}, which lacks {part:?}"
        );
    }
    assert!(message.contains("test.toml"), "{message}");
    // Nothing is said twice.
    assert!(
        message.matches("TOML parse error").count() <= 1,
        "{message}"
    );
}

// Dotted paths of all leaves; the elements of an array count as one.
fn paths(table: &toml::Table) -> std::collections::BTreeSet<String> {
    fn walk(value: &toml::Value, path: String, out: &mut std::collections::BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                table
                    .iter()
                    .for_each(|(name, value)| walk(value, format!("{path}.{name}"), out));
            }
            toml::Value::Array(values) if values.first().is_some_and(toml::Value::is_table) => {
                values
                    .iter()
                    .for_each(|value| walk(value, path.clone(), out));
            }
            _ => {
                out.insert(path);
            }
        }
    }
    let mut out = std::collections::BTreeSet::new();
    walk(&toml::Value::Table(table.clone()), String::new(), &mut out);
    out
}

#[test]
fn a_file_is_refused_that_is_too_large_or_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tidegate.toml");
    let refused = |why: &str| {
        let error = Config::load(Some(&file)).expect_err(why);
        let source = std::error::Error::source(&error).expect("it cannot be read");
        assert!(source.to_string().contains(why), "{source}");
    };
    let comment = "# nothing\n";
    let largest = comment.repeat(FILE_BYTES_MAX as usize / comment.len());
    std::fs::write(&file, &largest).expect("written");
    assert!(Config::load(Some(&file)).is_ok());
    std::fs::write(&file, largest + comment).expect("written");
    refused("more than the 1048576 bytes");
    std::fs::remove_file(&file).expect("removed");
    std::fs::create_dir(&file).expect("made");
    refused("a folder");
}
