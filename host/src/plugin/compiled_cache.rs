//! Compiled plugins on disk, so that a restart does not compile again. An artifact is native code that will run in this process, so
//! only one that this broker had made itself is ever loaded: its file is read once, and what runs are the bytes that were checked,
//! whatever becomes of the file. Nothing here knows what a plugin does.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{fs, io};

use ring::hmac;
use tempfile::TempPath;

use super::engine::{self, Component, Engine};
use super::while_allocating;
use crate::disk::{read_up_to, read_whole};
use crate::domain::Digest;
use crate::runtime::Random;

const KEY_FILE: &str = "cache.key";
const KEY_BYTES: usize = 32;
/// Behind the artifact.
const SEAL_BYTES: usize = 32;
/// How the file is laid out. Another number makes other names, so that nothing is taken for what it is not.
const LAYOUT: u8 = 2;
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
        (
            engine::compatibility(engine),
            LAYOUT,
            while_allocating::VERSION,
        )
            .hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key(dir, random)?),
            compatibility: hasher.finish(),
        })
    }

    /// The compiled form of `digest`, if a sound one is here that has at most so many bytes. A damaged or foreign one is removed.
    pub(super) fn get(
        &self,
        engine: &Engine,
        digest: &Digest,
        bytes_max: u64,
    ) -> Option<Component> {
        let path = self.path(digest);
        let file_max = bytes_max.saturating_add(SEAL_BYTES as u64);
        let component = match read_whole(&path, file_max) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(format!("it cannot be read: {error}")),
            Ok(bytes) => self
                .checked(digest, &bytes)
                .and_then(|code| code.load(engine)),
        };
        match component {
            Ok(component) => Some(component),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "compiled plugin is not usable; compiling it again");
                fs::remove_file(&path).ok();
                None
            }
        }
    }

    /// A file for what is being compiled. It is gone when it is dropped before it is kept.
    ///
    /// # Errors
    ///
    /// There is none to be had.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        let file = tempfile::Builder::new()
            .prefix(ASIDE_PREFIX)
            .suffix(ASIDE_SUFFIX)
            .tempfile_in(&self.dir)?;
        let (file, path) = file.into_parts();
        Ok(Staged {
            file,
            path: Some(path),
        })
    }

    /// Makes what is staged, which is `code`, the compiled form of `digest`. A failure costs the next start a compilation and is only
    /// logged.
    pub(super) fn keep(&self, digest: &Digest, staged: Staged, code: &[u8]) {
        let Some(path) = staged.path else {
            return;
        };
        let seal = self.seal(digest, code);
        let mut file = &staged.file;
        let kept = file
            .seek(SeekFrom::End(0))
            .and_then(|_| file.write_all(seal.as_ref()))
            // Not synced: a file that a power cut leaves torn has no sound seal. Nor has one that is not what was sealed.
            .and_then(|()| path.persist(self.path(digest)).map_err(|error| error.error));
        if let Err(error) = kept {
            tracing::warn!(%error, "cannot keep the compiled plugin; the next start compiles it again");
        }
    }

    /// Removes the compiled forms of `digest`, also those of other engines.
    pub(super) fn remove(&self, digest: &Digest) {
        self.remove_if(|name| digest_of(name) == Some(*digest));
    }

    /// Removes the compiled forms of all but `kept`, those of other engines, and what was being written when a broker ended. Names
    /// that are not given here are others'. Nobody else may be writing.
    pub(super) fn keep_only(&self, kept: &HashSet<Digest>) {
        self.remove_if(|name| {
            let is_needed = |digest: Digest| kept.contains(&digest) && name == self.name(&digest);
            is_aside(name) || digest_of(name).is_some_and(|digest| !is_needed(digest))
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

    // The code in the bytes of a file, if the seal behind it fits.
    fn checked<'a>(&self, digest: &Digest, file: &'a [u8]) -> Result<Code<'a>, String> {
        let end = file
            .len()
            .checked_sub(SEAL_BYTES)
            .ok_or("it is shorter than its seal")?;
        let (code, seal) = file.split_at(end);
        match self.seal(digest, code).as_ref() == seal {
            true => Ok(Code(code)),
            false => Err("its seal does not fit: damaged, or not written by this broker".into()),
        }
    }

    fn seal(&self, digest: &Digest, code: &[u8]) -> hmac::Tag {
        let mut seal = hmac::Context::with_key(&self.key);
        seal.update(&digest.0);
        seal.update(&self.compatibility.to_be_bytes());
        seal.update(code);
        seal.sign()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(self.name(digest))
    }

    fn name(&self, digest: &Digest) -> String {
        let digest = digest.to_string();
        let hex = digest.trim_start_matches("sha256:");
        format!("{hex}-{:016x}.cwasm", self.compatibility)
    }
}

/// Where the code of a component goes while it is made.
pub(super) struct Staged {
    file: fs::File,
    // None in memory: it is not kept.
    path: Option<TempPath>,
}

impl Staged {
    /// In memory, where there is no room on disk.
    ///
    /// # Errors
    ///
    /// There is none to be had.
    pub(super) fn in_memory() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let file = rustix::fs::memfd_create("compiled-plugin", rustix::fs::MemfdFlags::CLOEXEC)?;
        #[cfg(not(target_os = "linux"))]
        let file = tempfile::tempfile()?;
        Ok(Self {
            file: file.into(),
            path: None,
        })
    }

    /// For the process that makes it.
    pub(super) fn output(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }

    /// From this process.
    pub(super) fn write(&self, code: &[u8]) -> io::Result<()> {
        (&self.file).write_all(code)
    }

    /// What was made, which has at most so many bytes.
    ///
    /// # Errors
    ///
    /// It cannot be read, or has more.
    pub(super) fn read(&self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        read_up_to(file, bytes_max)
    }
}

