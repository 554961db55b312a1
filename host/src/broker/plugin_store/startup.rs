//! Plugins at the start of a broker: what the catalog has is loaded, bundled plugins that it lacks are recorded, and what earlier
//! brokers left of others is removed.

use std::collections::HashSet;

use bytes::Bytes;
use tracing::Instrument as _;

use super::store::{PluginStore, broken, span_of};
use crate::broker::error::{ChangeError, Refusal as _, RefusalKind};
use crate::domain::{Digest, PluginInfo};
use crate::plugin::bundled::BundledPlugin;
use crate::telemetry::conditions::Condition;
use crate::telemetry::error_line::with_causes;

impl PluginStore {
    /// Loads what the catalog has, and records bundled plugins that it has not. Then removes what earlier brokers left of others.
    ///
    /// # Errors
    ///
    /// The bundled plugin that is refused, and why. One that cannot be kept or compiled now is a condition.
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
            let loaded = self.load(&plugin).instrument(span_of(&plugin.name));
            let loaded = loaded.await;
            self.call_by_name(&self.catalog(), &plugin.digest);
            if let Err(error) = loaded {
                tracing::error!(plugin = %plugin.name, version = plugin.version, error, "a plugin does not load; subscriptions that use it are paused");
                let condition = broken(&plugin.name, plugin.version);
                self.spawner.conditions().raise(condition, error);
            }
        }
        self.sweep().await;
        Ok(())
    }

    async fn load(&self, plugin: &PluginInfo) -> Result<(), String> {
        let (files, digest) = (self.files.clone(), plugin.digest);
        let read = self.blocking(move || files.read(&digest)).await;
        let read = read.map_err(|error| error.to_string())?;
        let bytes = read.map_err(|error| error.to_string())?;
        let loaded = self.loaded.load(&plugin.name, bytes).await;
        loaded.map(drop).map_err(|error| with_causes(&error))
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
