//! Plugins, as the outside sees them: uploading, listing and deleting, and what is kept of their bytes. A plugin is on disk before
//! the catalog has it, and what is on disk goes after the catalog has let it go; what a crash in between leaves behind goes at
//! the next start. Which version an upload gets, and whether it is one too many, the committer decides last.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Broker, StartError};
use crate::auth::{Action, rights};
use crate::broker::commit::request::{ChangeRequest, Deletion, Upload};
use crate::broker::error::BrokerError;
use crate::broker::plugins::uploads::UploadPlace;
use crate::domain::{
    Digest, Name, Owner, PluginBounds, PluginDetails, PluginHoldings, PluginInfo, PluginName,
    PluginUse, PluginWorld, Principal,
};
use crate::plugin::Held;
use crate::plugin::bundled::BundledPlugin;
use crate::state::catalog::{KnownName, split_version};
use crate::telemetry::errors::with_causes;
use crate::telemetry::health::Condition;

/// Plugins that are looked at together, so that nobody waits for the rights to all of them.
const LOOKED_AT: usize = 256;

/// The package of the interface that plugins implement, as in `wit/`.
const WIT_PACKAGE: &str = "tidegate:plugin@0.1.0";

impl Broker {
    // Loads what the catalog has, and records bundled plugins that it has not. Then removes what earlier brokers left of others.
    pub(super) async fn load_plugins(&self, bundled: &[BundledPlugin]) -> Result<(), StartError> {
        for plugin in bundled {
            let bytes = Bytes::from_static(plugin.bytes);
            match self.add_plugin(plugin.name, bytes, None).await {
                Ok(_) => {}
                // A disk without room is to be drained, which takes a broker. Who uses an older version has that one's bytes.
                Err(error) if error.is_retryable() => {
                    tracing::error!(plugin = plugin.name, %error, "a bundled plugin is not there as this release has it; the next start tries again");
                    let why = format!(
                        "not there as this release has it, which the next start tries again: {error}"
                    );
                    let condition = Condition::PluginBroken(plugin.name.into());
                    self.conditions().raise(condition, why);
                }
                Err(error) => {
                    return Err(StartError::Bundled {
                        name: plugin.name,
                        why: error.to_string(),
                    });
                }
            }
        }
        for plugin in self.all_plugins() {
            self.account_for(&plugin);
            let files = self.0.files.clone();
            let read = self.look(move |_| Ok(files.read(&plugin.digest))).await;
            let loaded = match read {
                Ok(Ok(bytes)) => match self.0.parts.plugins.load(&plugin.name, bytes).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(with_causes(&error)),
                },
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = loaded {
                tracing::error!(plugin = %plugin.name, version = plugin.version, error, "a plugin does not load; subscriptions that use it are paused");
                self.conditions()
                    .raise(broken(&plugin.name, plugin.version), error);
            }
        }
        self.sweep_plugins().await;
        Ok(())
    }

    // What a crash left of plugins that the catalog does not have. After a loss nobody knows what it should have, and one that
    // knows no upload may be that of a store which is new here, in place of one that knows them: files of plugins stay then,
    // since they may be all there is of one.
    async fn sweep_plugins(&self) {
        let (kept, may_lack) = {
            let catalog = self.catalog();
            let kept: HashSet<Digest> = catalog.plugins.versions().map(|one| one.digest).collect();
            let may_lack = catalog.may_lack_changes() || !catalog.plugins.knows_uploads();
            (kept, may_lack)
        };
        let (files, plugins) = (self.0.files.clone(), self.0.parts.plugins.clone());
        let swept = self.look(move |_| {
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
            Ok(())
        });
        let _ = swept.await;
    }

    /// Whether `who` may upload a plugin under `name`. Asked before there are any bytes of it.
    ///
    /// # Errors
    ///
    /// No grant allows it, nothing new may have that name, it comes with the broker, it is somebody else's, or there are as
    /// many plugins as may be.
    pub fn check_upload(&self, who: &Principal, name: &Name) -> Result<(), BrokerError> {
        let policy = &self.0.parts.policy;
        policy.check(who, &Action::Upload(name.as_str()))?;
        check_name(name.as_str())?;
        let catalog = self.catalog();
        match catalog.plugins.name(name.as_str()) {
            Some(known) if known.bundled => {
                return Err(BrokerError::Exists {
                    kind: "bundled plugin",
                    name: name.to_string(),
                });
            }
            Some(known) if !rights::owns_plugin(policy, who, known.owner.as_ref()) => {
                return Err(BrokerError::name_taken(name.as_str()));
            }
            Some(_) => {}
            None => name.check_new()?,
        }
        if catalog.plugins.of_name(name.as_str()).next().is_some() {
            // It may be what one of its versions is already.
            return Ok(());
        }
        let quotas = self.0.plugin_quotas;
        let known = &catalog.plugins;
        Ok(known.admit(name.as_str(), 1, Some(who), quotas, policy)?)
    }

