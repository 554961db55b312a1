//! Builds the bundled plugins for `wasm32-wasip2`, so that the binary carries components made of the sources
//! beside it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const PLUGINS: [&str; 2] = ["tidegate-event-pattern", "tidegate-json-reshape"];
const TARGET: &str = "wasm32-wasip2";

fn main() {
    let host = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = host
        .parent()
        .expect("the host is a member of the workspace");
    // Features of dependencies and the release profile are those of the workspace.
    for input in [
        "plugins",
        "sdk/plugin",
        "wit",
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target_dir = out.join("guests");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir)
        // What ends in the binary needs no debug information.
        .args([
            "--config",
            "profile.release.debug=false",
            "--config",
            "profile.release.strip=true",
        ])
        .args(PLUGINS.iter().flat_map(|plugin| ["-p", plugin]))
        // These are meant for the host's build, or name the wrapper of a check of the host's sources.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET");
    let built = cargo.status().is_ok_and(|status| status.success());
    assert!(
        built,
        "the bundled plugins could not be built; is the target there? `rustup target add {TARGET}`"
    );
    for plugin in PLUGINS {
        let file = format!("{}.wasm", plugin.replace('-', "_"));
        let from = target_dir.join(TARGET).join("release").join(&file);
        std::fs::copy(&from, out.join(&file)).expect("the build above made it");
    }
}
