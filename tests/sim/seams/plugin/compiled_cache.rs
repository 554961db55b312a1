//! Compiled forms of scripted plugins, with the names of `host/src/plugin/compiled_cache.rs`: none is kept.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use super::engine::{Component, Engine};
use crate::domain::Digest;
use crate::locks::lock;
use crate::runtime::Random;

/// An empty folder.
pub(super) struct ArtifactCache;

impl ArtifactCache {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn open(_dir: &Path, _engine: &Engine, _random: &Random) -> io::Result<Self> {
        Ok(Self)
    }

    /// The compiled form of a plugin, which is never there.
    pub(super) fn get(
        &self,
        _engine: &Engine,
        _digest: &Digest,
        _bytes_max: u64,
    ) -> Option<Component> {
        None
    }

    /// A place for what is being compiled.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        Staged::in_memory()
    }

    /// Forgets it.
    pub(super) fn keep(&self, _digest: &Digest, _staged: Staged, _code: &[u8]) {}

    /// Removes what is not there.
    pub(super) fn remove(&self, _digest: &Digest) {}

    /// Keeps what is not there.
    pub(super) fn keep_only(&self, _kept: &HashSet<Digest>) {}
}

/// Where the code of a component goes while it is made.
pub(super) struct Staged(Mutex<Vec<u8>>);

impl Staged {
    /// In memory.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn in_memory() -> io::Result<Self> {
        Ok(Self(Mutex::default()))
    }

    /// From this process.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn write(&self, code: &[u8]) -> io::Result<()> {
        code.clone_into(&mut lock(&self.0));
        Ok(())
    }

    /// What was made.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn read(&self, _bytes_max: u64) -> io::Result<Vec<u8>> {
        Ok(lock(&self.0).clone())
    }
}

/// The component that `code` is.
pub(super) fn load_made(_engine: &Engine, code: &[u8]) -> Result<Component, String> {
    Component::parse(code)
}
