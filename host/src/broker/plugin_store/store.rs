//! The plugins that a broker keeps: their bytes by digest and what the catalog says of them, brought together. A plugin is on disk
//! before the catalog has it, and what is on disk goes after the catalog has let it go. Which version an upload gets, and whether
//! it is one too many, the committer decides last. Who may upload and delete is asked before.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::Bytes;
use tracing::{Instrument as _, Span, error_span};

use super::files::PluginFiles;
use super::uploads::{UploadPlace, Uploads};
use crate::auth::{Policy, authorize};
use crate::broker::commit::inbox::Inbox;
use crate::broker::commit::request::{ChangeRequest, Control, Deletion, Reply, Upload};
use crate::broker::error::{ChangeError, NotFound, Unavailable};
use crate::domain::{Digest, Owner, PluginInfo, PluginWorld, Principal};
use crate::locks;
use crate::plugin::{LoadError, Plugins};
use crate::runtime::clock::Clock;
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;
use crate::state::quotas::PluginQuotas;
use crate::telemetry::conditions::Condition;
use crate::telemetry::error_line::with_causes;

/// The plugins of a broker.
pub(crate) struct PluginStore {
    pub(crate) files: PluginFiles,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) quotas: PluginQuotas,
    /// Those that are loaded.
    pub(crate) loaded: Arc<Plugins>,
    pub(crate) catalog: Arc<RwLock<Catalog>>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Clock,
    pub(crate) spawner: Spawner,
}

impl PluginStore {
    /// Waits until `who` may send a component: one at a time, and a few of all principals together. Cancel-safe.
    pub(crate) async fn place(&self, who: &Principal) -> Result<UploadPlace, Unavailable> {
        let place = self.uploads.place(who);
        place.await.ok_or(Unavailable::ShuttingDown)
    }

    /// Whether there may be one more version of `name`, of so many bytes, that `by` uploads. The committer looks again.
    pub(crate) fn admit(
        &self,
        name: &str,
        bytes: u64,
        by: Option<&Principal>,
    ) -> Result<(), ChangeError> {
        let catalog = self.catalog();
        let admitted = catalog
            .plugins
            .admit(name, bytes, by, self.quotas, &self.policy);
        Ok(admitted?)
    }

    /// Checks, compiles and records a plugin under `name`, as its next version; the same bytes again are the version they have.
    /// `uploader` has kept a place since the bytes came; without one it comes with the broker.
    pub(crate) async fn add(
        &self,
        name: &str,
        bytes: Bytes,
        uploader: Option<(&Principal, UploadPlace)>,
    ) -> Result<PluginInfo, ChangeError> {
        let added = self.add_named(name, bytes, uploader);
        added.instrument(span_of(name)).await
    }

    async fn add_named(
        &self,
        name: &str,
        bytes: Bytes,
        uploader: Option<(&Principal, UploadPlace)>,
    ) -> Result<PluginInfo, ChangeError> {
        let (who, place) = uploader.unzip();
        let owner = who.map(own_name).transpose()?;
        let digest = self.loaded.digest(bytes.clone()).await;
        let digest = digest.map_err(|error| Unavailable::Internal(error.to_string()))?;
        let plugin = PluginInfo {
            name: name.to_owned(),
            version: 0,
            digest,
            world: PluginWorld::Filter,
            bytes: bytes.len() as u64,
            uploaded: self.clock.wall(),
            bundled: who.is_none(),
            owner,
            uploaded_by: who.cloned(),
        };
        self.check_room(&plugin)?;
        let claim = self.uploads.claim(digest).await;
        let added = self.keep_and_record(plugin, bytes, place).await;
        drop(claim);
        if added.as_ref().is_err_and(is_decided) {
            self.forget_unused(&[digest]).await;
        }
        added
    }

    // Before the work is done.
    fn check_room(&self, plugin: &PluginInfo) -> Result<(), ChangeError> {
        let is_known = {
            let catalog = self.catalog();
            let mut versions = catalog.plugins.of_name(&plugin.name);
            versions.any(|other| other.digest == plugin.digest)
        };
        if plugin.bundled || is_known {
            return Ok(());
        }
        self.admit(&plugin.name, plugin.bytes, plugin.uploaded_by.as_ref())
    }

    async fn keep_and_record(
        &self,
        mut plugin: PluginInfo,
        bytes: Bytes,
        place: Option<UploadPlace>,
    ) -> Result<PluginInfo, ChangeError> {
        let digest = plugin.digest;
        let loaded = self
            .loaded
            .load_while_holding(&plugin.name, digest, bytes.clone(), place);
        let loaded = loaded.await.map_err(|error| match error {
            LoadError::Stopped => Unavailable::ShuttingDown.into(),
            error if error.is_passing() => Unavailable::Overloaded(with_causes(&error)).into(),
            error => ChangeError::Invalid(with_causes(&error)),
        })?;
        plugin.world = loaded.world;
        let files = self.files.clone();
        let written = self.blocking(move || files.write(&digest, &bytes)).await?;
        written.map_err(|error| {
            Unavailable::Overloaded(format!("the plugin cannot be kept: {error}"))
        })?;
        let by = plugin.uploaded_by.as_ref();
        if let Some(who) = by {
            // Compiling may have taken minutes.
            authorize::upload_plugin(&self.policy, who, &plugin.name)?;
        }
        let upload = Upload {
            any_name: by.is_none_or(|who| authorize::owns_all_plugins(&self.policy, who)),
            plugin,
        };
        let added = self
            .change(|reply| ChangeRequest::AddPlugin(upload, reply))
            .await?;
        self.account_for(&added);
        self.call_by_name(&self.catalog(), &digest);
        // The same bytes may have other names as well, and all of them load now.
        let conditions = self.spawner.conditions();
        for plugin in self.all() {
            if plugin.digest == digest {
                conditions.clear(&broken(&plugin.name, plugin.version));
            }
        }
        Ok(added)
    }

