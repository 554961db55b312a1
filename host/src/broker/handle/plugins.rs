//! Plugins, as the outside sees them: who may upload, give away and delete them, and what there is to see of them. What becomes of
//! their bytes is not known here.

use bytes::Bytes;

use super::Broker;
use crate::auth::authorize;
use crate::broker::error::{ChangeError, NotFound, Unavailable};
use crate::broker::plugin_store::uploads::UploadPlace;
use crate::domain::{
    Digest, Name, Owner, PluginBounds, PluginDetails, PluginHoldings, PluginInfo, PluginName,
    Principal,
};
use crate::plugin::Held;
use crate::state::catalog::{KnownName, split_version};

/// Plugins that are looked at together, so that nobody waits for the rights to all of them.
const LOOKED_AT: usize = 256;

/// The package of the interface that plugins implement, as in `wit/`.
const WIT_PACKAGE: &str = "tidegate:plugin@0.1.0";

impl Broker {
    /// Whether `who` may upload a plugin under `name`. Asked before there are any bytes of it.
    ///
    /// # Errors
    ///
    /// No grant allows it, nothing new may have that name, it comes with the broker, it is somebody else's, or there are as
    /// many plugins as may be.
    pub fn check_upload(&self, who: &Principal, name: &Name) -> Result<(), ChangeError> {
        let policy = &self.0.policy;
        authorize::upload_plugin(policy, who, name.as_str())?;
        check_name(name.as_str())?;
        let catalog = self.catalog();
        match catalog.plugins.name(name.as_str()) {
            Some(known) if known.bundled => {
                return Err(ChangeError::Exists {
                    kind: "bundled plugin",
                    name: name.to_string(),
                });
            }
            Some(known) if !authorize::owns_plugin(policy, who, known.owner.as_ref()) => {
                return Err(ChangeError::name_taken(name.as_str()));
            }
            Some(_) => {}
            None => name.check_new()?,
        }
        // It may be what one of its versions is already.
        let has_versions = catalog.plugins.of_name(name.as_str()).next().is_some();
        drop(catalog);
        match has_versions {
            true => Ok(()),
            false => self.0.plugins.admit(name.as_str(), 1, Some(who)),
        }
    }

    /// Bytes that a component may have which is uploaded under `name`.
    #[must_use]
    pub fn module_bytes_max(&self, name: &Name) -> usize {
        self.0
            .plugins
            .loaded
            .limits_for(name.as_str())
            .module_bytes_max
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
    pub async fn upload_place(&self, who: &Principal) -> Result<UploadPlace, Unavailable> {
        self.0.plugins.place(who).await
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
    ) -> Result<PluginInfo, ChangeError> {
        self.check_upload(who, name)?;
        let uploader = Some((who, place));
        self.0.plugins.add(name.as_str(), bytes, uploader).await
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
    ) -> Result<PluginName, ChangeError> {
        authorize::manage_plugins(&self.0.policy, who)?;
        self.0.plugins.give(name, owner).await?;
        let catalog = self.catalog();
        let known = catalog.plugins.name(name);
        let known = known.ok_or_else(|| NotFound::Plugin(name.to_owned()))?;
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
    ) -> Result<(), ChangeError> {
        let (wanted, version) = split_version(name);
        let policy = &self.0.policy;
        if free_name {
            authorize::manage_plugins(policy, who)?;
            if version.is_some() {
                return Err(ChangeError::Invalid(format!(
                    "a name is freed with all its versions: leave `{name}` without a version"
                )));
            }
        }
        let known = self.seen_name(who, wanted)?;
        authorize::delete_plugin(policy, who, known.owner.as_ref())?;
        let deleted = self.0.plugins.delete(wanted, version, free_name).await;
        // The owner of a plugin does not learn the names of what others make with it.
        deleted.map_err(|error| self.named_to(who, error))
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
        let policy = &self.0.policy;
        let seen = std::iter::from_fn(look).flatten();
        let seen = seen.filter(|plugin| authorize::sees_plugin(policy, who, plugin));
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
        let policy = &self.0.policy;
        let seen = std::iter::from_fn(look).flatten().filter(|known| {
            authorize::sees_plugin_name(policy, who, &known.name, known.owner.as_ref())
        });
        seen.take(count).collect()
    }

    // What is known of a name, as far as `who` may see it.
    fn seen_name(&self, who: &Principal, name: &str) -> Result<KnownName, NotFound> {
        let policy = &self.0.policy;
        let known = self.catalog().plugins.name(name).cloned();
        known
            .filter(|known| authorize::sees_plugin_name(policy, who, name, known.owner.as_ref()))
            .ok_or_else(|| NotFound::Plugin(name.to_owned()))
    }

    /// One plugin, as far as `who` may see it: the newest version of a name, a version (`name@3`), or a digest.
    ///
    /// # Errors
    ///
    /// There is none that `who` may see.
    pub fn seen_plugin(&self, who: &Principal, name: &str) -> Result<PluginInfo, NotFound> {
        self.plugin_if(name, |plugin| {
            authorize::sees_plugin(&self.0.policy, who, plugin)
        })
    }

    /// What there is to know of a plugin for `who`, who may use it.
    ///
    /// # Errors
    ///
    /// There is none that `who` may see.
    pub fn plugin_details(&self, who: &Principal, name: &str) -> Result<PluginDetails, NotFound> {
        let info = self.seen_plugin(who, name)?;
        let label = format!("{}@{}", info.name, info.version);
        let limits = self.0.plugins.loaded.limits_for(&label);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let time = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let policy = &self.0.policy;
        let owner = info.owner.as_ref();
        let sees_holdings = authorize::sees_holdings(policy, who, owner);
        Ok(PluginDetails {
            holds: sees_holdings.then(|| self.holdings(&info)),
            wit: format!("{WIT_PACKAGE}/{}", info.world.word()),
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
        let plugins = &self.0.plugins.loaded;
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

    /// The name of the plugin that `who` means by `written`: a name, a version (`name@3`), or a digest, of whose names it is the one
    /// that `who` uses. There need not be any.
    #[must_use]
    pub fn plugin_name(&self, who: &Principal, written: &str) -> String {
        let catalog = self.catalog();
        let meant = authorize::used_of(&self.0.policy, who, catalog.meant_plugins(written));
        match meant {
            Some(plugin) => plugin.name.clone(),
            None => split_version(written).0.to_owned(),
        }
    }

    // A digest may be that of several plugins, of which one suffices.
    fn plugin_if(
        &self,
        name: &str,
        may: impl Fn(&PluginInfo) -> bool,
    ) -> Result<PluginInfo, NotFound> {
        let catalog = self.catalog();
        let mut plugins = catalog.meant_plugins(name).filter(|plugin| may(plugin));
        let plugin = plugins.next().cloned();
        plugin.ok_or_else(|| NotFound::Plugin(name.to_owned()))
    }
}

fn check_name(name: &str) -> Result<(), ChangeError> {
    if name.contains(['@', ':', '/']) {
        return Err(ChangeError::Invalid(format!(
            "a plugin's name must not contain `@`, `:` or `/`: `{name}`"
        )));
    }
    if name.parse::<Digest>().is_ok() {
        return Err(ChangeError::Invalid(format!(
            "a plugin's name must not be 64 hexadecimal digits, which mean the plugin with this digest: `{name}`; choose \
             another one"
        )));
    }
    Ok(())
}
