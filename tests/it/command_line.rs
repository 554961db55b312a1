//! The commands as processes: how they end. What their arguments mean is tested beside them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tidegate_client::Event;
use tidegate_tests::{BrokerProcess, Setup, TypedCommand, wait_for};

use crate::support::{SMALL, publish, publish_events};

#[tokio::test]
async fn sub_ends_on_a_signal_however_much_there_is_to_print() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&broker.client().await?, "t", 0..100_000).await?;
    let mut sub = Running::new(broker.command_line(&["sub", "s"])?)?;
    broker
        .admin()
        .wait_subscription("s", "to be drained in part", |s| s.depth < 100_000)
        .await?;
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 0);
    Ok(())
}

#[tokio::test]
async fn sub_that_outlived_its_broker_ends_well() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let mut sub = Running::new(broker.command_line(&["sub", "s"])?)?;
    publish(&broker.client().await?, "t", 0..1).await?;
    broker.admin().wait_drained("s").await?;
    broker.kill()?;
    broker.restart().await?;
    publish(&broker.client().await?, "t", 1..2).await?;
    broker.admin().wait_drained("s").await?;
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 0);
    Ok(())
}

#[tokio::test]
async fn sub_that_is_interrupted_before_it_has_its_count_says_so() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let mut sub = Running::new(broker.command_line(&["sub", "s", "-n", "100"])?)?;
    publish(&broker.client().await?, "t", 0..3).await?;
    broker.admin().wait_drained("s").await?;
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 130);
    Ok(())
}

#[tokio::test]
async fn sub_that_is_interrupted_before_its_count_says_that_rather_than_that_acks_are_not_confirmed()
-> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    // More than a pipe holds, so that it is acked when it is read.
    let large = Event::new(vec![b'x'; 1_000_000]);
    publish_events(&broker.client().await?, "t", [large]).await?;
    let mut command = broker.command_line(&["sub", "s", "-n", "2"])?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sub = Running::new(command)?;
    let stdout = sub.0.stdout.take().expect("it is piped");
    let stderr = sub.0.stderr.take().expect("it is piped");
    let begun = tokio::task::spawn_blocking(move || {
        let mut printed = BufReader::new(stdout);
        printed
            .fill_buf()
            .map(|some| !some.is_empty())
            .map(|some| (printed, some))
    });
    let (mut printed, is_any) = begun.await??;
    assert!(is_any);
    broker.kill()?;
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        printed.read_line(&mut line).map(|_| (printed, line))
    });
    let (_printed, line) = line.await??;
    assert!(line.len() > 1_000_000);
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 130);
    let said = std::io::read_to_string(stderr)?;
    assert!(said.contains("warning: "), "{said}");
    assert!(!said.contains("error: "), "{said}");
    Ok(())
}

#[tokio::test]
async fn sub_warns_of_acks_that_were_too_late_and_has_done_its_part() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let policy = json!({"ack_deadline_ms": 50, "backoff_ms": [3_600_000]});
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    // More than a pipe holds that nobody reads.
    let large = Event::new(vec![b'x'; 1_000_000]);
    publish_events(&broker.client().await?, "t", [large]).await?;
    let mut command = broker.command_line(&["sub", "s", "-n", "1"])?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sub = Running::new(command)?;
    broker
        .admin()
        .wait_subscription("s", "to take it back", |s| {
            s.consumers == 1 && s.delayed == 1
        })
        .await?;
    let (stdout, stderr) = (sub.0.stdout.take(), sub.0.stderr.take());
    let printed =
        tokio::task::spawn_blocking(move || std::io::read_to_string(stdout.expect("it is piped")));
    assert!(printed.await??.len() > 1_000_000);
    assert_eq!(sub.code().await?, 0);
    let said = std::io::read_to_string(stderr.expect("it is piped"))?;
    assert!(
        said.starts_with("warning: 1 of the events answered"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn pub_says_why_it_waits_and_ends_on_the_first_signal() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let mut lines = Running::new({
        let mut yes = Command::new("yes");
        yes.stdout(Stdio::piped());
        yes
    })?;
    let mut command = broker.command_line(&["pub", "t"])?;
    command.stdin(lines.0.stdout.take().expect("it is piped"));
    command.stderr(Stdio::piped());
    let mut publishing = Running::new(command)?;
    let stderr = publishing.0.stderr.take().expect("it is piped");
    broker
        .admin()
        .wait_subscription("s", "to have something", |s| s.depth > 0)
        .await?;
    broker.kill()?;
    let mut said = BufReader::new(stderr);
    let (said, line) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).map(|_| (said, line))
    })
    .await??;
    assert!(line.starts_with("waiting: nothing listens at"), "{line}");
    publishing.signal(Signal::INT)?;
    assert_eq!(publishing.code().await?, 130);
    let rest: Vec<String> = said.lines().collect::<Result<_, _>>()?;
    let left = rest.iter().filter(|line| line.contains("not answered"));
    assert_eq!(left.count(), 1, "{rest:?}");
    Ok(())
}

