//! What becomes of plugins: what a start makes of those that lie on disk, how they are called, and that deleted ones leave nothing.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::domain::Name;
use crate::plugin::bundled::BundledPlugin;

const FILTER: &str = include_str!("../../plugin/testdata/filter.wat");
const TRANSFORM: &str = include_str!("../../plugin/testdata/transform.wat");

fn component() -> Vec<u8> {
    wat::parse_str(FILTER).expect("a component in text form")
}

// The same plugin with other bytes: a custom section more.
fn version_of(component: &[u8], number: u8) -> Bytes {
    [component, &[0, 3, 1, b'v', number]].concat().into()
}

// Whatever a plugin might leave behind: files, tasks, and lines of metrics.
#[derive(Debug, PartialEq)]
struct Traces {
    files: Vec<String>,
    tasks: usize,
    metrics: Vec<String>,
}

impl Fixture {
    fn traces(&self) -> Traces {
        let entries = ["plugins", "cache"].map(|folder| {
            let entries = fs::read_dir(self.dir.path().join(folder)).expect("there");
            entries.map(|entry| entry.expect("an entry").path().display().to_string())
        });
        let mut files: Vec<String> = entries.into_iter().flatten().collect();
        files.sort();
        let metrics = self.metrics_text();
        let of_plugins = metrics
            .lines()
            .filter(|line| line.starts_with("tidegate_plugin_"));
        Traces {
            files,
            tasks: self.broker.spawner().running(),
            metrics: of_plugins.map(str::to_owned).collect(),
        }
    }

    async fn upload(&self, name: &str, bytes: Bytes) -> Result<String, ChangeError> {
        let (who, name): (_, Name) = (Principal::local(), name.parse().expect("a name"));
        let place = self.broker.upload_place(&who).await.expect("a place");
        let uploaded = self.broker.upload_plugin(&who, place, &name, bytes);
        uploaded.await.map(|info| info.label())
    }

    async fn delete_plugin(&self, name: &str) {
        let who = Principal::local();
        let deleted = self.broker.delete_plugin(&who, name, false).await;
        deleted.expect("deleted");
    }

    async fn restarted(self) -> Self {
        self.start_after(|_| {}).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_knows_of_no_upload_takes_no_plugin_for_useless() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).expect("created");
    // As the store that was here before has it.
    let other = plugins
        .join("0123456789abcdef".repeat(4))
        .with_extension("wasm");
    fs::write(&other, b"all there is of it").expect("written");
    let fixture = Fixture::start_in(dir, 1 << 20, false)
        .await
        .restarted()
        .await;
    assert!(other.exists(), "the store is new");

