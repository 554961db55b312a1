//! The plugins that exist, and the names they have. A name outlives its versions: it stays whose it is and its numbers go on,
//! so that neither a grant nor a script that names a plugin ever comes to mean somebody else's bytes. Only who administers the
//! broker frees one. What is uploaded is counted here as it comes and goes; whether somebody may upload is decided elsewhere.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::auth::Policy;
use crate::domain::{Digest, Owner, PluginInfo, PluginName, Principal};
use crate::state::quotas::{self, PluginQuotas, QuotaReached, QuotaUse};

/// Versions that are skipped for every name after a loss: many more than anybody uploads between two checkpoints, since each of
/// them was compiled.
const LOST_VERSIONS: u32 = 1_000;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownName {
    pub(crate) name: String,
    /// Whose it is; nobody's if it comes with the broker, or was there before names had owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    /// The highest version that was ever given.
    pub(crate) last_version: u32,
    /// Who uploaded that. Without versions the name counts for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Principal>,
    /// It comes with the broker.
    #[serde(default)]
    pub(crate) bundled: bool,
}

/// All plugins and their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownPlugins {
    versions: BTreeMap<(String, u32), PluginInfo>,
    names: BTreeMap<String, KnownName>,
    // A name that comes into being gets versions above this one: one that was freed, or lost, may have had those below.
    floor: u32,
    // Of what is uploaded: versions, and names that have none left.
    made: QuotaUse,
    // The bytes of those versions. Several with the same bytes count each.
    bytes: QuotaUse,
}