#[tokio::test]
async fn sub_refuses_a_standard_output_that_is_closed_and_acks_nothing() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&broker.client().await?, "t", 0..3).await?;
    let sub = broker.command_line(&["sub", "s", "-n", "3"])?;
    let run = |redirection: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec \"$@\" {redirection}"), "sh"])
            .arg(sub.get_program())
            .args(sub.get_args())
            .envs(
                sub.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        shell.output()
    };
    let refused = run(">&-")?;
    assert!(!refused.status.success());
    let why = String::from_utf8(refused.stderr)?;
    assert!(why.contains("standard output is closed"), "{why}");
    let depth = broker.admin().subscription("s").await?.depth;
    assert_eq!(depth, 3, "nothing was acked");
    assert!(run("> /dev/null")?.status.success());
    broker.admin().wait_drained("s").await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_meant_ends_with_the_code_of_wrong_usage_wherever_it_is_said()
-> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let check = |arguments: &[&str], variable: Option<(&str, &str)>, expected: i32| {
        let mut command = broker.command_line(arguments)?;
        command.envs(variable).stderr(Stdio::piped());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{arguments:?}: {said}"
        );
        anyhow::Ok(())
    };
    check(&["pub", "t", "x", "--addr", "nonsense"], None, 2)?;
    check(&["link-test", "h:port"], None, 2)?;
    check(&["pub", "t", "x"], Some(("TIDEGATE_ADDR", "nonsense")), 2)?;
    check(&["topic", "list", "--admin", "ftp://h:1"], None, 2)?;
    let twice = [
        "route", "create", "r", "--from", "t", "--to", "a=b", "--to", "a=c",
    ];
    check(&twice, None, 2)?;
    check(&["subscription", "update", "s"], None, 2)?;
    check(&["context", "add", "here"], None, 2)?;
    // It is well said, and not there.
    check(&["subscription", "show", "s"], None, 1)?;
    check(&["topic", "list", "--context", "none-such"], None, 1)?;
    Ok(())
}

#[tokio::test]
async fn the_data_directory_says_where_both_doors_of_its_broker_are() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let command = |arguments: &[&str]| {
        let mut command = broker.command_line(arguments)?;
        command
            .env_remove("TIDEGATE_ADDR")
            .env_remove("TIDEGATE_ADMIN")
            .env("TIDEGATE_DATA_DIR", broker.data_directory());
        anyhow::Ok(command)
    };
    let create = [
        "sub", "s", "--create", "--topic", "t", "--start", "earliest",
    ];
    let code = async |command: Command| Running::new(command)?.code().await;
    assert_eq!(code(command(&["pub", "t", "one"])?).await?, 0);
    let mut all = create.to_vec();
    all.extend(["--count", "1"]);
    assert_eq!(code(command(&all)?).await?, 0);
    broker.admin().wait_drained("s").await?;
    // One door of a broker that is named, and one of whatever is found here, would be two brokers.
    let one_door = [("TIDEGATE_ADDR", "--admin"), ("TIDEGATE_ADMIN", "--addr")];
    for (named, missing) in one_door {
        let mut command = command(&create)?;
        command.env(named, "127.0.0.1:1").stderr(Stdio::piped());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(&format!("say {missing} too")), "{said}");
    }
    Ok(())
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn new(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(command.spawn()?))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    pub(crate) async fn code(&mut self) -> anyhow::Result<i32> {
        let status = wait_for("the command to end", async || Ok(self.0.try_wait()?)).await?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_is_damaged_is_listed_and_given_up_from_the_command_line() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    broker
        .admin()
        .create(json!({"name": "kept", "topics": ["t"]}))
        .await?;
    let client = broker.client().await?;
    let events = (0..60_u8).map(|n| Event::new(vec![n; 60_000]));
    publish_events(&client, "t", events).await?;
    wait_for("a checkpoint", async || {
        let checkpoints = broker.admin().metric("tidegate_checkpoints_total").await?;
        Ok((checkpoints > 0.0).then_some(()))
    })
    .await?;
    broker.stop().await?;
    let generations = broker.data_directory().join("store/generations");
    for generation in std::fs::read_dir(generations)? {
        let database = generation?.path().join("part-0000/db");
        if let Ok(sound) = std::fs::read(&database) {
            std::fs::write(&database, vec![0xA5; sound.len()])?;
        }
    }
    broker.restart().await?;
    broker
        .admin()
        .create(json!({"name": "late", "topics": ["t"], "start": "earliest"}))
        .await?;
    broker
        .admin()
        .wait_subscription("late", "to stand at the damage", |s| s.stands_at.is_some())
        .await?;
    let listed = broker
        .command_line(&["loss", "list"])?
        .stdout(Stdio::piped())
        .output()?;
    let listed = String::from_utf8(listed.stdout)?;
    assert!(
        listed.contains("part-0000") && listed.contains("damaged"),
        "{listed}"
    );
    let mut asked = TypedCommand::run(broker.command_line(&["loss", "accept"])?)?;
    asked.wait_for("for good? [y/N] ").await?;
    assert!(asked.screen().contains("part-0000"), "{}", asked.screen());
    asked.type_line("n")?;
    assert_eq!(asked.code().await?, 1);
    let accepted = broker
        .command_line(&["loss", "accept", "--dead-letters"])?
        .stdout(Stdio::piped())
        .output()?;
    let accepted = String::from_utf8(accepted.stdout)?;
    assert!(accepted.contains("kept as"), "{accepted}");
    // They are counted before they are written, and gone from the subscription after that.
    broker
        .admin()
        .wait_subscription("kept", "to have its dead letters", |s| {
            s.dead_lettered > 0 && s.unreadable == 0 && s.depth < 60
        })
        .await?;
    broker
        .admin()
        .wait_subscription("late", "to go on", |s| {
            s.stands_at.is_none() && s.unevaluated == 0
        })
        .await?;
    let listed = broker
        .command_line(&["loss", "list"])?
        .stdout(Stdio::piped())
        .output()?;
    let listed = String::from_utf8(listed.stdout)?;
    assert!(!listed.contains("part-0000"), "{listed}");
    Ok(())
}