    /// Waits until `who` may send a component: one at a time, and a few of all principals together.
    ///
    /// # Errors
    ///
    /// The broker is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, nothing was taken.
    pub async fn upload_place(&self, who: &Principal) -> Result<UploadPlace, BrokerError> {
        let place = self.0.uploads.place(who);
        place.await.ok_or(BrokerError::ShuttingDown)
    }

    /// Checks, compiles and records a plugin under `name`, as its next version. The same bytes again are not
    /// an error: the version they have is answered. A new name belongs to `who` from then on. `place` is kept until it is
    /// compiled.
    ///
    /// # Errors
    ///
    /// As [`check_upload`](Self::check_upload), or the bytes are not a plugin; the message says what is missing or too
    /// much. Nothing of them is kept then.
    pub async fn upload_plugin(
        &self,
        who: &Principal,
        place: UploadPlace,
        name: &Name,
        bytes: Bytes,
    ) -> Result<PluginInfo, BrokerError> {
        self.check_upload(who, name)?;
        self.add_plugin(name.as_str(), bytes, Some((who, place)))
            .await
    }

    // Without an uploader it comes with the broker.
    async fn add_plugin(
        &self,
        name: &str,
        bytes: Bytes,
        uploader: Option<(&Principal, UploadPlace)>,
    ) -> Result<PluginInfo, BrokerError> {
        let (who, place) = uploader.unzip();
        let owner = who.map(own_name).transpose()?;
        let digest = self.0.parts.plugins.digest(bytes.clone()).await;
        let digest = digest.map_err(|error| BrokerError::Internal(error.to_string()))?;
        let plugin = PluginInfo {
            name: name.to_owned(),
            version: 0,
            digest,
            world: PluginWorld::Filter,
            bytes: bytes.len() as u64,
            uploaded: self.0.parts.registry.clock.now(),
            bundled: who.is_none(),
            owner,
            uploaded_by: who.cloned(),
        };
        self.check_room(&plugin)?;
        let claim = self.0.uploads.claim(digest).await;
        let added = self.keep_and_record(plugin, bytes, place).await;
        drop(claim);
        if added.as_ref().is_err_and(is_decided) {
            self.forget_unused(&[digest]).await;
        }
        added
    }

    // Before the work is done. The committer looks again.
    fn check_room(&self, plugin: &PluginInfo) -> Result<(), BrokerError> {
        let catalog = self.catalog();
        let mut versions = catalog.plugins.of_name(&plugin.name);
        if plugin.bundled || versions.any(|other| other.digest == plugin.digest) {
            return Ok(());
        }
        let (by, policy) = (plugin.uploaded_by.as_ref(), &self.0.parts.policy);
        let quotas = self.0.plugin_quotas;
        let known = &catalog.plugins;
        Ok(known.admit(&plugin.name, plugin.bytes, by, quotas, policy)?)
    }

    async fn keep_and_record(
        &self,
        mut plugin: PluginInfo,
        bytes: Bytes,
        place: Option<UploadPlace>,
    ) -> Result<PluginInfo, BrokerError> {
        let digest = plugin.digest;
        let plugins = &self.0.parts.plugins;
        let loaded = plugins.load_while_holding(&plugin.name, digest, bytes.clone(), place);
        let loaded = loaded.await.map_err(|error| match error.is_passing() {
            true => BrokerError::Overloaded(with_causes(&error)),
            false => BrokerError::Invalid(with_causes(&error)),
        })?;
        plugin.world = loaded.world;
        let files = self.0.files.clone();
        let written = self.look(move |_| Ok(files.write(&digest, &bytes))).await?;
        written.map_err(|error| {
            BrokerError::Overloaded(format!("the plugin cannot be kept: {error}"))
        })?;
        let policy = &self.0.parts.policy;
        let by = plugin.uploaded_by.as_ref();
        if let Some(who) = by {
            // Compiling may have taken minutes.
            policy.check(who, &Action::Upload(&plugin.name))?;
        }
        let upload = Upload {
            any_name: by.is_none_or(|who| policy.allows(who, &Action::AdminPlugins)),
            plugin,
        };
        let added = self
            .change(|reply| ChangeRequest::AddPlugin(upload, reply))
            .await?;
        self.account_for(&added);
        // The same bytes may have other names as well, and all of them load now.
        for plugin in self.all_plugins() {
            if plugin.digest == digest {
                self.conditions()
                    .clear(&broken(&plugin.name, plugin.version));
            }
        }
        Ok(added)
    }

