//! What is kept of plugins: their files go with them, also when the broker ends in between, and their names and numbers stay.

use std::collections::BTreeSet;
use std::fs;

use tidegate_tests::{BrokerProcess, guest};

fn files(broker: &BrokerProcess, folder: &str) -> anyhow::Result<BTreeSet<String>> {
    let entries = fs::read_dir(broker.data_directory().join(folder))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

#[tokio::test]
async fn files_go_with_the_last_version_and_names_stay() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let bundled = (files(&broker, "plugins")?, files(&broker, "plugin-cache")?);
    let bytes = guest("misbehaving_filter").await?;
    let admin = broker.admin();
    for name in ["mine", "same"] {
        assert_eq!(admin.upload(name, bytes.clone()).await?.version, 1);
    }
    assert_eq!(files(&broker, "plugins")?.len(), bundled.0.len() + 1);
    assert!(admin.try_delete_plugin("same").await?.is_ok());
    assert_eq!(files(&broker, "plugins")?.len(), bundled.0.len() + 1);
    assert!(admin.try_delete_plugin("mine").await?.is_ok());
    assert_eq!(files(&broker, "plugins")?, bundled.0);
    assert_eq!(files(&broker, "plugin-cache")?, bundled.1);

    // As a crash in the middle of an upload, and of a deletion, leaves it.
    let name = "0123456789abcdef".repeat(4);
    let orphans = [
        format!("plugins/{name}.wasm"),
        format!("plugins/{name}.new"),
        format!("plugin-cache/{name}-0123456789abcdef.cwasm"),
        "plugin-cache/artifact-a1B2c3.new".to_owned(),
    ];
    let foreign = [
        "plugins/.DS_Store",
        "plugins/mine.wasm",
        "plugin-cache/notes",
    ];
    broker.kill()?;
    let data = broker.data_directory();
    for file in orphans.iter().map(String::as_str).chain(foreign) {
        fs::write(data.join(file), b"x")?;
    }
    broker.restart().await?;
    for file in &orphans {
        assert!(!data.join(file).exists(), "{file}");
    }
    for file in foreign {
        assert!(data.join(file).exists(), "{file}");
    }
    let admin = broker.admin();
    assert_eq!(admin.upload("mine", bytes.clone()).await?.version, 2);
    assert!(admin.try_delete_plugin("mine").await?.is_ok());
    broker.stop().await?;
    broker.restart().await?;
    let names = broker.admin().plugin_names().await?;
    assert!(names.contains(&("mine".to_owned(), 2)), "{names:?}");
    assert_eq!(broker.admin().upload("mine", bytes).await?.version, 3);
    Ok(())
}
