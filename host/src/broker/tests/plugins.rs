//! What a start makes of the plugins that lie on disk.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::domain::Name;
use crate::plugin::bundled::BundledPlugin;

const FILTER: &str = include_str!("../../plugin/testdata/filter.wat");

fn component() -> Vec<u8> {
    wat::parse_str(FILTER).expect("a component in text form")
}

impl Fixture {
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
