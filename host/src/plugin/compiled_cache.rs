//! Compiled plugins on disk, so that a restart does not compile again. An artifact is native code that will run
//! in this process, so only one that this broker wrote itself is ever loaded. Nothing here knows what a plugin does.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use ring::hmac;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::while_allocating;
use crate::domain::Digest;
use crate::runtime::Random;

const KEY_FILE: &str = "cache.key";
const SEAL_BYTES: usize = 32;
/// What is still being written has this before some letters and digits, and the other one behind them.
const ASIDE_PREFIX: &str = "artifact-";
const ASIDE_SUFFIX: &str = ".new";

/// The folder of compiled plugins of one engine.
pub(super) struct ArtifactCache {
    dir: PathBuf,
    // Never leaves the folder; an artifact sealed with another key came from elsewhere.
    key: hmac::Key,
    // Changes with the wasmtime version, the settings of the engine, the CPU's features, and what is added to components.
    compatibility: u64,
}

impl ArtifactCache {
    /// Opens or creates the folder.
    ///
    /// # Errors
    ///
    /// It cannot be made or read, or somebody beside its owner can write to it.
    pub(super) fn open(dir: &Path, engine: &Engine, random: &Random) -> io::Result<Self> {
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
        while_allocating::VERSION.hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key(dir, random)?),
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
            tracing::warn!(%error, "cannot keep the compiled plugin; the next start compiles it again");
        }
    }

    /// Whether a compiled form of `digest` is here, sound or not.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Removes the compiled forms of `digest`, also those of other engines.
    pub(super) fn remove(&self, digest: &Digest) {
        self.remove_if(|name| digest_of(name) == Some(*digest));
    }

    /// Removes the compiled forms of all but `kept`, and what was being written when a broker ended. Names that are not given
    /// here are others'. Nobody else may be writing.
    pub(super) fn keep_only(&self, kept: &HashSet<Digest>) {
        self.remove_if(|name| {
            is_aside(name) || digest_of(name).is_some_and(|digest| !kept.contains(&digest))
        });
    }

    // A file that stays costs space and nothing else.
    fn remove_if(&self, goes: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file
                && entry.file_name().to_str().is_some_and(&goes)
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "a compiled plugin that nobody needs cannot be removed");
            }
        }
    }

    fn write(&self, digest: &Digest, artifact: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(ASIDE_PREFIX)
            .suffix(ASIDE_SUFFIX)
            .tempfile_in(&self.dir)?;
        file.write_all(self.seal(digest, artifact).as_ref())?;
        file.write_all(artifact)?;
        file.persist(self.path(digest))
            .map_err(|error| error.error)?;
        Ok(())
    }

    fn unseal<'a>(&self, digest: &Digest, sealed: &'a [u8]) -> Result<&'a [u8], String> {
        let (seal, artifact) = sealed
            .split_at_checked(SEAL_BYTES)
            .ok_or("it is shorter than its seal")?;
        if seal == self.seal(digest, artifact).as_ref() {
            Ok(artifact)
        } else {
            Err("its seal does not fit: damaged, or not written by this broker".into())
        }
    }

    // Of `SEAL_BYTES`.
    fn seal(&self, digest: &Digest, artifact: &[u8]) -> hmac::Tag {
        let mut seal = hmac::Context::with_key(&self.key);
        seal.update(&digest.0);
        seal.update(&self.compatibility.to_be_bytes());
        seal.update(artifact);
        seal.sign()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let digest = digest.to_string();
        let hex = digest.trim_start_matches("sha256:");
        self.dir
            .join(format!("{hex}-{:016x}.cwasm", self.compatibility))
    }
}

// Whose compiled form a file is, if it is one.
fn digest_of(name: &str) -> Option<Digest> {
    let (digest, compatibility) = name.strip_suffix(".cwasm")?.split_once('-')?;
    let is_ours = |text: &str, digits| {
        text.len() == digits
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !is_ours(digest, 64) || !is_ours(compatibility, 16) {
        return None;
    }
    format!("sha256:{digest}").parse().ok()
}

fn is_aside(name: &str) -> bool {
    let middle = name
        .strip_prefix(ASIDE_PREFIX)
        .and_then(|rest| rest.strip_suffix(ASIDE_SUFFIX));
    middle.is_some_and(|middle| {
        middle.len() == 6 && middle.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

fn key(dir: &Path, random: &Random) -> io::Result<[u8; 32]> {
    let path = dir.join(KEY_FILE);
    if let Ok(Ok(key)) = fs::read(&path).map(<[u8; 32]>::try_from) {
        return Ok(key);
    }
    let key: [u8; 32] = random.bytes();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_given_here_are_taken_for_ours() {
        let hex = "0123456789abcdef".repeat(4);
        let check = |name: &str, digest: bool, aside: bool| {
            assert_eq!(digest_of(name).is_some(), digest, "{name}");
            assert_eq!(is_aside(name), aside, "{name}");
        };
        check(&format!("{hex}-0123456789abcdef.cwasm"), true, false);
        check(&format!("{hex}-0123456789abcdef.cwasm.bak"), false, false);
        check(&format!("{hex}.cwasm"), false, false);
        check(&format!("{hex}-0123456789ABCDEF.cwasm"), false, false);
        check("artifact-a1B2c3.new", false, true);
        check("artifact-.new", false, false);
        check("my-artifact-a1B2c3.new", false, false);
        check(KEY_FILE, false, false);
    }

    // What was sealed once is loaded by later versions.
    #[test]
    fn a_seal_stays_what_it_was() {
        let key: [u8; 32] = std::array::from_fn(|at| at as u8);
        let cache = ArtifactCache {
            dir: PathBuf::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            compatibility: 5,
        };
        let seal = cache.seal(&Digest([7; 32]), b"native code");
        assert_eq!(seal.as_ref().len(), SEAL_BYTES);
        let hex: String = seal
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "ed29323a033dd6c347164e747f1df810e12c7f2c3ebfd983bd6e257ac433a790"
        );
        let sealed = [seal.as_ref(), b"native code"].concat();
        assert_eq!(
            cache.unseal(&Digest([7; 32]), &sealed),
            Ok(&b"native code"[..])
        );
        assert!(cache.unseal(&Digest([8; 32]), &sealed).is_err());
    }

    #[test]
    fn what_is_written_aside_has_a_name_of_ours() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = ArtifactCache::open(dir.path(), &Engine::default(), &Random::of_system())
            .expect("opens");
        let digest = Digest([7; 32]);
        cache.write(&digest, b"native code").expect("written");
        assert!(cache.has(&digest));
        for name in ["artifact-a1B2c3.new", "foreign", "artifact-notes.new.bak"] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        cache.keep_only(&HashSet::from([digest]));
        assert!(cache.has(&digest));
        cache.keep_only(&HashSet::new());
        assert!(!cache.has(&digest));
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["artifact-notes.new.bak", KEY_FILE, "foreign"]);
        cache.write(&digest, b"native code").expect("written");
        cache.remove(&digest);
        assert!(!cache.has(&digest));
    }
}