    // Removes what is kept of these bytes, as far as no version has them any more and nobody is uploading them. What runs goes
    // on with what it has.
    async fn forget_unused(&self, digests: &[Digest]) {
        let _no_claims = self.0.uploads.stop_claims().await;
        let unused: Vec<Digest> = {
            let catalog = self.catalog();
            let needed =
                |digest: &Digest| catalog.plugins.have(digest) || self.0.uploads.is_claimed(digest);
            let digests = digests.iter().copied();
            digests.filter(|digest| !needed(digest)).collect()
        };
        let (files, plugins) = (self.0.files.clone(), self.0.parts.plugins.clone());
        let removed = self.look(move |_| {
            for digest in unused {
                plugins.unload(&digest);
                if let Err(error) = files.remove(&digest) {
                    tracing::warn!(%digest, %error, "a plugin's file cannot be removed; the next start tries again");
                }
            }
            Ok(())
        });
        let _ = removed.await;
    }

    /// Gives the name of a plugin, with all its versions, to another owner.
    ///
    /// # Errors
    ///
    /// `who` has no admin right on `>`, there is no such name, it comes with the broker, or the store refuses writes.
    pub async fn give_plugin(
        &self,
        who: &Principal,
        name: &str,
        owner: Owner,
    ) -> Result<PluginName, BrokerError> {
        self.0.parts.policy.check(who, &Action::AdminPlugins)?;
        self.change(|reply| ChangeRequest::GivePlugin(name.to_owned(), owner, reply))
            .await?;
        self.0.parts.policy.owners_changed();
        let catalog = self.catalog();
        let known = catalog.plugins.name(name);
        let known = known.ok_or_else(|| BrokerError::NoPlugin(name.to_owned()))?;
        catalog
            .plugins
            .of_name(name)
            .for_each(|version| self.account_for(version));
        Ok(catalog.plugins.shown(known))
    }

    /// Deletes a version of a plugin (`name@3`), or all versions (`name`), that nobody uses. The name stays its owner's, unless
    /// it is to be freed: then whoever uploads under it next has it.
    ///
    /// # Errors
    ///
    /// There is none, it is somebody else's, it is in use, or it comes with the broker; or `who` has no admin right on `>`, which
    /// freeing a name takes.
    pub async fn delete_plugin(
        &self,
        who: &Principal,
        name: &str,
        free_name: bool,
    ) -> Result<(), BrokerError> {
        let (wanted, version) = split_version(name);
        let policy = &self.0.parts.policy;
        if free_name {
            policy.check(who, &Action::AdminPlugins)?;
            if version.is_some() {
                return Err(BrokerError::Invalid(format!(
                    "a name is freed with all its versions: leave `{name}` without a version"
                )));
            }
        }
        let known = self.seen_name(who, wanted)?;
        if !rights::owns_plugin(policy, who, known.owner.as_ref()) {
            policy.check(who, &Action::AdminPlugins)?;
        }
        let (versions, digests): (Vec<(String, u32)>, Vec<Digest>) = {
            let catalog = self.catalog();
            let wanted = catalog.plugins.of_name(wanted);
            let wanted = wanted.filter(|one| version.is_none_or(|version| version == one.version));
            wanted
                .map(|one| ((one.name.clone(), one.version), one.digest))
                .unzip()
        };
        if versions.is_empty() && !free_name {
            return Err(BrokerError::NoPlugin(name.to_owned()));
        }
        let broken = versions
            .iter()
            .map(|(name, version)| broken(name, *version));
        let broken: Vec<Condition> = broken.collect();
        let deletion = Deletion {
            versions,
            free_name: free_name.then(|| wanted.to_owned()),
        };
        match self
            .change(|reply| ChangeRequest::DeletePlugin(deletion, reply))
            .await
        {
            Ok(()) => {
                broken.iter().for_each(|gone| self.conditions().clear(gone));
                self.forget_unused(&digests).await;
                self.close_accounts(wanted, &digests);
                Ok(())
            }
            // The owner of a plugin does not learn the names of what others make with it.
            Err(BrokerError::InUse { what, by }) if !self.sees_subscription(who, &by) => {
                let by = "somebody else's subscription".to_owned();
                Err(BrokerError::InUse { what, by })
            }
            deleted => deleted,
        }
    }

