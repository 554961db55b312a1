//! Contexts: brokers that a user has given names, so that commands need not be told each time where they are and whom to be. They
//! are in two files of the user's configuration folder, for nobody else's eyes: what the user named, which only commands change,
//! and the default one, which a broker with development certificates writes when it starts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::{self, Access, FileSystem, Hold, RealFileSystem, read_whole, replace};
use crate::domain::Name;

/// What the default context is called. No user's own has that name.
pub const DEFAULT_CONTEXT: &str = "development";
/// How often it is looked whether somebody else, who writes for milliseconds, is through; and how long it takes to look again.
const LOCK_TRIES: u32 = 50;
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// What one of the files may have: some thousand brokers.
const FILE_BYTES_MAX: u64 = 1 << 20;
const HEADING: &str = "# Brokers by name, as the command line writes them.\n";
const DEFAULT_HEADING: &str = "# The development broker that started last, as it writes itself.\n";

/// How to reach a broker, and as whom. What is missing is that of the data directory, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "a table: write [context.NAME] on a line of its own, and its keys below, such as `addr = \"HOST:PORT\"`"
)]
pub struct Context {
    /// Data directory of a broker on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Its QUIC listener, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Name in its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Base of its admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Authority that signed its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Certificate to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Private key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// What a user has named, and which of them commands take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contexts {
    /// The one that commands take unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Name>,
    /// All of them.
    #[serde(rename = "context", skip_serializing_if = "BTreeMap::is_empty")]
    pub all: BTreeMap<Name, Context>,
}

/// The folder that a user's contexts are in.
#[derive(Clone, Debug)]
pub struct ContextFolder(PathBuf);

/// Why contexts cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// It is not known where they would be.
    #[error("there is no folder for contexts; set HOME, or XDG_CONFIG_HOME to an absolute path")]
    NoFolder,
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "{} is no list of contexts; repair it, or remove it to begin anew: {reason}",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Somebody else changes them.
    #[error("another command is changing the contexts in {}; try again", .0.display())]
    Busy(PathBuf),
    /// They cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ContextFolder {
    /// That of whoever runs this: `tidegate` in `XDG_CONFIG_HOME`, or in `.config` of the home directory. As is usual, a relative path
    /// does not count.
    ///
    /// # Errors
    ///
    /// Neither is known.
    pub fn of_user() -> Result<Self, ContextError> {
        let absolute = |name: &str| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let base = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))
            .ok_or(ContextError::NoFolder)?;
        Ok(Self(base.join("tidegate")))
    }

    /// What the user has named. Nothing, if there is no such file.
    ///
    /// # Errors
    ///
    /// It cannot be read or understood.
    pub fn contexts(&self) -> Result<Contexts, ContextError> {
        Ok(read(&self.file())?.unwrap_or_default())
    }

    /// The default context, if a broker has written one.
    ///
    /// # Errors
    ///
    /// It cannot be read or understood.
    pub fn default_context(&self) -> Result<Option<Context>, ContextError> {
        read(&self.default_file())
    }

    /// Changes what the user has named. Two at once do not undo each other.
    ///
    /// # Errors
    ///
    /// `change` refuses, or they cannot be read or written. Nothing is changed then.
    pub fn change<T, E: From<ContextError>>(
        &self,
        change: impl FnOnce(&mut Contexts) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = self.file();
        let _lock = self.lock(&path)?;
        let before = self.contexts()?;
        let mut contexts = before.clone();
        let done = change(&mut contexts)?;
        if contexts != before {
            write(&path, HEADING, &contexts)?;
        }
        Ok(done)
    }

    /// Says that the development broker on this data directory is the default one from now on. Of two at once, one is.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn set_default(&self, data_dir: &Path) -> Result<(), ContextError> {
        let path = self.default_file();
        let unwritten = |source| ContextError::Write {
            path: path.clone(),
            source,
        };
        let context = Context {
            data_dir: Some(std::path::absolute(data_dir).map_err(unwritten)?),
            ..Context::default()
        };
        if let Ok(Some(before)) = self.default_context()
            && before == context
        {
            return Ok(());
        }
        let _lock = self.lock(&path)?;
        write(&path, DEFAULT_HEADING, &context)
    }

    /// Removes the default context; whether there was one.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn remove_default(&self) -> Result<bool, ContextError> {
        let path = self.default_file();
        if !self.0.exists() {
            return Ok(false);
        }
        let _lock = self.lock(&path)?;
        match RealFileSystem.remove(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ContextError::Write { path, source }),
        }
    }

    // Whoever writes the file at `path` has the folder to itself meanwhile, which it makes. Others are through soon.
    fn lock(&self, path: &Path) -> Result<Box<dyn Hold>, ContextError> {
        let unwritten = |source| ContextError::Write {
            path: path.to_owned(),
            source,
        };
        disk::create_dir_all(&self.0).map_err(unwritten)?;
        for _ in 0..LOCK_TRIES {
            if let Some(lock) = RealFileSystem.lock(&self.0).map_err(unwritten)? {
                return Ok(lock);
            }
            thread::sleep(LOCK_RETRY);
        }
        Err(ContextError::Busy(self.0.clone()))
    }

    fn file(&self) -> PathBuf {
        self.0.join("contexts.toml")
    }

    fn default_file(&self) -> PathBuf {
        self.0.join("development.toml")
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ContextError> {
    let bytes = match read_whole(path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(ContextError::Read { path, source });
        }
    };
    let malformed = |reason: String| ContextError::Malformed {
        path: path.to_owned(),
        reason: reason.trim_end().to_owned(),
    };
    let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let value = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    Ok(Some(value))
}