    /// Gives a name, with all its versions, to another owner.
    pub(crate) async fn give(&self, name: &str, owner: Owner) -> Result<(), ChangeError> {
        self.change(|reply| ChangeRequest::GivePlugin(name.to_owned(), owner, reply))
            .await?;
        self.policy.owners_changed();
        let catalog = self.catalog();
        let versions = catalog.plugins.of_name(name);
        versions.for_each(|version| self.account_for(version));
        Ok(())
    }

    /// Deletes a version, or all versions of a name, and with `free_name` the name with them.
    pub(crate) async fn delete(
        &self,
        name: &str,
        version: Option<u32>,
        free_name: bool,
    ) -> Result<(), ChangeError> {
        let (versions, digests): (Vec<(String, u32)>, Vec<Digest>) = {
            let catalog = self.catalog();
            let wanted = catalog.plugins.of_name(name);
            let wanted = wanted.filter(|one| version.is_none_or(|version| version == one.version));
            wanted
                .map(|one| ((one.name.clone(), one.version), one.digest))
                .unzip()
        };
        if versions.is_empty() && !free_name {
            let wanted = match version {
                Some(version) => format!("{name}@{version}"),
                None => name.to_owned(),
            };
            return Err(NotFound::Plugin(wanted).into());
        }
        let broken = versions
            .iter()
            .map(|(name, version)| broken(name, *version));
        let broken: Vec<Condition> = broken.collect();
        let deletion = Deletion {
            versions,
            free_name: free_name.then(|| name.to_owned()),
        };
        self.change(|reply| ChangeRequest::DeletePlugin(deletion, reply))
            .await?;
        let conditions = self.spawner.conditions();
        broken.iter().for_each(|gone| conditions.clear(gone));
        let forgotten = self.forget_unused(&digests);
        forgotten.instrument(span_of(name)).await;
        self.close_accounts(name, &digests);
        Ok(())
    }

    // Removes what is kept of these bytes, as far as no version has them any more and nobody is uploading them. What runs goes
    // on with what it has.
    pub(super) async fn forget_unused(&self, digests: &[Digest]) {
        let _no_claims = self.uploads.stop_claims().await;
        let unused: Vec<Digest> = {
            let catalog = self.catalog();
            let needed =
                |digest: &Digest| catalog.plugins.have(digest) || self.uploads.is_claimed(digest);
            let digests = digests.iter().copied();
            digests.filter(|digest| !needed(digest)).collect()
        };
        let (files, plugins) = (self.files.clone(), self.loaded.clone());
        let removed = self.blocking(move || {
            for digest in unused {
                plugins.unload(&digest);
                if let Err(error) = files.remove(&digest) {
                    tracing::warn!(%digest, %error, "a plugin's file cannot be removed; the next start tries again");
                }
            }
        });
        let _ = removed.await;
    }

    /// Metrics call a plugin by its name from the start, and by another one once that is gone.
    pub(super) fn call_by_name(&self, catalog: &Catalog, digest: &Digest) {
        if let Some(label) = catalog.label_of(digest) {
            self.loaded.call_it(digest, &label);
        }
    }

    /// What the instances of a plugin hold is its owner's.
    pub(super) fn account_for(&self, plugin: &PluginInfo) {
        let owner = plugin.owner.as_ref();
        self.loaded.belongs(&plugin.name, plugin.digest, owner);
    }

    // What was deleted is on the account of its name no more, unless it was uploaded again meanwhile: the catalog has that before
    // it gets its account, and gets nothing while it is looked at here.
    fn close_accounts(&self, name: &str, deleted: &[Digest]) {
        let catalog = self.catalog();
        for digest in deleted {
            let mut versions = catalog.plugins.of_name(name);
            if !versions.any(|version| version.digest == *digest) {
                self.loaded.belongs_no_more(name, digest);
            }
            self.call_by_name(&catalog, digest);
        }
    }

    /// All versions there are.
    pub(super) fn all(&self) -> Vec<PluginInfo> {
        self.catalog().plugins.versions().cloned().collect()
    }

    pub(super) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        locks::read(&self.catalog)
    }

    /// Runs what may block away from the threads that serve connections, in the span of whoever asks.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let span = Span::current();
        let work = move || span.in_scope(work);
        let done = self.spawner.blocking("plugin files", work).await;
        done.map_err(Unavailable::Internal)
    }

    async fn change<T>(
        &self,
        make: impl FnOnce(Reply<T, ChangeError>) -> ChangeRequest,
    ) -> Result<T, ChangeError> {
        self.inbox.ask(|reply| Control::Change(make(reply))).await
    }
}

/// What says in the log which plugin is worked on.
pub(super) fn span_of(name: &str) -> Span {
    error_span!("plugin", plugin = %name)
}

/// The condition that a version does not load.
pub(super) fn broken(name: &str, version: u32) -> Condition {
    Condition::PluginBroken(format!("{name}@{version}").into())
}

// Whether what an upload came to is known: a group whose write failed may be on disk all the same, and then the plugin is there
// after a restart.
fn is_decided(error: &ChangeError) -> bool {
    !matches!(
        error,
        ChangeError::Unavailable(Unavailable::Store(_) | Unavailable::ShuttingDown)
    )
}

// The owner that uploading makes of somebody.
fn own_name(who: &Principal) -> Result<Owner, ChangeError> {
    Owner::of(who).ok_or_else(|| {
        ChangeError::Invalid(format!(
            "`{who}` has a `*` in its name and would pass for a group; upload with another certificate"
        ))
    })
}
