//! Which broker commands go to when they are not told: contexts, the data directory, the development broker that started last.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tidegate_tests::{BrokerProcess, Setup, TestIdentity, TestPki};

async fn development_broker() -> anyhow::Result<BrokerProcess> {
    BrokerProcess::start_with(Setup {
        development_certificates: true,
        ..Setup::default()
    })
    .await
}

/// A user with a home, in a folder, who has been told nothing about any broker.
struct User {
    home: tempfile::TempDir,
}

impl User {
    fn new() -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        std::fs::create_dir(home.path().join("elsewhere"))?;
        Ok(Self { home })
    }

    // What a command prints, and what it says beside.
    fn run(&self, broker: &BrokerProcess, arguments: &[&str]) -> anyhow::Result<Ran> {
        self.run_with(broker, arguments, &[])
    }

    fn run_with(
        &self,
        broker: &BrokerProcess,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Ran> {
        // The harness says everything; here the user does.
        let program = broker.command_line(&[])?.get_program().to_owned();
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.home.path().join("elsewhere"))
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .envs(environment.iter().copied());
        let output = command.output()?;
        Ok(Ran {
            well: output.status.success(),
            printed: String::from_utf8(output.stdout)?,
            said: String::from_utf8(output.stderr)?,
        })
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(".config/tidegate").join(name)
    }
}

#[derive(Debug)]
struct Ran {
    well: bool,
    printed: String,
    said: String,
}

