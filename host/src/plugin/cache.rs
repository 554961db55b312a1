//! Compiled plugins on disk, so that a restart does not compile again. An artifact is native code that will run
//! in this process, so only one that this broker wrote itself is ever loaded. Nothing here knows what a plugin does.

use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::domain::Digest;

const KEY_FILE: &str = "cache.key";
const SEAL_BYTES: usize = 32;

/// The folder of compiled plugins of one engine.
pub(super) struct ArtifactCache {
    dir: PathBuf,
    // Never leaves the folder; an artifact sealed with another key came from elsewhere.
    key: [u8; 32],
    // Changes with the wasmtime version, the settings of the engine and the CPU's features.
    compatibility: u64,
}

impl ArtifactCache {
    /// Opens or creates the folder.
    ///
    /// # Errors
    ///
    /// It cannot be made or read, or somebody beside its owner can write to it.
    pub(super) fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let mode = fs::metadata(dir)?.permissions().mode();
        if mode & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "others can write to {} (mode {:o}), and what is in it runs as part of the broker; \
                     run `chmod go-w` on it",
                    dir.display(),
                    mode & 0o777
                ),
            ));
        }
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            key: key(dir)?,
            compatibility: hasher.finish(),
        })
    }

    /// The compiled form of `digest`, if a sound one is here. A damaged or foreign one is removed.
    pub(super) fn get(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let sealed = fs::read(&path).ok()?;
        let component = self.unseal(digest, &sealed).and_then(|artifact| {
            // SAFETY: `deserialize` runs what it is given as native code, so its bytes must come from
            // `Component::serialize` of a compatible engine, unchanged. They do: the seal is a keyed hash over
            // digest, compatibility and bytes, made in `put` right after `serialize`, with a random key that
            // lies in this folder; the folder is writable by the broker's own user alone (checked in `open`), who
            // could as well replace the broker's binary. A torn write, a flipped bit, an artifact of another
            // machine or version, or one under another plugin's name fails the seal and is compiled anew. The
            // bytes that were checked are the bytes that are loaded, from memory, not from the file again.
            unsafe { Component::deserialize(engine, artifact) }
                .map_err(|error| format!("{error:#}"))
        });
        match component {
            Ok(component) => Some(component),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "compiled plugin is not usable; compiling it again");
                fs::remove_file(&path).ok();
                None
            }
        }
    }

    /// Keeps the compiled form of `digest`. A failure costs the next start a compilation and is only logged.
    pub(super) fn put(&self, digest: &Digest, component: &Component) {
        let written = component
            .serialize()
            .map_err(io::Error::other)
            .and_then(|artifact| self.write(digest, &artifact));
        if let Err(error) = written {
            tracing::warn!(%error, %digest, "cannot keep the compiled plugin; the next start compiles it again");
        }
    }

    fn write(&self, digest: &Digest, artifact: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(&self.seal(digest, artifact))?;
        file.write_all(artifact)?;
        file.persist(self.path(digest))
            .map_err(|error| error.error)?;
        Ok(())
    }

    fn unseal<'a>(&self, digest: &Digest, sealed: &'a [u8]) -> Result<&'a [u8], String> {
        let (seal, artifact) = sealed
            .split_at_checked(SEAL_BYTES)
            .ok_or("it is shorter than its seal")?;
        if seal == self.seal(digest, artifact) {
            Ok(artifact)
        } else {
            Err("its seal does not fit: damaged, or not written by this broker".into())
        }
    }

    // HMAC-SHA-256 with a key of half a block.
    fn seal(&self, digest: &Digest, artifact: &[u8]) -> [u8; SEAL_BYTES] {
        let padded = |pad: u8| {
            let mut block = [pad; 64];
            block
                .iter_mut()
                .zip(self.key)
                .for_each(|(byte, key)| *byte ^= key);
            Sha256::new_with_prefix(block)
        };
        let inner = padded(0x36)
            .chain_update(digest.0)
            .chain_update(self.compatibility.to_be_bytes())
            .chain_update(artifact)
            .finalize();
        padded(0x5c).chain_update(inner).finalize().into()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let digest = digest.to_string();
        let hex = digest.trim_start_matches("sha256:");
        self.dir
            .join(format!("{hex}-{:016x}.cwasm", self.compatibility))
    }
}

fn key(dir: &Path) -> io::Result<[u8; 32]> {
    let path = dir.join(KEY_FILE);
    if let Ok(Ok(key)) = fs::read(&path).map(<[u8; 32]>::try_from) {
        return Ok(key);
    }
    let key: [u8; 32] = rand::random();
    // Missing or damaged: a new key makes every old artifact foreign, which is safe.
    fs::remove_file(&path).ok();
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?
        .write_all(&key)?;
    Ok(key)
}
