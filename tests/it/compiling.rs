//! Compiling is hostile: a process of its own does it, within limits, and whoever uploaded is told what was too much.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tidegate_tests::{BrokerProcess, Setup, guest, wait_for, with_large_function};

use crate::support::{consume, publish, take_numbers};

/// Takes a compiler some hundred MiB, and long enough to be found at it.
const LARGE_BYTES: usize = 4_500_000;
const MIB: u64 = 1 << 20;

async fn large(seed: u32) -> anyhow::Result<Vec<u8>> {
    let plugin = guest("misbehaving_filter").await?;
    Ok(with_large_function(&plugin, LARGE_BYTES, seed))
}

// The process that compiles for this broker, if there is one.
fn compiler_of(broker: u32) -> anyhow::Result<Option<Pid>> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may be gone by now.
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let is_its = read("status")
            .lines()
            .any(|line| line == format!("PPid:\t{broker}"));
        if is_its && read("cmdline").contains("compile-plugin") {
            return Ok(Pid::from_raw(pid));
        }
    }
    Ok(None)
}

fn is_gone(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status.map_or(true, |status| status.contains("State:\tZ"))
}

async fn running_compiler(broker: &BrokerProcess) -> anyhow::Result<Pid> {
    let pid = broker.pid().unwrap_or_default();
    wait_for("a component to be compiled", async || compiler_of(pid)).await
}

#[tokio::test]
async fn what_takes_too_much_memory_is_refused_and_takes_none_of_the_brokers() -> anyhow::Result<()>
{
    let limit = "[plugins]\ncompile_memory_bytes_max = 67_108_864\n";
    let broker = BrokerProcess::start_with(Setup::config(limit)).await?;
    // The component itself, on its way in, is some of it.
    let plugin = large(1).await?;
    let before = broker.resident_bytes_max()?;
    let refused = broker.admin().try_upload("large", plugin).await?;
    let refusal = refused.expect_err("it takes more");
    assert_eq!(refusal.status, 422, "{refusal:?}");
    for words in ["64 MiB", "plugins.compile_memory_bytes_max"] {
        assert!(refusal.text.contains(words), "{refusal:?}");
    }
    // Had the broker compiled it, it would have taken what was refused.
    let taken = broker.resident_bytes_max()? - before;
    assert!(taken < 64 * MIB, "{taken} bytes");
    // Others still can.
    let small = guest("misbehaving_filter").await?;
    broker.admin().upload("small", small).await?;
    Ok(())
}

#[tokio::test]
async fn what_takes_too_long_is_stopped() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker.stop().await?;
    broker.set_config("[plugins]\ncompile_timeout_ms = 1_000\n");
    broker.restart().await?;
    let (admin, plugin) = (broker.admin(), large(2).await?);
    let answer = tokio::spawn(async move { admin.try_upload("large", plugin).await });
    // However fast the machine is, it does not come to an end.
    kill_process(running_compiler(&broker).await?, Signal::STOP)?;
    let refusal = answer.await??.expect_err("it takes longer");
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(
        refusal.text.contains("plugins.compile_timeout_ms"),
        "{refusal:?}"
    );
    let pid = broker.pid().unwrap_or_default();
    wait_for("the compiler to be gone", async || {
        Ok(compiler_of(pid)?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_compiler_ends_with_its_broker_and_not_the_other_way_round() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let plugin = large(3).await?;
    let upload = |admin: tidegate_tests::AdminApi| {
        let plugin = plugin.clone();
        tokio::spawn(async move { admin.try_upload("large", plugin).await })
    };
    let answer = upload(broker.admin());
    kill_process(running_compiler(&broker).await?, Signal::KILL)?;
    let refusal = answer.await??.expect_err("the compiler was killed");
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(refusal.text.contains("killed"), "{refusal:?}");

    let answer = upload(broker.admin());
    let compiler = running_compiler(&broker).await?;
    broker.kill()?;
    assert!(answer.await?.is_err(), "nobody is left to answer");
    wait_for("the compiler to be gone", async || {
        Ok(is_gone(compiler).then_some(()))
    })
    .await
}

#[tokio::test]
async fn what_was_compiled_serves_the_next_start_unless_it_is_damaged() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let plugin = guest("misbehaving_filter").await?;
    let folder = broker.data_directory().join("plugin-cache");
    let files = || -> anyhow::Result<Vec<_>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "cwasm")
            {
                files.push((path.clone(), fs::metadata(&path)?.ino()));
            }
        }
        files.sort();
        Ok(files)
    };
    let bundled = files()?;
    broker.admin().upload("mine", plugin).await?;
    let all = files()?;
    broker.stop().await?;
    broker.restart().await?;
    assert_eq!(files()?, all, "compiled again");

    broker.stop().await?;
    let is_new = |file: &&(_, _)| !bundled.contains(file);
    let (path, _) = all.iter().find(is_new).expect("one more");
    let sound = fs::read(path)?;
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    fs::write(path, &damaged)?;
    broker.restart().await?;
    assert!(broker.log().contains("compiled plugin is not usable"));
    assert_eq!(fs::read(path)?, sound);
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_for_no_compiler() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let (admin, plugin) = (broker.admin(), large(4).await?);
    let answer = tokio::spawn(async move { admin.try_upload("large", plugin).await });
    running_compiler(&broker).await?;
    assert!(broker.stop().await?.success());
    let refusal = answer.await??.expect_err("the broker stops");
    assert_eq!(refusal.status, 503, "{refusal:?}");
    let log = broker.log();
    assert!(log.contains("stopped"), "{log}");
    for waited in [
        "tasks do not end",
        "did not end in time",
        "still in progress",
    ] {
        assert!(!log.contains(waited), "{log}");
    }
    // The next start knows nothing of it.
    broker.restart().await?;
    let names = broker.admin().plugin_names().await?;
    assert!(names.iter().all(|(name, _)| name != "large"), "{names:?}");
    Ok(())
}

#[tokio::test]
async fn what_becomes_of_the_files_is_nothing_to_what_runs() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let filters = json!([{"plugin": "event-pattern", "config": "{\"n\": [1, 2, 3]}"}]);
    let spec = json!({"name": "s", "topics": ["t"], "filters": filters});
    broker.admin().create(spec).await?;
    // Loaded, and none of it used.
    broker.stop().await?;
    broker.restart().await?;
    for entry in fs::read_dir(broker.data_directory().join("plugin-cache"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "cwasm")
        {
            let bytes = fs::metadata(&path)?.len();
            let file = fs::File::options().write(true).open(&path)?;
            file.set_len(0)?;
            file.set_len(bytes / 2)?;
        }
    }
    let client = broker.client().await?;
    publish(&client, "t", [1, 7, 2, 8, 3]).await?;
    let mut consumer = consume(&client, "s").await?;
    take_numbers(&mut consumer, [1, 2, 3]).await?;
    // Else it comes back and takes what is meant for another.
    consumer.close().await;
    broker.stop().await?;
    broker.restart().await?;
    assert!(broker.log().contains("compiled plugin is not usable"));
    let client = broker.client().await?;
    publish(&client, "t", [1]).await?;
    take_numbers(&mut consume(&client, "s").await?, [1]).await?;
    Ok(())
}