impl KnownPlugins {
    /// All versions, by name and version.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &PluginInfo> {
        self.versions.values()
    }

    /// How many versions there are.
    pub(crate) fn len(&self) -> usize {
        self.versions.len()
    }

    /// The versions of one name, rising.
    pub(crate) fn of_name(
        &self,
        name: &str,
    ) -> impl DoubleEndedIterator<Item = &PluginInfo> + use<'_> {
        let range = (name.to_owned(), 0)..=(name.to_owned(), u32::MAX);
        self.versions.range(range).map(|(_, plugin)| plugin)
    }

    /// Versions after that one, or all.
    pub(crate) fn after(&self, after: Option<(&str, u32)>) -> impl Iterator<Item = &PluginInfo> {
        let after = after.map(|(name, version)| (name.to_owned(), version));
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.versions.range((after, Bound::Unbounded));
        rest.map(|(_, plugin)| plugin)
    }

    pub(crate) fn get(&self, name: &str, version: u32) -> Option<&PluginInfo> {
        self.versions.get(&(name.to_owned(), version))
    }

    /// Whether any version has these bytes.
    pub(crate) fn have(&self, digest: &Digest) -> bool {
        self.versions().any(|plugin| plugin.digest == *digest)
    }

    /// What is known of a name, which need not have versions.
    pub(crate) fn name(&self, name: &str) -> Option<&KnownName> {
        self.names.get(name)
    }

    /// Whether anything was uploaded, ever: a name stays without versions, and what is freed leaves its number.
    pub(crate) fn knows_uploads(&self) -> bool {
        self.floor > 0 || self.names.values().any(|known| !known.bundled)
    }

    /// Names after that one, or all.
    pub(crate) fn names_after(&self, after: Option<&str>) -> impl Iterator<Item = &KnownName> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.names.range::<str, _>((after, Bound::Unbounded));
        rest.map(|(_, known)| known)
    }

    /// A name as people see it.
    pub(crate) fn shown(&self, known: &KnownName) -> PluginName {
        PluginName {
            name: known.name.clone(),
            owner: known.owner.clone(),
            last_version: known.last_version,
            versions: self.of_name(&known.name).count() as u64,
            bundled: known.bundled,
        }
    }

    /// The version that `name` gets next; `None` once there is no further number.
    pub(crate) fn next_version(&self, name: &str) -> Option<u32> {
        let last = self.names.get(name).map(|known| known.last_version);
        last.unwrap_or(self.floor).checked_add(1)
    }

    /// Adds a version, or replaces what is said of it. Its name belongs to its owner.
    pub(crate) fn insert(&mut self, plugin: PluginInfo) {
        let had_versions = self.of_name(&plugin.name).next().is_some();
        match self.names.get_mut(&plugin.name) {
            Some(known) => {
                if !had_versions {
                    self.made.remove(known.by.as_ref());
                }
                known.owner = plugin.owner.clone();
                known.bundled |= plugin.bundled;
                if plugin.version >= known.last_version {
                    known.last_version = plugin.version;
                    known.by = plugin.uploaded_by.clone();
                }
            }
            None => {
                let known = KnownName {
                    name: plugin.name.clone(),
                    owner: plugin.owner.clone(),
                    last_version: plugin.version,
                    by: plugin.uploaded_by.clone(),
                    bundled: plugin.bundled,
                };
                self.names.insert(plugin.name.clone(), known);
            }
        }
        self.count(&plugin);
        let key = (plugin.name.clone(), plugin.version);
        if let Some(before) = self.versions.insert(key, plugin) {
            self.discount(&before);
        }
    }

    /// Whether there may be one more version of `name`, of so many bytes, that `by` uploads.
    ///
    /// # Errors
    ///
    /// The limit that is reached, and what to do.
    pub(crate) fn admit(
        &self,
        name: &str,
        bytes: u64,
        by: Option<&Principal>,
        quotas: PluginQuotas,
        policy: &Policy,
    ) -> Result<(), QuotaReached> {
        // A name without versions counts as one, and gives its place to the new one if that counts for the same.
        let has_place = self.of_name(name).next().is_none()
            && self.name(name).is_some_and(|known| known.by.as_ref() == by);
        if !has_place {
            self.made
                .admit(quotas::PLUGINS, 1, by, quotas.versions, policy)?;
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.bytes
            .admit(quotas::PLUGIN_BYTES, bytes, by, quotas.bytes, policy)
    }

    /// Deletes a version. Its name stays.
    pub(crate) fn remove(&mut self, name: &str, version: u32) {
        let Some(gone) = self.versions.remove(&(name.to_owned(), version)) else {
            return;
        };
        self.discount(&gone);
        if self.of_name(name).next().is_none()
            && let Some(known) = self.names.get(name)
        {
            self.made.add(known.by.as_ref());
        }
    }

    /// Gives a name, with its versions, to an owner.
    pub(crate) fn give(&mut self, name: &str, owner: &Owner) {
        if let Some(known) = self.names.get_mut(name) {
            known.owner = Some(owner.clone());
        }
        let range = (name.to_owned(), 0)..=(name.to_owned(), u32::MAX);
        for (_, plugin) in self.versions.range_mut(range) {
            plugin.owner = Some(owner.clone());
        }
    }

    /// Forgets a name that has no versions: whoever uploads under it next has it, with versions above all that it had.
    pub(crate) fn free(&mut self, name: &str, last_version: u32) {
        self.floor = self.floor.max(last_version);
        if self.of_name(name).next().is_some() {
            return;
        }
        if let Some(known) = self.names.remove(name) {
            self.made.remove(known.by.as_ref());
        }
    }

    /// Versions that are lost may have had so many numbers more: none of them is given again.
    pub(crate) fn skip_lost(&mut self) {
        self.floor = self.floor.saturating_add(LOST_VERSIONS);
        for known in self.names.values_mut() {
            known.last_version = known.last_version.saturating_add(LOST_VERSIONS);
        }
    }

    /// What a checkpoint has to say beside the versions: names of which these do not tell everything.
    pub(crate) fn names_to_keep(&self) -> Vec<KnownName> {
        let says_all = |known: &KnownName| {
            let newest = self.of_name(&known.name).next_back();
            newest.is_some_and(|newest| newest.version == known.last_version)
        };
        let names = self.names.values().filter(|known| !says_all(known));
        names.cloned().collect()
    }

    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    /// Takes what a checkpoint said beside the versions, before or after these.
    pub(crate) fn restore(&mut self, floor: u32, names: Vec<KnownName>) {
        self.floor = self.floor.max(floor);
        for name in names {
            match self.names.get_mut(&name.name) {
                Some(known) => known.last_version = known.last_version.max(name.last_version),
                None => {
                    self.made.add(name.by.as_ref());
                    self.names.insert(name.name.clone(), name);
                }
            }
        }
    }

    // What comes with the broker is nobody's upload.
    fn count(&mut self, plugin: &PluginInfo) {
        if !plugin.bundled {
            self.made.add(plugin.uploaded_by.as_ref());
            let bytes = usize::try_from(plugin.bytes).unwrap_or(usize::MAX);
            self.bytes.add_many(plugin.uploaded_by.as_ref(), bytes);
        }
    }

    fn discount(&mut self, plugin: &PluginInfo) {
        if !plugin.bundled {
            self.made.remove(plugin.uploaded_by.as_ref());
            let bytes = usize::try_from(plugin.bytes).unwrap_or(usize::MAX);
            self.bytes.remove_many(plugin.uploaded_by.as_ref(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Millis, PluginWorld};

    fn plugin(name: &str, version: u32, by: &str) -> PluginInfo {
        let by = Principal::common_name(by);
        PluginInfo {
            name: name.into(),
            version,
            digest: Digest([version as u8; 32]),
            world: PluginWorld::Filter,
            bytes: 100,
            uploaded: Millis(0),
            bundled: false,
            owner: Owner::of(&by),
            uploaded_by: Some(by),
        }
    }

    fn counted(plugins: &KnownPlugins, who: &str) -> (usize, usize, usize) {
        let who = Principal::common_name(who);
        (
            plugins.made.all(),
            plugins.made.of(&who),
            plugins.bytes.of(&who),
        )
    }

    #[test]
    fn a_name_and_its_numbers_outlive_its_versions() {
        let mut plugins = KnownPlugins::default();
        for version in 1..=3 {
            plugins.insert(plugin("scrub", version, "a"));
        }
        assert_eq!(counted(&plugins, "a"), (3, 3, 300));
        plugins.remove("scrub", 3);
        assert_eq!(plugins.next_version("scrub"), Some(4));
        plugins.remove("scrub", 1);
        plugins.remove("scrub", 2);
        plugins.remove("scrub", 2);
        assert_eq!(plugins.next_version("scrub"), Some(4));
        let known = plugins.name("scrub").expect("kept").clone();
        assert_eq!(known.owner, Owner::of(&Principal::common_name("a")));
        assert_eq!(counted(&plugins, "a"), (1, 1, 0), "the name counts");

        // What a checkpoint keeps of it is all there is.
        let mut restored = KnownPlugins::default();
        restored.restore(plugins.floor(), plugins.names_to_keep());
        assert_eq!(restored.name("scrub"), Some(&known));
        assert_eq!(counted(&restored, "a"), (1, 1, 0));

        plugins.give("scrub", &"cn:b".parse().expect("an owner"));
        assert_eq!(
            plugins.name("scrub").expect("kept").owner,
            "cn:b".parse().ok()
        );
        plugins.insert(plugin("scrub", 4, "b"));
        assert_eq!(counted(&plugins, "a"), (1, 0, 0));
        assert_eq!(counted(&plugins, "b"), (1, 1, 100));
        plugins.free("scrub", 4);
        assert!(plugins.name("scrub").is_some(), "it has versions");
        plugins.remove("scrub", 4);
        plugins.free("scrub", 4);
        assert!(plugins.name("scrub").is_none());
        assert_eq!(counted(&plugins, "b"), (0, 0, 0));
        assert_eq!(plugins.next_version("scrub"), Some(5), "not even then");
    }

    #[test]
    fn a_checkpoint_says_only_what_the_versions_do_not() {
        let mut plugins = KnownPlugins::default();
        plugins.insert(plugin("whole", 1, "a"));
        plugins.insert(plugin("cut", 1, "a"));
        plugins.insert(plugin("cut", 2, "a"));
        assert!(plugins.names_to_keep().is_empty());
        plugins.remove("cut", 2);
        let kept = plugins.names_to_keep();
        assert_eq!(kept.len(), 1);
        // In either order.
        for first in [true, false] {
            let mut restored = KnownPlugins::default();
            if first {
                restored.restore(0, kept.clone());
            }
            plugins
                .versions()
                .for_each(|one| restored.insert(one.clone()));
            if !first {
                restored.restore(0, kept.clone());
            }
            assert_eq!(restored.next_version("cut"), Some(3));
            assert_eq!(restored.next_version("whole"), Some(2));
            assert_eq!(counted(&restored, "a"), (2, 2, 200));
        }
        plugins.skip_lost();
        assert_eq!(plugins.next_version("whole"), Some(1_002));
        assert_eq!(plugins.next_version("new"), Some(1_001));
    }
}
