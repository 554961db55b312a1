//! The guests under `tests/guests`: built once per test run, for the target that plugins are built for, into a
//! folder beside the tests' own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, anyhow, ensure};

/// Target of all guests.
const TARGET: &str = "wasm32-wasip2";

static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The bytes of the guest that `tests/guests` builds as `<name>.wasm`.
///
/// # Errors
/// The guests do not build, or there is none of that name.
pub async fn guest(name: &'static str) -> anyhow::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || {
        let folder = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
        let folder = folder.as_ref().map_err(|text| anyhow!("{text}"))?;
        let path = folder.join(format!("{name}.wasm"));
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    })
    .await?
}

fn build() -> anyhow::Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/Cargo.toml");
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
        .context("running cargo for the guests")?;
    ensure!(
        output.status.success(),
        "the guests do not build (`rustup target add {TARGET}` may be missing):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join(TARGET).join("release"))
}
