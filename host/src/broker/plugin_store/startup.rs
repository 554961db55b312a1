//! Plugins at the start of a broker: what the catalog has is loaded, again and again where that fails for no fault of the plugin, bundled
//! plugins that it lacks are recorded, and what earlier brokers left of others is removed.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::store::{PluginStore, broken, span_of};
use crate::broker::error::{ChangeError, Refusal as _, RefusalKind};
use crate::domain::{Digest, PluginInfo};
use crate::plugin::bundled::BundledPlugin;
use crate::telemetry::conditions::Condition;
use crate::telemetry::error_line::with_causes;

/// Until it is tried again to load what could not be loaded, at first and at most: the time doubles.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Why a plugin that the catalog has is not loaded.
struct NotLoaded {
    why: String,
    /// It says nothing of the plugin.
    is_passing: bool,
}

impl NotLoaded {
    fn new(why: impl ToString, is_passing: bool) -> Self {
        let why = why.to_string();
        Self { why, is_passing }
    }

    fn told(&self) -> String {
        match self.is_passing {
            true => format!("{}; the broker tries again", self.why),
            false => self.why.clone(),
        }
    }
}

impl PluginStore {
    /// Loads what the catalog has, and records bundled plugins that it has not. Then removes what earlier brokers left of others.
    ///
    /// # Errors
    ///
    /// The bundled plugin that is refused, and why. One that cannot be kept or compiled now is a condition, and so is one of the catalog
    /// that cannot be loaded, where [`load_awaited`](Self::load_awaited) goes on.
    pub(crate) async fn load_all(
        &self,
        bundled: &[BundledPlugin],
    ) -> Result<(), (&'static str, ChangeError)> {
        for plugin in bundled {
            let bytes = Bytes::from_static(plugin.bytes);
            match self.add(plugin.name, bytes, None).await {
                Ok(_) => {}
                // A disk without room is to be drained, which takes a broker, and a compiler that gets too little memory or time says
                // nothing about events. Who uses an older version has that one's bytes.
                Err(error) if error.is_retryable() || error.kind() == RefusalKind::Invalid => {
                    tracing::error!(plugin = %plugin.name, %error, "a bundled plugin is not there as this release has it; the next start tries again");
                    let why = format!(
                        "not there as this release has it, which the next start tries again: {error}"
                    );
                    let condition = Condition::PluginBroken(plugin.name.into());
                    self.spawner.conditions().raise(condition, why);
                }
                Err(error) => return Err((plugin.name, error)),
            }
        }
        for plugin in self.all() {
            self.account_for(&plugin);
            if let Err(failed) = self.try_load(&plugin).await {
                tracing::error!(plugin = %plugin.name, version = plugin.version, error = failed.told(), "a plugin does not load; subscriptions that use it get nothing new");
                self.loaded.await_it(plugin.digest, failed.is_passing);
                let condition = broken(&plugin.name, plugin.version);
                let why = failed.told();
                self.spawner.conditions().raise(condition, why);
            }
        }
        self.sweep().await;
        Ok(())
    }

    /// Tries to load what could not be loaded when it said nothing of the plugin, until all is loaded, deleted, or found to be at fault,
    /// or the broker stops.
    pub(crate) async fn load_awaited(self: Arc<Self>, shutdown: CancellationToken) {
        let mut pause = AGAIN_FIRST;
        loop {
            let waiting = self.all().into_iter();
            let waiting: Vec<PluginInfo> = waiting
                .filter(|plugin| self.loaded.is_awaited(&plugin.digest))
                .collect();
            if waiting.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (2 * pause).min(AGAIN_MAX);
            for plugin in waiting {
                self.load_again(&plugin).await;
            }
        }
    }

    async fn load_again(&self, plugin: &PluginInfo) {
        let condition = broken(&plugin.name, plugin.version);
        // It may be uploaded again, or deleted, meanwhile.
        let claim = self.uploads.claim(plugin.digest).await;
        let conditions = self.spawner.conditions();
        match self.try_load(plugin).await {
            Ok(()) => {
                tracing::info!(plugin = %plugin.name, version = plugin.version, "a plugin that did not load at the start is loaded");
                conditions.clear(&condition);
            }
            Err(failed) => {
                self.loaded.await_it(plugin.digest, failed.is_passing);
                // Who deletes it clears its condition when the catalog lacks it.
                let catalog = self.catalog();
                let mut versions = catalog.plugins.of_name(&plugin.name);
                if versions.any(|one| one.version == plugin.version) {
                    conditions.raise(condition, failed.told());
                }
            }
        }
        drop(claim);
        self.forget_unused(&[plugin.digest]).await;
    }

    async fn try_load(&self, plugin: &PluginInfo) -> Result<(), NotLoaded> {
        let loaded = self.load(plugin).instrument(span_of(&plugin.name));
        let loaded = loaded.await;
        self.call_by_name(&self.catalog(), &plugin.digest);
        loaded
    }

    async fn load(&self, plugin: &PluginInfo) -> Result<(), NotLoaded> {
        // With another version of the same bytes, or by who uploaded them again.
        if self.loaded.is_loaded(&plugin.digest) {
            return Ok(());
        }
        let (files, digest) = (self.files.clone(), plugin.digest);
        let read = self.blocking(move || files.read(&digest)).await;
        let read = read.map_err(|error| NotLoaded::new(error, true))?;
        let bytes = read.map_err(|error| NotLoaded::new(&error, !is_gone(&error)))?;
        let loaded = self.loaded.load(&plugin.name, bytes).await;
        loaded
            .map(drop)
            .map_err(|error| NotLoaded::new(with_causes(&error), error.is_passing()))
    }

    // What a crash left of plugins that the catalog does not have. After a loss nobody knows what it should have, and one that
    // knows no upload may be that of a store which is new here, in place of one that knows them: files of plugins stay then,
    // since they may be all there is of one.
    async fn sweep(&self) {
        let (kept, may_lack) = {
            let catalog = self.catalog();
            let kept: HashSet<Digest> = catalog.plugins.versions().map(|one| one.digest).collect();
            let may_lack = catalog.may_lack_changes() || !catalog.plugins.knows_uploads();
            (kept, may_lack)
        };
        let (files, plugins) = (self.files.clone(), self.loaded.clone());
        let swept = self.blocking(move || {
            plugins.keep_only(&kept);
            match files.keep_only(&kept, may_lack) {
                Ok((0, 0)) => {}
                Ok((removed, stay)) => {
                    tracing::info!(removed, stay, "files of plugins that do not exist; those that stay may be of plugins that a loss took, or of another store");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot look for files of plugins that do not exist");
                }
            }
        });
        let _ = swept.await;
    }
}

// Whether reading a plugin's file again will say the same.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    )
}