#[tokio::test]
async fn a_refused_upload_says_why_however_large_it_is() -> anyhow::Result<()> {
    let mut setup = Setup::config("[plugins]\nmodule_bytes_max = 10_000_000\n");
    setup.grants = r#"
[[policy.grants]]
principals = ["local"]
upload = ["team-*"]
"#
    .to_owned();
    let broker = BrokerProcess::start_with(setup).await?;
    let directory = tempfile::tempdir()?;
    let check = |name: &str, bytes: usize, why: &str| -> anyhow::Result<()> {
        let file = directory.path().join("plugin.wasm");
        std::fs::write(&file, vec![0xA5; bytes])?;
        let mut command = broker.command_line(&["plugin", "upload", name])?;
        let output = command.arg(&file).output()?;
        let said = String::from_utf8(output.stderr)?;
        assert!(said.contains(why), "{name}, {bytes} bytes: {said:?}");
        assert_eq!(output.status.code(), Some(1), "{name}, {bytes} bytes");
        Ok(())
    };
    for bytes in [1_000, 300_000, 8 << 20, 40 << 20] {
        check("other-filter", bytes, "upload")?;
    }
    let too_large = "at most 10000000 are accepted (plugins.module_bytes_max";
    check("team-filter", 11_000_000, too_large)?;
    check("team-filter", 100 << 20, too_large)?;
    check("team-filter", 8 << 20, "not a WebAssembly component")
}

#[tokio::test]
async fn sub_says_that_its_subscription_is_paused_and_goes_on_when_it_is_resumed()
-> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let run = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = broker
            .command_line(arguments)?
            .stdout(Stdio::piped())
            .output()?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let paused = run(&["subscription", "pause", "s", "--reason", "for a look"])?;
    assert!(paused.contains("for a look"), "{paused}");
    publish(&broker.client().await?, "t", 0..1).await?;
    let listed = run(&["subscription", "ls"])?;
    assert!(listed.contains("paused: by local: for a look"), "{listed}");
    let mut sub = broker.command_line(&["sub", "s", "-n", "1"])?;
    let mut sub = Running::new({
        sub.stderr(Stdio::piped());
        sub
    })?;
    let stderr = sub.0.stderr.take().expect("it is piped");
    let mut said = BufReader::new(stderr);
    let (said, line) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).map(|_| (said, line))
    })
    .await??;
    assert!(line.starts_with("waiting: "), "{line}");
    assert!(line.contains("paused"), "{line}");
    run(&["subscription", "resume", "s"])?;
    assert_eq!(sub.code().await?, 0);
    let rest: Vec<String> = said.lines().collect::<Result<_, _>>()?;
    assert!(
        !rest.iter().any(|line| line.starts_with("error")),
        "{rest:?}"
    );
    broker.admin().wait_drained("s").await?;
    Ok(())
}