/// The component that `code` is, which a process of this very program has just made for this one.
pub(super) fn load_made(engine: &Engine, code: &[u8]) -> Result<Component, String> {
    Code(code).load(engine)
}

/// Native code that this broker had made.
#[derive(Debug)]
struct Code<'a>(&'a [u8]);

impl Code<'_> {
    fn load(&self, engine: &Engine) -> Result<Component, String> {
        // SAFETY: `deserialize` runs what it is given as native code, so that must come from `Engine::precompile_component` of a
        // compatible engine, unchanged. It does: either a process of this very program just made it, for nobody else, or its seal was
        // checked: a keyed hash over digest, compatibility and bytes, with a random key that lies in the folder. A torn write, a flipped
        // bit, an artifact of another machine or version, or one under another plugin's name fails that and is compiled anew. It copies
        // the bytes into memory of its own, so no file has a say any more. The folder is writable by the broker's own user alone
        // (checked in `open`), who could as well replace the broker's binary.
        unsafe { Component::deserialize(engine, self.0) }.map_err(|error| format!("{error:#}"))
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

fn key(dir: &Path, random: &Random) -> io::Result<[u8; KEY_BYTES]> {
    let path = dir.join(KEY_FILE);
    if let Ok(Ok(key)) = read_whole(&path, KEY_BYTES as u64).map(<[u8; KEY_BYTES]>::try_from) {
        return Ok(key);
    }
    let key: [u8; KEY_BYTES] = random.bytes();
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
        let digest = |byte: u8| Digest([byte; 32]);
        let seal = cache.seal(&digest(7), b"native code");
        let hex: String = seal
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "ed29323a033dd6c347164e747f1df810e12c7f2c3ebfd983bd6e257ac433a790"
        );
        let mut file = [b"native code", seal.as_ref()].concat();
        let checked = |digest: Digest, file: &[u8]| cache.checked(&digest, file).is_ok();
        assert!(checked(digest(7), &file));
        assert!(!checked(digest(8), &file));
        assert!(!checked(digest(7), &file[..SEAL_BYTES - 1]));
        assert!(!checked(digest(7), &[]));
        file.push(b'x');
        assert!(!checked(digest(7), &file));
    }

    // A disk that says something else afterwards is not asked.
    #[test]
    fn what_was_loaded_is_the_files_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::default();
        let cache = ArtifactCache::open(dir.path(), &engine, &Random::of_system()).expect("opens");
        let digest = Digest([7; 32]);
        // The least that a component can be.
        let code = engine
            .precompile_component(b"\0asm\x0d\0\x01\0")
            .expect("compiled");
        let staged = cache.stage().expect("a file");
        staged.write(&code).expect("written");
        assert_eq!(staged.read(code.len() as u64).expect("readable"), code);
        assert!(staged.read(code.len() as u64 - 1).is_err(), "too much");
        cache.keep(&digest, staged, &code);
        let bytes_max = code.len() as u64;
        let get = |bytes_max| cache.get(&engine, &digest, bytes_max);
        let loaded = get(bytes_max).expect("sound");
        fs::File::options()
            .write(true)
            .open(cache.path(&digest))
            .and_then(|file| file.set_len(0))
            .expect("cut");
        // Every byte of it is read once more.
        let again = loaded.serialize().expect("it is all there");
        assert_eq!(again.len(), code.len());
        assert!(get(bytes_max).is_none(), "cut");
        assert!(!cache.path(&digest).exists(), "compiled again");

        let staged = cache.stage().expect("a file");
        staged.write(&code).expect("written");
        cache.keep(&digest, staged, &code);
        assert!(get(bytes_max - 1).is_none(), "more than it may have");
    }

    #[test]
    fn what_is_written_aside_has_a_name_of_ours() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = ArtifactCache::open(dir.path(), &Engine::default(), &Random::of_system())
            .expect("opens");
        let digest = Digest([7; 32]);
        let has = || cache.path(&digest).exists();
        let keep = || {
            let staged = cache.stage().expect("a file");
            staged.write(b"native code").expect("written");
            cache.keep(&digest, staged, b"native code");
        };
        let names = || {
            let entries = fs::read_dir(dir.path()).expect("readable");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            names.sort();
            names
        };
        let staged = cache.stage().expect("a file");
        assert!(names().iter().any(|name| is_aside(&name.to_string_lossy())));
        drop(staged);
        assert_eq!(names(), [KEY_FILE]);
        keep();
        assert!(has());
        let hex = "07".repeat(32);
        let of_another_engine = format!("{hex}-0000000000000000.cwasm");
        for name in [
            "artifact-a1B2c3.new",
            "foreign",
            "artifact-notes.new.bak",
            &of_another_engine,
        ] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        cache.keep_only(&HashSet::from([digest]));
        assert!(has());
        assert!(!dir.path().join(of_another_engine).exists());
        cache.keep_only(&HashSet::new());
        assert!(!has());
        assert_eq!(names(), ["artifact-notes.new.bak", KEY_FILE, "foreign"]);
        keep();
        cache.remove(&digest);
        assert!(!has());
    }
}
