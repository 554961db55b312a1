//! One test per way a file can be wrong, and that documentation, defaults and code say the same.

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
    let documented: toml::Table = known::full_document().parse().expect("TOML");
    let full: Config = parse(&known::full_document()).expect("valid with every key set");
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
        let is_key = known::commented_key(line).unwrap_or(line).contains(" = ");
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
    check(&parse(&known::full_document()).expect("valid"));
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
fn a_wrong_file_is_told_where_and_what() {
    let check = |text: &str, expected: &[&str]| {
        let error = parse(text).expect_err(text);
        // What a person sees; nothing is said twice.
        let message = format!("{:#}", anyhow::Error::new(error));
        for part in expected {
            assert!(
                message.contains(part),
                "{text:?} gave {message:?}, which lacks {part:?}"
            );
        }
        assert!(message.contains("test.toml"), "{message}");
        assert!(
            message.matches("TOML parse error").count() <= 1,
            "{message}"
        );
    };
    // No TOML.
    check("[listen\nquic = 1", &["line 1"]);
    check(
        "data_dir = \"a\"\ndata_dir = \"b\"",
        &["duplicate key", "line 2, column 1"],
    );
    // Unknown keys, all at once, with the nearest known one.
    check(
        "data_dri = \"x\"",
        &["line 1, column 1", "`data_dri`", "did you mean `data_dir`?"],
    );
    check(
        "\n[store]\njournal_byte_max = 1",
        &["line 3, column 1", "`store.journal_bytes_max`?"],
    );
    check(
        "a = 1\nlogg.level = \"info\"",
        &["`a`", "`logg`", "did you mean `log`?"],
    );
    check(
        "auto_create = true",
        &["did you mean `topics.auto_create`, in its own section?"],
    );
    check("[topics]\nzzz = 1", &["known here: auto_create"]);
    check(
        "[plugins.override.scrub]\nmemory = 1",
        &["`plugins.override.scrub.memory`", "memory_bytes_max"],
    );
    check(
        "[[policy.grants]]\nprincipal = [\"local\"]",
        &["`policy.grants.principal`", "principals"],
    );
    // Wrong types and texts, with the line.
    check("[listen]\nquic = 4433", &["line 2, column 8", "expected"]);
    check(
        "[listen]\nquic = \"localhost\"",
        &["line 2", "invalid socket address"],
    );
    check(
        "[listen]\nadmin = \"localhost:4480\"",
        &["line 2", "is not an address and port"],
    );
    check(
        "[topics]\nauto_create = \"yes\"",
        &["line 2, column 15", "expected a boolean"],
    );
    check("[store]\njournal_bytes_max = -1", &["line 2, column 21"]);
    check("store = 3", &["line 1, column 9", "expected struct Store"]);
    check("[log]\nformat = \"xml\"", &["line 2", "`text` or `json`"]);
    check(
        "[[policy.grants]]\nprincipals = [\"press\"]",
        &["line 2", "is not a principal"],
    );
    check(
        "[[policy.grants]]\nprincipals = [\"local\"]\npublish = [\"a..b\"]",
        &["line 3", "empty token"],
    );
    check(
        "[[policy.grants]]\npublish = [\">\"]",
        &["missing field `principals`"],
    );
    // Values out of bounds, or that do not fit together.
    check(
        "[listen]\nadmin = \"0.0.0.0:4480\"",
        &["line 2, column 1", "loopback only", "listen.admin_tls"],
    );
    check(
        "[listen]\nanonymous = \"127.0.0.1:4433\"",
        &["line 2", "same address as listen.quic"],
    );
    check(
        "[listen]\nadmin_tls = \"127.0.0.1:4480\"",
        &["line 2", "same address as listen.admin"],
    );
    check(
        "[tls]\ncert = \"a.pem\"",
        &["`tls.key`: is missing", "`tls.client_ca`: is missing"],
    );
    check(
        "[limits]\nevent_bytes_max = 8_000_000",
        &["`limits.frame_bytes_max`", "out of bounds"],
    );
    check(
        "[limits]\nconnections_max = 0",
        &["line 2, column 1", "allowed are 1 to 1000000"],
    );
    check(
        "[store]\njournal_bytes_max = 67_108_864",
        &["line 2", "allowed are 268435456 to"],
    );
    check(
        "[store]\njournal_file_bytes = 1",
        &["line 2", "store.journal_file_bytes"],
    );
    check(
        "[plugins]\ninstances_max = 12\nowner_instances_max = 13",
        &["line 3", "allowed are 0 to 12"],
    );
    check(
        "[plugins]\ninstances_memory_bytes_max = 67_108_864\nowner_memory_bytes_max = 67_108_865",
        &["line 3", "allowed are 0 to 67108864"],
    );
    check(
        "[plugins]\ninstances_memory_bytes_max = 1",
        &["line 2", "plugins.instances_memory_bytes_max"],
    );
    check(
        "[plugins.override.x]\nmemory_bytes_max = 1",
        &["line 2", "`plugins.override.x.memory_bytes_max`"],
    );
    check(
        "[plugins.override.x]\nmodule_bytes_max = 1",
        &["line 2", "`plugins.override.x.module_bytes_max`"],
    );
    check(
        "[log]\nlevel = \"loud=very=much\"",
        &["line 2", "is no filter"],
    );
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
        let warnings = parse(text).expect("valid").warnings().join("\n");
        assert!(warnings.contains(expected), "{text:?} gave {warnings:?}");
    };
    check("", "no grants");
    check(
        "listen.anonymous = \"127.0.0.1:1\"",
        "no grant names `anonymous`",
    );
    check("listen.admin = \"\"", "cannot be managed");
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