    let (who, name): (_, Name) = (Principal::local(), "mine".parse().expect("a name"));
    let place = fixture.broker.upload_place(&who).await.expect("a place");
    let bytes = Bytes::from(component());
    let uploaded = fixture.broker.upload_plugin(&who, place, &name, bytes);
    uploaded.await.expect("uploaded");
    let deleted = fixture.broker.delete_plugin(&who, "mine", true).await;
    deleted.expect("deleted");
    let fixture = fixture.restarted().await;
    assert!(!other.exists(), "it knows what was uploaded");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundled_plugin_that_cannot_be_written_does_not_end_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes: &'static [u8] = component().leak();
    let digest = Sha256::digest(bytes);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    // Where it would be written.
    let taken = dir
        .path()
        .join("plugins")
        .join(digest)
        .with_extension("new");
    fs::create_dir_all(taken).expect("created");
    let plugin = BundledPlugin {
        name: "comes-along",
        bytes,
    };
    let fixture = Fixture::start_with(dir, 1 << 20, false, &[plugin]).await;
    let broken = Condition::PluginBroken("comes-along".into());
    assert_eq!(fixture.raised(), [broken]);
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a", 1, 10).await;
    for answer in stream.answers(1).await {
        answer.result.expect("appended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_be_read_at_the_start_is_loaded_once_it_can() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a", 3, 10).await;
    assert!(stream.answers(1).await.remove(0).result.is_ok());
    fixture
        .upload("mine", component().into())
        .await
        .expect("uploaded");
    let filter = serde_json::json!({"plugin": "mine", "config": "a"});
    let spec =
        serde_json::json!({"name": "s", "topics": ["a"], "start": "earliest", "filters": [filter]});
    fixture.create(spec).await;
    fixture.wait_info("s", |info| info.depth == 3).await;
    let mut files = fixture.traces().files.into_iter();
    let wasm = files
        .find(|file| file.ends_with(".wasm"))
        .expect("its file");
    let aside = fixture.dir.path().join("aside");
    // Where a file was there is a folder, which nobody can read as one.
    let fixture = fixture
        .start_after(|_| {
            fs::rename(&wasm, &aside).expect("renamed");
            fs::create_dir(&wasm).expect("created");
        })
        .await;
    let broken = Condition::PluginBroken("mine@1".into());
    assert_eq!(fixture.raised(), std::slice::from_ref(&broken));
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a", 2, 10).await;
    assert!(stream.answers(1).await.remove(0).result.is_ok());
    fs::remove_dir(&wasm).expect("removed");
    fs::rename(&aside, &wasm).expect("renamed");
    let info = fixture.wait_info("s", |info| info.depth == 5).await;
    assert_eq!(info.paused, None);
    until(|| fixture.raised().is_empty(), || "it is loaded".into()).await;
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_used_and_deleted_leave_nothing_behind() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a", 3, 10).await;
    assert!(stream.answers(1).await.remove(0).result.is_ok());
    let before = fixture.traces();
    let component = component();
    for number in 1..=50 {
        let bytes = version_of(&component, number);
        let label = fixture.upload("mine", bytes).await.expect("uploaded");
        assert_eq!(label, format!("mine@{number}"));
        let filter = serde_json::json!({"plugin": "mine", "config": "a"});
        let spec = serde_json::json!({"name": "s", "topics": ["a"], "start": "earliest", "filters": [filter]});
        fixture.create(spec).await;
        fixture.wait_info("s", |info| info.depth == 3).await;
        let events = format!("tidegate_plugin_events_total{{plugin=\"{label}\",");
        fixture.wait_for_metric(&events).await;
        fixture.delete("s").await;
        fixture.delete_plugin("mine").await;
    }
    until(
        || fixture.traces() == before,
        || format!("{:#?}\nbefore {before:#?}", fixture.traces()),
    )
    .await;
    let fixture = fixture.restarted().await;
    assert_eq!(fixture.traces().files, before.files);
    assert_eq!(fixture.traces().metrics, before.metrics);
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_call_a_plugin_by_its_name_from_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = BundledPlugin {
        name: "comes-along",
        bytes: component().leak(),
    };
    let fixture = Fixture::start_with(dir, 1 << 20, false, &[plugin]).await;
    let called = |label: &str| {
        let label = format!("plugin=\"{label}\"");
        let text = fixture.metrics_text();
        text.lines().filter(|line| line.contains(&label)).count()
    };
    let rows = called("comes-along@1");
    assert!(rows > 0);
    assert_eq!(called(""), 0);
    // Other names of the same bytes are no rows of their own, and take over when the first goes.
    fixture
        .upload("b", version_of(&component(), 1))
        .await
        .expect("uploaded");
    fixture
        .upload("a", version_of(&component(), 1))
        .await
        .expect("uploaded");
    assert_eq!((called("a@1"), called("b@1")), (rows, 0));
    fixture.delete_plugin("a").await;
    assert_eq!((called("a@1"), called("b@1")), (0, rows));
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_mean_something_else_are_refused() {
    let fixture = Fixture::start(1 << 20).await;
    for name in ["0123456789abcdef".repeat(4), "ABCDEF0123456789".repeat(4)] {
        let refused = fixture.upload(&name, component().into()).await;
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains("64 hexadecimal digits"), "{refused}");
    }
    let no_digest = "0123456789abcdeg".repeat(4);
    let uploaded = fixture.upload(&no_digest, component().into()).await;
    assert_eq!(uploaded.ok(), Some(format!("{no_digest}@1")));

    // One name, one world.
    let transform = wat::parse_str(TRANSFORM).expect("a component in text form");
    let refused = fixture.upload(&no_digest, transform.clone().into()).await;
    let refused = refused.expect_err("refused").to_string();
    assert!(
        refused.contains("@1` is a filter, and this is a transform"),
        "{refused}"
    );
    let uploaded = fixture.upload("other", transform.into()).await;
    assert_eq!(uploaded.ok().as_deref(), Some("other@1"));
    fixture.broker.shutdown().await;
}
