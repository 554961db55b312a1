//! The guests under `tests/guests`, and plugins among the examples: built for the target that plugins are built for, into a
//! folder beside the tests' own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, anyhow, ensure};

use crate::repository;

/// Target of all guests.
const TARGET: &str = "wasm32-wasip2";

static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The bytes of the guest that `tests/guests` builds as `<name>.wasm`.
///
/// # Errors
/// The guests do not build, or there is none of that name.
pub async fn guest(name: &'static str) -> anyhow::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let folder =
            BUILT.get_or_init(|| build("tests/guests").map_err(|error| format!("{error:#}")));
        let folder = folder.as_ref().map_err(|text| anyhow!("{text}"))?;
        let path = folder.join(format!("{name}.wasm"));
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    })
    .await?
}

/// The bytes of the component `<name>.wasm` of an example, which is a crate of its own in this folder of the repository.
///
/// # Errors
/// It does not build, or makes none of that name.
pub async fn example(folder: &'static str, name: &'static str) -> anyhow::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let path = build(folder)?.join(format!("{name}.wasm"));
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    })
    .await?
}

// Where the components of a crate or workspace in this folder of the repository are.
fn build(folder: &str) -> anyhow::Result<PathBuf> {
    let manifest = repository().join(folder).join("Cargo.toml");
    // `<target>/debug/deps/it-…`, or `<target>/release/compare`: guests get a folder of their own, since a build of
    // the whole workspace may hold the lock of this one.
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .and_then(Path::parent)
        .context("a test outside a target folder")?;
    let target = target.join("guests");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--target", TARGET, "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        // Flags meant for the machine's own target do not fit the guests.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .context("running cargo for a guest")?;
    ensure!(
        output.status.success(),
        "{folder} does not build (`rustup target add {TARGET}` may be missing):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join(TARGET).join("release"))
}
