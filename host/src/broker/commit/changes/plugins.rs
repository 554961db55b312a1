//! What is decided of plugins: which version an upload gets and whether it may, whose a name is, and that nothing goes
//! that somebody uses. Their bytes are somebody else's business.

use super::super::draft::Draft;
use super::super::request::{Deletion, Upload};
use crate::broker::error::{ChangeError, NotFound, Users};
use crate::domain::{Owner, PluginInfo, PluginUse, SubscriptionSpec};
use crate::state::catalog::{Change, Json, split_version};

/// Who uses a version of a plugin.
#[derive(Default)]
struct UsersOf {
    /// The names of those that use it, or still judge by it.
    lasting: Vec<String>,
    /// There is somebody who does not any more, and would after a crash.
    is_spent: bool,
}

impl Draft {
    // Between being looked up and this moment a plugin may have been deleted.
    pub(super) fn check_plugins(&self, spec: &SubscriptionSpec) -> Result<(), ChangeError> {
        for used in spec.filters.iter().chain(&spec.transforms) {
            let mut plugins = self.catalog.plugins.versions();
            if !plugins.any(|plugin| Some(plugin.digest) == used.digest) {
                return Err(NotFound::Plugin(used.plugin.clone()).into());
            }
        }
        Ok(())
    }

    // Who uses this version: those that say so, and those that only a checkpoint would have to forget.
    fn users_of(&self, plugin: &PluginInfo) -> UsersOf {
        let uses = |used: &PluginUse| self.uses(used, plugin);
        let mut users = UsersOf::default();
        for (id, subscription) in &self.catalog.subscriptions {
            let spec = &*subscription.spec;
            if spec.filters.iter().chain(&spec.transforms).any(uses) {
                users.lasting.push(spec.name.to_string());
                continue;
            }
            let mut chains = subscription.chains().iter();
            let newest = chains.rfind(|chain| chain.filters.iter().any(uses));
            let live = self.registry.by_id(*id);
            if let Some((newest, live)) = newest.zip(live) {
                match newest.revision < live.read().revision() {
                    true => users.is_spent = true,
                    false => users.lasting.push(spec.name.to_string()),
                }
            }
        }
        users.lasting.sort_unstable();
        users
    }

    // Several names may have the same bytes. Who has named another one of these does not use this one, as long as there is that.
    fn uses(&self, used: &PluginUse, plugin: &PluginInfo) -> bool {
        let named = split_version(&used.plugin).0;
        let is_same = |version: &PluginInfo| version.digest == plugin.digest;
        let has_its_own = || self.catalog.plugins.of_name(named).any(is_same);
        used.digest == Some(plugin.digest) && (named == plugin.name || !has_its_own())
    }

    pub(super) fn add_plugin(&mut self, upload: Upload) -> Result<PluginInfo, ChangeError> {
        let Upload {
            mut plugin,
            any_name,
        } = upload;
        let known = &self.catalog.plugins;
        // Between being looked at and this moment somebody else may have been first.
        if let Some(name) = known.name(&plugin.name) {
            let is_owner =
                |owner: &Owner| plugin.uploaded_by.as_ref().is_some_and(|who| owner.is(who));
            if !any_name && !name.owner.as_ref().is_some_and(is_owner) {
                return Err(ChangeError::name_taken(&plugin.name));
            }
            plugin.owner = name.owner.clone();
        }
        let is_same = |other: &&PluginInfo| other.digest == plugin.digest;
        if let Some(same) = known.of_name(&plugin.name).find(is_same) {
            return Ok(same.clone());
        }
        // Whoever names a plugin without a version means the newest, which has to do for what the others did.
        let other_world = |version: &&PluginInfo| version.world != plugin.world;
        if let Some(other) = known.of_name(&plugin.name).find(other_world)
            && !plugin.bundled
        {
            return Err(ChangeError::Invalid(format!(
                "`{}` is a {}, and this is a {}; upload it under another name",
                other.label(),
                other.world.word(),
                plugin.world.word()
            )));
        }
        if !plugin.bundled {
            let by = plugin.uploaded_by.as_ref();
            let quotas = self.limits.plugins;
            known.admit(&plugin.name, plugin.bytes, by, quotas, &self.policy)?;
        }
        plugin.version = known.next_version(&plugin.name).ok_or_else(|| {
            ChangeError::Invalid(format!(
                "there is no version after the last one of `{}`; use another name",
                plugin.name
            ))
        })?;
        self.change(Change::AddPlugin(Json(plugin.clone())));
        Ok(plugin)
    }

    pub(super) fn give_plugin(&mut self, name: &str, owner: Owner) -> Result<(), ChangeError> {
        self.check_not_bundled(name)?;
        let given = Change::GivePlugin {
            name: name.to_owned(),
            owner: Json(owner),
        };
        self.change(given);
        Ok(())
    }

    pub(super) fn delete_plugins(&mut self, deletion: Deletion) -> Result<(), ChangeError> {
        self.forget_all_spent_chains();
        for (name, version) in &deletion.versions {
            let Some(plugin) = self.catalog.plugins.get(name, *version) else {
                continue;
            };
            let shown = format!("plugin `{}@{}`", plugin.name, plugin.version);
            if plugin.bundled {
                return Err(ChangeError::Invalid(format!(
                    "{shown} comes with the broker and stays"
                )));
            }
            let users = self.users_of(plugin);
            if !users.lasting.is_empty() {
                return Err(ChangeError::InUse {
                    what: shown,
                    by: Users::new(users.lasting),
                });
            }
            if users.is_spent {
                self.checkpoint_due.notify_one();
                return Err(ChangeError::Conflict(format!(
                    "{shown} was used until lately, and would be again after a crash until the next checkpoint, which is on its way; try again in a moment"
                )));
            }
        }
        let freed = match deletion.free_name {
            Some(name) => Some(self.free_name(name, &deletion.versions)?),
            None => None,
        };
        for (name, version) in deletion.versions {
            self.change(Change::DeletePlugin { name, version });
        }
        if let Some(freed) = freed {
            self.change(freed);
        }
        Ok(())
    }

    // How a name is freed with which all these versions go.
    fn free_name(&self, name: String, going: &[(String, u32)]) -> Result<Change, ChangeError> {
        let last_version = self.check_not_bundled(&name)?;
        let mut versions = self.catalog.plugins.of_name(&name);
        let stays = |plugin: &PluginInfo| !going.contains(&(plugin.name.clone(), plugin.version));
        if let Some(plugin) = versions.find(|plugin| stays(plugin)) {
            return Err(ChangeError::Conflict(format!(
                "`{name}@{}` was uploaded meanwhile; try again",
                plugin.version
            )));
        }
        Ok(Change::FreePlugin { name, last_version })
    }

    // The last version of a name that is not the broker's own.
    fn check_not_bundled(&self, name: &str) -> Result<u32, ChangeError> {
        match self.catalog.plugins.name(name) {
            None => Err(NotFound::Plugin(name.to_owned()).into()),
            Some(known) if known.bundled => Err(ChangeError::Invalid(format!(
                "plugin `{name}` comes with the broker and belongs to nobody"
            ))),
            Some(known) => Ok(known.last_version),
        }
    }
}