fn write(path: &Path, heading: &str, value: &impl Serialize) -> Result<(), ContextError> {
    // Whoever keeps such files elsewhere has a link here, which stays.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let aside = path.with_extension("toml.new");
    let written = toml::to_string(value)
        .map_err(io::Error::other)
        .and_then(|text| {
            replace(&RealFileSystem, &path, &aside, Access::Owner, |file| {
                file.write_at((heading.to_owned() + &text).as_bytes(), 0)
            })
        });
    written
        .map(drop)
        .map_err(|source| ContextError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn add(folder: &ContextFolder, one: &str, addr: &str) -> Result<(), ContextError> {
        folder.change(|contexts| {
            let context = Context {
                addr: Some(addr.to_owned()),
                ..Context::default()
            };
            contexts.all.insert(name(one), context);
            contexts.current = Some(name(one));
            Ok(())
        })
    }

    #[test]
    fn what_was_named_is_found_again_and_is_nobody_elses() {
        let home = tempfile::tempdir().expect("a directory");
        let folder = ContextFolder(home.path().join("tidegate"));
        assert_eq!(folder.contexts().expect("none"), Contexts::default());
        add(&folder, "a.b", "h:1").expect("written");
        add(&folder, "c", "h:2").expect("written");
        let contexts = folder.contexts().expect("read");
        assert_eq!(contexts.all.len(), 2);
        assert_eq!(contexts.current, Some(name("c")));
        let mode = folder
            .file()
            .metadata()
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_refused_change_and_one_beside_another_change_nothing() {
        let home = tempfile::tempdir().expect("a directory");
        let folder = ContextFolder(home.path().to_owned());
        add(&folder, "a", "h:1").expect("written");
        let before = folder.contexts().expect("read");
        let refused: Result<(), ContextError> = folder.change(|contexts| {
            contexts.all.clear();
            let beside = add(&folder, "b", "h:2");
            assert!(matches!(beside, Err(ContextError::Busy(_))), "{beside:?}");
            let beside = folder.set_default(Path::new("/data"));
            assert!(matches!(beside, Err(ContextError::Busy(_))), "{beside:?}");
            Err(ContextError::NoFolder)
        });
        assert!(refused.is_err());
        assert_eq!(folder.contexts().expect("read"), before);
        assert_eq!(folder.default_context().expect("none"), None);
    }

    #[test]
    fn brokers_that_start_together_wait_for_each_other() {
        let home = tempfile::tempdir().expect("a directory");
        let folder = ContextFolder(home.path().to_owned());
        let held = RealFileSystem.lock(home.path()).expect("locked");
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| folder.set_default(Path::new("/data")));
            drop(held.expect("nobody else has it"));
            starting.join().expect("no panic").expect("written");
        });
        assert!(folder.default_context().expect("read").is_some());
    }

    #[test]
    fn what_is_no_list_of_contexts_is_said_and_stays() {
        let home = tempfile::tempdir().expect("a directory");
        let folder = ContextFolder(home.path().to_owned());
        for bad in [
            &b"current = 7"[..],
            b"[context.a]\nadr = 'x'",
            b"\xff",
            b"[context.'a b']",
        ] {
            std::fs::write(folder.file(), bad).expect("written");
            let said = folder.contexts().expect_err("malformed").to_string();
            assert!(said.contains("contexts.toml is no list"), "{said}");
            assert!(add(&folder, "a", "h:1").is_err());
            assert_eq!(std::fs::read(folder.file()).expect("there"), bad);
        }
    }

    #[test]
    fn the_default_context_touches_no_other_and_a_link_stays_a_link() {
        let home = tempfile::tempdir().expect("a directory");
        let folder = ContextFolder(home.path().join("config"));
        let kept = home.path().join("kept.toml");
        std::fs::create_dir(&folder.0).expect("made");
        std::fs::write(&kept, "").expect("written");
        std::os::unix::fs::symlink(&kept, folder.file()).expect("linked");
        add(&folder, DEFAULT_CONTEXT, "h:1").expect("written");
        let of_user = folder.contexts().expect("read");
        assert!(folder.file().is_symlink());
        assert_eq!(folder.default_context().expect("none"), None);
        folder.set_default(Path::new("/data")).expect("written");
        let context = folder.default_context().expect("read").expect("one");
        assert_eq!(context.data_dir.as_deref(), Some(Path::new("/data")));
        assert_eq!(folder.contexts().expect("read"), of_user);
        assert!(folder.remove_default().expect("removed"));
        assert!(!folder.remove_default().expect("gone"));
    }
}