    // What its instances hold is its owner's.
    fn account_for(&self, plugin: &PluginInfo) {
        let owner = plugin.owner.as_ref();
        let plugins = &self.0.parts.plugins;
        plugins.belongs(&plugin.name, plugin.digest, owner);
    }

    // What was deleted is on the account of its name no more, unless it was uploaded again meanwhile: the catalog has that before
    // it gets its account, and gets nothing while it is looked at here.
    fn close_accounts(&self, name: &str, deleted: &[Digest]) {
        let catalog = self.catalog();
        for digest in deleted {
            let mut versions = catalog.plugins.of_name(name);
            if !versions.any(|version| version.digest == *digest) {
                self.0.parts.plugins.belongs_no_more(name, digest);
            }
        }
    }

    fn sees_subscription(&self, who: &Principal, name: &str) -> bool {
        let live = self.0.parts.registry.by_name(name);
        live.is_none_or(|live| rights::sees(&self.0.parts.policy, who, &live.settings().spec))
    }

    /// Up to `count` versions that `who` may see, after the one called `after` (`name@3`) or the first ones, by name and version.
    #[must_use]
    pub fn plugins(&self, who: &Principal, after: Option<&str>, count: usize) -> Vec<PluginInfo> {
        let mut after = after.map(|after| {
            let (name, version) = split_version(after);
            (name.to_owned(), version.unwrap_or_default())
        });
        let look = || {
            let catalog = self.catalog();
            let from = after
                .as_ref()
                .map(|(name, version)| (name.as_str(), *version));
            let some: Vec<PluginInfo> = catalog
                .plugins
                .after(from)
                .take(LOOKED_AT)
                .cloned()
                .collect();
            drop(catalog);
            let last = some.last()?;
            after = Some((last.name.clone(), last.version));
            Some(some)
        };
        let policy = &self.0.parts.policy;
        let seen = std::iter::from_fn(look).flatten();
        let seen = seen.filter(|plugin| rights::sees_plugin(policy, who, plugin));
        seen.take(count).collect()
    }

    /// Up to `count` names that `who` may see, after `after` or the first ones: also those that have no versions any more.
    #[must_use]
    pub fn plugin_names(
        &self,
        who: &Principal,
        after: Option<&str>,
        count: usize,
    ) -> Vec<PluginName> {
        let mut after = after.map(str::to_owned);
        let look = || {
            let catalog = self.catalog();
            let some = catalog
                .plugins
                .names_after(after.as_deref())
                .take(LOOKED_AT);
            let some: Vec<PluginName> = some.map(|known| catalog.plugins.shown(known)).collect();
            drop(catalog);
            after = Some(some.last()?.name.clone());
            Some(some)
        };
        let policy = &self.0.parts.policy;
        let seen = std::iter::from_fn(look).flatten().filter(|known| {
            rights::sees_plugin_name(policy, who, &known.name, known.owner.as_ref())
        });
        seen.take(count).collect()
    }

    fn all_plugins(&self) -> Vec<PluginInfo> {
        self.catalog().plugins.versions().cloned().collect()
    }

    // What is known of a name, as far as `who` may see it.
    fn seen_name(&self, who: &Principal, name: &str) -> Result<KnownName, BrokerError> {
        let policy = &self.0.parts.policy;
        let known = self.catalog().plugins.name(name).cloned();
        known
            .filter(|known| rights::sees_plugin_name(policy, who, name, known.owner.as_ref()))
            .ok_or_else(|| BrokerError::NoPlugin(name.to_owned()))
    }

    /// One plugin, as far as `who` may see it: the newest version of a name, a version (`name@3`), or a digest.
    ///
    /// # Errors
    ///
    /// There is none that `who` may see.
    pub fn seen_plugin(&self, who: &Principal, name: &str) -> Result<PluginInfo, BrokerError> {
        self.plugin_if(name, |plugin| {
            rights::sees_plugin(&self.0.parts.policy, who, plugin)
        })
    }