#[tokio::test]
async fn a_time_limit_ends_commands_with_the_reason_and_a_code_of_its_own() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let limited = |arguments: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let mut command = broker.command_line(arguments)?;
        let output = command.args(["--timeout", "5s"]).output()?;
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    };
    let (code, said) = limited(&["sub", "s"])?;
    assert_eq!(code, Some(124), "{said}");
    assert!(said.contains("no event came within 5s"), "{said}");
    let mut publishing = broker.command_line(&["pub", "t", "--lines", "--timeout", "5s"])?;
    publishing
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut publishing = publishing.spawn()?;
    let mut lines = publishing.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut lines, b"one\n")?;
    broker
        .admin()
        .wait_subscription("s", "to have one", |s| s.depth == 1)
        .await?;
    broker.kill()?;
    std::io::Write::write_all(&mut lines, b"two\n")?;
    drop(lines);
    let output = publishing.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(124), "{said}");
    assert!(said.contains("1 events were published"), "{said}");
    let limited = |arguments: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let mut command = broker.command_line(arguments)?;
        let output = command.args(["--timeout", "3s"]).output()?;
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    };
    for away in [&["sub", "s"][..], &["pub", "t", "x"]] {
        let (code, said) = limited(away)?;
        assert_eq!(code, Some(124), "{said}");
        assert!(said.contains("nothing listens at"), "{said}");
        assert!(said.contains("(from TIDEGATE_ADDR)"), "{said}");
        assert!(said.contains("hint: start the broker"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_temporary_subscription_goes_with_its_command_however_that_ends() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let temporary = ["sub", "--temporary", "--topic", "t"];
    let names = async || -> anyhow::Result<Vec<String>> {
        let all = broker.admin().subscriptions().await?;
        Ok(all.into_iter().map(|s| s.spec.name.to_string()).collect())
    };
    let mut sub = Running::new(broker.command_line(&temporary)?)?;
    let made = wait_for("the subscription", async || Ok(names().await?.pop())).await?;
    assert!(made.starts_with("temporary-"), "{made}");
    broker
        .admin()
        .wait_subscription(&made, "to have its consumer", |s| s.consumers == 1)
        .await?;
    sub.signal(Signal::TERM)?;
    assert_eq!(sub.code().await?, 0);
    assert!(names().await?.is_empty());

    let ends = [
        "sub",
        "mine",
        "--temporary",
        "--topic",
        "t",
        "--timeout",
        "5s",
    ];
    let mut sub = Running::new(broker.command_line(&ends)?)?;
    assert_eq!(sub.code().await?, 124);
    assert!(names().await?.is_empty());

    // Whoever has it ignore the end of its terminal wants it to go on after that.
    let sub = broker.command_line(&temporary)?;
    let mut nohup = Command::new("sh");
    let variables = sub.get_envs();
    nohup
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(sub.get_program())
        .args(sub.get_args())
        .envs(variables.filter_map(|(name, value)| Some((name, value?))))
        .stdout(Stdio::null());
    let mut sub = Running::new(nohup)?;
    let made = wait_for("the subscription", async || Ok(names().await?.pop())).await?;
    broker
        .admin()
        .wait_subscription(&made, "to have its consumer", |s| s.consumers == 1)
        .await?;
    sub.signal(Signal::HUP)?;
    publish(&broker.client().await?, "t", 0..1).await?;
    broker.admin().wait_drained(&made).await?;
    sub.signal(Signal::TERM)?;
    assert_eq!(sub.code().await?, 0);
    assert!(names().await?.is_empty());

    // One that is there is somebody's.
    broker
        .admin()
        .create(json!({"name": "mine", "topics": ["t"]}))
        .await?;
    let mut sub = Running::new(broker.command_line(&ends)?)?;
    assert_eq!(sub.code().await?, 1);
    assert_eq!(names().await?, ["mine"]);
    Ok(())
}

#[tokio::test]
async fn a_temporary_subscription_that_stays_is_no_success_and_can_be_given_up()
-> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let temporary = ["sub", "s", "--temporary", "--topic", "t"];
    let started = async |broker: &BrokerProcess| {
        let mut command = broker.command_line(&temporary)?;
        command.stderr(Stdio::piped());
        let sub = Running::new(command)?;
        let admin = broker.admin();
        wait_for("its consumer", async || {
            let all = admin.subscriptions().await?;
            Ok(all.iter().any(|s| s.consumers == 1).then_some(()))
        })
        .await?;
        anyhow::Ok(sub)
    };
    let said =
        |sub: &mut Running| std::io::read_to_string(sub.0.stderr.take().expect("it is piped"));
    let mut sub = started(&broker).await?;
    broker.kill()?;
    sub.signal(Signal::INT)?;
    assert_eq!(sub.code().await?, 1);
    let stays = "subscription s stays for ten minutes";
    assert!(said(&mut sub)?.contains(stays));
    broker.restart().await?;
    broker.admin().delete_subscription("s").await?;

    // A broker that takes requests and does not answer.
    let mut sub = started(&broker).await?;
    let pid = broker
        .pid()
        .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.expect("it runs");
    kill_process(pid, Signal::STOP)?;
    let code = wait_for("the command to give up", async || {
        sub.signal(Signal::INT)?;
        Ok(sub.0.try_wait()?)
    })
    .await;
    kill_process(pid, Signal::CONT)?;
    assert_eq!(code?.code(), Some(130));
    assert!(said(&mut sub)?.contains(stays));
    Ok(())
}

#[tokio::test]
async fn a_deletion_says_what_goes_with_it_and_asks_no_script() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    for name in ["a", "b"] {
        broker
            .admin()
            .create(json!({"name": name, "topics": ["t"]}))
            .await?;
    }
    publish(&broker.client().await?, "t", 0..3).await?;
    let run = |arguments: &[&str]| -> anyhow::Result<serde_json::Value> {
        let mut command = broker.command_line(arguments)?;
        let output = command.stdout(Stdio::piped()).output()?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let pending = run(&["subscription", "rm", "a", "-o", "json"])?;
    assert_eq!(pending, json!({"deleted": "a", "pending": 3}));
    // One for which nothing is pending.
    let idle = json!({"name": "idle", "topics": ["t"]});
    broker.admin().create(idle).await?;
    let delete = ["topic", "delete", "t", "-o", "json"];
    let lost = run(&delete)?;
    let expected = json!({
        "deleted": "t", "events": 3, "last_sequence": 3, "subscriptions": ["b"], "pending": {"b": 3}, "pending_unseen": 0
    });
    assert_eq!(lost, expected);
    // Made again, it goes on above what it gave, and has nothing.
    run(&["topic", "create", "t", "-o", "json"])?;
    let lost = run(&delete)?;
    let expected = json!({
        "deleted": "t", "events": 3, "last_sequence": 3, "subscriptions": [], "pending": {}, "pending_unseen": 0
    });
    assert_eq!(lost, expected);
    Ok(())
}

#[tokio::test]
async fn a_deletion_asks_on_a_terminal_wherever_its_messages_go() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let mut client = broker.command_line(&["topic", "create", "t"])?;
    assert!(client.status()?.success());
    let topics = || -> anyhow::Result<usize> {
        let mut command = broker.command_line(&["topic", "list", "-o", "json"])?;
        let listed = command.stdout(Stdio::piped()).output()?;
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout)?;
        Ok(listed.len())
    };
    let delete = || broker.command_line(&["topic", "rm", "t"]);
    let place = format!("at {} (from TIDEGATE_ADMIN)", broker.admin_url());
    let folder = tempfile::tempdir()?;
    let elsewhere = folder.path().join("messages");
    let messages = || std::fs::File::create(&elsewhere);

    let mut asked = TypedCommand::run(delete()?)?;
    asked.wait_for("Delete it? [y/N] ").await?;
    let screen = asked.screen();
    assert!(
        screen.contains("topic t, which never had an event"),
        "{screen}"
    );
    assert!(screen.contains(&place), "{screen}");
    asked.type_line("no")?;
    assert_eq!(asked.code().await?, 1);
    assert_eq!(topics()?, 1);

    // Where there is nobody to ask although somebody types.
    let refused = TypedCommand::run_detached(delete()?, messages()?)?;
    assert_eq!(refused.code().await?, 1);
    let said = std::fs::read_to_string(&elsewhere)?;
    assert!(said.contains("say --yes"), "{said}");
    assert_eq!(topics()?, 1);

    let mut asked = TypedCommand::run_with_messages(delete()?, messages()?)?;
    asked.wait_for("Delete it? [y/N] ").await?;
    asked.type_line("yes")?;
    assert_eq!(asked.code().await?, 0);
    assert_eq!(topics()?, 0);
    Ok(())
}