fn dir(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test]
async fn a_context_leads_to_its_broker_by_both_doors() -> anyhow::Result<()> {
    let one = development_broker().await?;
    let other = development_broker().await?;
    let user = User::new()?;
    for (name, broker) in [("one", &one), ("other", &other)] {
        let data = broker.data_directory();
        let added = user.run(broker, &["context", "add", name, "--data-dir", dir(&data)])?;
        assert!(added.well, "{added:?}");
    }
    let again = user.run(
        &one,
        &["context", "add", "one", "--admin", "http://127.0.0.1:1"],
    )?;
    assert!(!again.well && again.said.contains("--force"), "{again:?}");
    assert!(user.run(&one, &["context", "use", "one"])?.well);
    let create = [
        "sub", "s", "--create", "--topic", "t", "--start", "earliest", "-n", "1",
    ];
    assert!(user.run(&one, &["pub", "t", "to one"])?.well);
    let mut to_other = vec!["pub", "t", "to other", "--context", "other"];
    assert!(user.run(&one, &to_other)?.well);
    let received = user.run(&one, &create)?;
    assert!(received.printed.contains("to one"), "{received:?}");
    let variable = [("TIDEGATE_CONTEXT", "other")];
    let received = user.run_with(&one, &create, &variable)?;
    assert!(received.printed.contains("to other"), "{received:?}");

    let listed = user.run(&one, &["context", "ls", "-o", "json"])?.printed;
    let listed: Value = serde_json::from_str(&listed)?;
    assert_eq!(listed[0]["name"], "one");
    assert_eq!(listed[0]["current"], true);
    assert_eq!(listed[1]["current"], false);
    let shown = user.run(&one, &["context", "show", "-o", "json"])?.printed;
    let shown: Value = serde_json::from_str(&shown)?;
    assert_eq!(shown["addr"], one.quic_addr());
    assert_eq!(shown["addr_from"], "context `one`");

    // A flag that names one door goes before the context, which then does not have the other.
    to_other.truncate(3);
    to_other.extend(["--addr", "127.0.0.1:1"]);
    assert!(!user.run(&one, &to_other)?.well);
    let removed = user.run(&one, &["context", "rm", "one"])?;
    assert!(removed.printed.contains("no context now"), "{removed:?}");
    let unknown = user.run(&one, &["topic", "ls", "--context", "one"])?;
    assert!(!unknown.well, "{unknown:?}");
    assert!(unknown.said.contains("no context `one`"), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn a_broker_named_by_a_flag_is_meant_whatever_variables_say() -> anyhow::Result<()> {
    let meant = development_broker().await?;
    let other = development_broker().await?;
    let user = User::new()?;
    let data = meant.data_directory();
    let add = ["context", "add", "meant", "--data-dir", dir(&data)];
    assert!(user.run(&meant, &add)?.well);
    // Of certificates, half would do for an error.
    let variables = [
        ("TIDEGATE_ADDR", other.quic_addr()),
        ("TIDEGATE_ADMIN", other.admin_url()),
        ("TIDEGATE_CA", "missing.pem"),
        ("TIDEGATE_CERT", "missing.pem"),
    ];
    for (topic, flag) in [
        ("a", ["--context", "meant"]),
        ("b", ["--data-dir", dir(&data)]),
    ] {
        for command in [&["topic", "create", topic][..], &["pub", topic, "x"]] {
            let ran = user.run_with(&meant, &[command, &flag].concat(), &variables)?;
            assert!(ran.well, "{ran:?}");
        }
    }
    let topics = |broker: &BrokerProcess| -> anyhow::Result<String> {
        let listed = ["topic", "list", "--admin", broker.admin_url()];
        Ok(user.run(broker, &listed)?.printed)
    };
    assert_eq!(topics(&other)?, "no topics\n");
    assert_eq!(topics(&meant)?.lines().count(), 3, "a heading, a and b");
    // A flag of a door still goes before the context.
    let admin = other.admin_url();
    let create = [
        "topic",
        "create",
        "c",
        "--context",
        "meant",
        "--admin",
        admin,
    ];
    assert!(user.run(&meant, &create)?.well);
    assert!(topics(&other)?.contains("c  "));
    Ok(())
}

#[tokio::test]
async fn half_of_what_proves_who_one_is_is_said_to_be_half() -> anyhow::Result<()> {
    let broker = development_broker().await?;
    let user = User::new()?;
    let data = broker.data_directory();
    for (named, missing) in [
        ("TIDEGATE_CERT", "TIDEGATE_KEY"),
        ("TIDEGATE_KEY", "TIDEGATE_CERT"),
    ] {
        let variables = [("TIDEGATE_DATA_DIR", dir(&data)), (named, "mine.pem")];
        let refused = user.run_with(&broker, &["pub", "t", "x"], &variables)?;
        assert!(!refused.well, "{refused:?}");
        let said = &refused.said;
        assert!(said.contains(&format!("mine.pem (from {named})")), "{said}");
        assert!(
            said.contains(&format!("name that with {missing}")),
            "{said}"
        );
    }
    let show = ["context", "show", "development", "--server-name", "x"];
    let refused = user.run(&broker, &show)?;
    assert!(refused.said.contains("cannot be used with"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn half_a_context_is_not_completed_by_another_broker() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let user = User::new()?;
    let admin = broker.admin_url();
    let add = ["context", "add", "half", "--admin", admin, "--use"];
    assert!(user.run(&broker, &add)?.well);
    assert!(user.run(&broker, &["topic", "list"])?.well);
    let refused = user.run(&broker, &["pub", "t", "x"])?;
    assert!(refused.said.contains("context `half`"), "{refused:?}");
    assert!(refused.said.contains("--addr"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn what_no_context_is_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let user = User::new()?;
    let check = |arguments: &[&str], why: &str| -> anyhow::Result<()> {
        let ran = user.run(&broker, arguments)?;
        assert!(
            !ran.well && ran.said.contains(why),
            "{arguments:?}: {ran:?}"
        );
        Ok(())
    };
    check(&["context", "add", "a"], "say where the broker")?;
    check(&["context", "add", "a", "--addr", "nowhere"], "HOST:PORT")?;
    check(&["context", "add", "a", "--addr", "h:1"], "whom to trust")?;
    check(
        &["context", "add", "a", "--admin", "h:1"],
        "http://HOST:PORT",
    )?;
    check(
        &["context", "add", "a", "--admin", "https://h:1"],
        "whom to trust",
    )?;
    check(
        &["context", "add", "a", "--data-dir", "missing"],
        "there is no missing",
    )?;
    check(
        &["context", "add", "development", "--data-dir", "."],
        "choose another name",
    )?;
    // Not to a broker that happens to listen where one does by default.
    for missing in ["nowhere", "."] {
        let says = "does not say where a broker listens";
        check(&["topic", "list", "--data-dir", missing], says)?;
        check(&["pub", "t", "x", "--data-dir", missing], says)?;
    }
    check(&["context", "use", "a"], "no context `a`")?;
    check(&["context", "remove", "a"], "no context `a`")?;
    let file = user.file("contexts.toml");
    assert!(!file.exists());
    std::fs::write(&file, "current = [")?;
    check(&["topic", "list"], "contexts.toml")?;
    check(&["context", "add", "a", "--data-dir", "."], "contexts.toml")?;
    assert_eq!(std::fs::read_to_string(&file)?, "current = [");
    // Who says everything needs no contexts.
    let admin = broker.admin_url();
    assert!(
        user.run(&broker, &["topic", "list", "--admin", admin])?
            .well
    );
    Ok(())
}

#[tokio::test]
async fn a_development_broker_is_found_from_everywhere_and_missed_aloud() -> anyhow::Result<()> {
    let mut broker = development_broker().await?;
    let user = User::new()?;
    let folder = user.file("");
    std::fs::create_dir_all(&folder)?;
    // As the broker wrote it, which has a home of its own in tests.
    let written = broker.directory().join("tidegate/development.toml");
    std::fs::copy(&written, user.file("development.toml"))?;
    assert!(user.run(&broker, &["pub", "t", "x"])?.well);
    let listed = user.run(&broker, &["topic", "list", "-o", "json"])?;
    let topics: Value = serde_json::from_str(&listed.printed)?;
    assert_eq!(topics[0]["name"], "t", "{listed:?}");
    let listed = user.run(&broker, &["context", "list"])?;
    assert!(listed.printed.contains("development"), "{listed:?}");
    // What the user chose goes before it.
    let data = broker.data_directory();
    let add = ["context", "add", "mine", "--data-dir", dir(&data), "--use"];
    assert!(user.run(&broker, &add)?.well);
    let shown = user.run(&broker, &["context", "show"])?.printed;
    assert!(shown.contains("context `mine`"), "{shown}");
    assert!(user.run(&broker, &["context", "use", "--none"])?.well);

    broker.stop().await?;
    let missed = user.run(&broker, &["topic", "list"])?;
    assert!(missed.said.contains("default context"), "{missed:?}");
    std::fs::remove_dir_all(&data)?;
    let missed = user.run(&broker, &["topic", "list"])?;
    assert!(missed.said.contains("which is gone"), "{missed:?}");
    assert!(user.run(&broker, &["context", "rm", "development"])?.well);
    assert!(!user.file("development.toml").exists());
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_nobody_lets_in_any_more_ends_and_says_whose_certificate_it_is()
-> anyhow::Result<()> {
    // Whose objection it is once the broker is back, with other files.
    type Change = fn(&Path, &TestPki) -> anyhow::Result<()>;
    let authority: Change =
        |certs, other| Ok(std::fs::write(certs.join("ca.pem"), other.ca_pem())?);
    let all: Change = |certs, other| other.write_server_files(certs).map(drop);
    let cases = [
        (
            authority,
            "does not know the authority that signed our certificate",
            "show another with --cert",
        ),
        (
            all,
            "is signed by another authority than ours",
            "name another with --ca",
        ),
    ];
    for (change, objection, hint) in cases {
        let mut broker = BrokerProcess::start().await?;
        let spec = serde_json::json!({"name": "s", "topics": ["t"]});
        broker.admin().create(spec).await?;
        let mut sub = broker.command_line(&["sub", "s"])?;
        let sub = sub.stderr(std::process::Stdio::piped()).spawn()?;
        broker
            .admin()
            .wait_subscription("s", "to have its consumer", |s| s.consumers == 1)
            .await?;
        broker.kill()?;
        change(&broker.directory().join("certs"), &TestPki::new()?)?;
        broker.restart().await?;
        let ended = tokio::task::spawn_blocking(move || sub.wait_with_output()).await??;
        let said = String::from_utf8(ended.stderr)?;
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(objection), "{said}");
        assert!(said.contains(hint), "{said}");
        assert!(said.contains("(from TIDEGATE_ADDR)"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_told_by_what_is_wrong_with_it() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let folder = tempfile::tempdir()?;
    let shown = |identity: &TestIdentity| -> anyhow::Result<[std::path::PathBuf; 2]> {
        let files = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&files[0], &identity.cert_pem)?;
        std::fs::write(&files[1], &identity.key_pem)?;
        Ok(files)
    };
    let check = |identity: &TestIdentity, more: &[&str], why: &str| -> anyhow::Result<()> {
        let [cert, key] = shown(identity)?;
        let mut command = broker.command_line(&["pub", "t", "x"])?;
        command
            .args(more)
            .env("TIDEGATE_CERT", cert)
            .env("TIDEGATE_KEY", key);
        let output = command.output()?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why) && said.contains("hint: "), "{said}");
        Ok(())
    };
    let other = TestPki::new()?;
    check(&other.client("x")?, &[], "does not know the authority")?;
    check(
        &broker.pki.expired_client("x")?,
        &[],
        "our certificate has expired",
    )?;
    let ours = broker.everybody();
    check(ours, &["--server-name", "elsewhere"], "is for another name")?;
    let ca = folder.path().join("other.pem");
    std::fs::write(&ca, other.ca_pem())?;
    check(ours, &["--ca", dir(&ca)], "is signed by another authority")
}