    /// What there is to know of a plugin for `who`, who may use it.
    ///
    /// # Errors
    ///
    /// There is none that `who` may see.
    pub fn plugin_details(
        &self,
        who: &Principal,
        name: &str,
    ) -> Result<PluginDetails, BrokerError> {
        let info = self.seen_plugin(who, name)?;
        let label = format!("{}@{}", info.name, info.version);
        let limits = self.0.parts.plugins.limits_for(&label);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let time = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let policy = &self.0.parts.policy;
        let owner = info.owner.as_ref();
        let sees_holdings = owner.is_none() || rights::owns_plugin(policy, who, owner);
        Ok(PluginDetails {
            holds: sees_holdings.then(|| self.holdings(&info)),
            wit: format!("{WIT_PACKAGE}/{}", world_name(info.world)),
            limits: PluginBounds {
                memory_bytes_max: count(limits.memory_bytes_max),
                deadline_base_ms: time(limits.call_base.as_millis()),
                deadline_pair_us: time(limits.call_pair.as_micros()),
                output_bytes_max: count(limits.output_bytes_max),
                module_bytes_max: count(limits.module_bytes_max),
            },
            info,
        })
    }

    fn holdings(&self, plugin: &PluginInfo) -> PluginHoldings {
        let plugins = &self.0.parts.plugins;
        let (held, share) = (plugins.held_by(&plugin.name), plugins.share());
        let mut holders = plugins.holders().into_iter();
        let of_owner = holders
            .find(|holder| holder.owner == plugin.owner)
            .map_or_else(Held::default, |holder| holder.held);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        PluginHoldings {
            instances: count(held.instances),
            memory_bytes: count(held.memory_bytes),
            owner_instances: count(of_owner.instances),
            owner_memory_bytes: count(of_owner.memory_bytes),
            owner_instances_max: count(share.instances),
            owner_memory_bytes_max: count(share.memory_bytes),
        }
    }

    fn usable_plugin(&self, who: &Principal, name: &str) -> Result<PluginInfo, BrokerError> {
        let catalog = self.catalog();
        let meant = catalog.meant_plugins(name);
        let plugin = rights::used_of(&self.0.parts.policy, who, meant).cloned();
        plugin.ok_or_else(|| BrokerError::NoPlugin(name.to_owned()))
    }

    // A digest may be that of several plugins, of which one suffices.
    fn plugin_if(
        &self,
        name: &str,
        may: impl Fn(&PluginInfo) -> bool,
    ) -> Result<PluginInfo, BrokerError> {
        let catalog = self.catalog();
        let mut plugins = catalog.meant_plugins(name).filter(|plugin| may(plugin));
        let plugin = plugins.next().cloned();
        plugin.ok_or_else(|| BrokerError::NoPlugin(name.to_owned()))
    }

    // Pins a plugin to the bytes its name means now, and lets it look at its configuration.
    pub(super) async fn resolve(
        &self,
        who: &Principal,
        used: &mut PluginUse,
        world: PluginWorld,
    ) -> Result<(), BrokerError> {
        let plugin = self.usable_plugin(who, &used.plugin)?;
        if plugin.world != world {
            return Err(BrokerError::Invalid(format!(
                "plugin `{}` is a {}, but is used as a {}",
                used.plugin,
                world_name(plugin.world),
                world_name(world)
            )));
        }
        let plugins = &self.0.parts.plugins;
        plugins
            .check(&plugin.digest, world, &used.config, &plugin.name)
            .await
            .map_err(|error| {
                let why = format!("plugin `{}`: {}", used.plugin, with_causes(&error));
                match error.is_passing() {
                    // Nothing was said of the configuration.
                    true => BrokerError::Overloaded(why),
                    false => BrokerError::Invalid(why),
                }
            })?;
        used.digest = Some(plugin.digest);
        Ok(())
    }
}

// Whether what an upload came to is known: a group whose write failed may be on disk all the same, and then the plugin is there
// after a restart.
fn is_decided(error: &BrokerError) -> bool {
    !matches!(
        error,
        BrokerError::StoreUnavailable(_) | BrokerError::ShuttingDown
    )
}

fn check_name(name: &str) -> Result<(), BrokerError> {
    if name.contains(['@', ':', '/']) {
        return Err(BrokerError::Invalid(format!(
            "a plugin's name must not contain `@`, `:` or `/`: `{name}`"
        )));
    }
    Ok(())
}

fn broken(name: &str, version: u32) -> Condition {
    Condition::PluginBroken(format!("{name}@{version}").into())
}

fn world_name(world: PluginWorld) -> &'static str {
    match world {
        PluginWorld::Filter => "filter",
        PluginWorld::Transform => "transform",
    }
}

// The owner that uploading makes of somebody.
fn own_name(who: &Principal) -> Result<Owner, BrokerError> {
    Owner::of(who).ok_or_else(|| {
        BrokerError::Invalid(format!(
            "`{who}` has a `*` in its name and would pass for a group; upload with another certificate"
        ))
    })
}
