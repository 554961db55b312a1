//! Which producer is forgotten when there are too many: one that never committed anything, as long as there is any; of whoever has
//! the most of these; and of that one's the idlest. So nobody makes the broker forget the producers of others, however many ids
//! are made up. What is known of a producer stands elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::{PrincipalDigest, ProducerId};

/// Whose a producer is; unknown of one that an older broker has seen last.
pub(super) type Owner = Option<PrincipalDigest>;

/// How idle a producer is, the idlest first: those without an open stream before those with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Idleness {
    /// Something of it was committed. Opening streams with made-up ids pushes out nobody who publishes.
    pub(super) committed: bool,
    /// It has an open stream.
    pub(super) is_open: bool,
    /// When it was last used on the logical clock, which no two share.
    pub(super) used: u64,
}

/// Producers by owner and idleness, and how many batches of each owner are remembered.
#[derive(Clone, Debug, Default)]
pub(super) struct ByOwner {
    groups: HashMap<Group, Members>,
    // The same groups in the order in which they are forgotten: the last one first.
    by_count: BTreeSet<(bool, usize, Owner)>,
}

/// Whether they never committed anything, and whose they are.
type Group = (bool, Owner);

#[derive(Clone, Debug, Default)]
struct Members {
    idlest: BTreeMap<Idleness, ProducerId>,
    batches: usize,
}

impl ByOwner {
    pub(super) fn insert(
        &mut self,
        owner: Owner,
        idleness: Idleness,
        id: ProducerId,
        batches: usize,
    ) {
        let group = group(owner, idleness);
        let members = self.groups.entry(group).or_default();
        members.idlest.insert(idleness, id);
        members.batches += batches;
        let now = members.idlest.len();
        self.by_count.remove(&(group.0, now - 1, owner));
        self.by_count.insert((group.0, now, owner));
    }

    /// `batches` of it were remembered.
    pub(super) fn remove(&mut self, owner: Owner, idleness: Idleness, batches: usize) {
        let group = group(owner, idleness);
        let Some(members) = self.groups.get_mut(&group) else {
            return;
        };
        let before = members.idlest.len();
        if members.idlest.remove(&idleness).is_none() {
            return;
        }
        members.batches = members.batches.saturating_sub(batches);
        self.by_count.remove(&(group.0, before, owner));
        if before > 1 {
            self.by_count.insert((group.0, before - 1, owner));
        } else {
            self.groups.remove(&group);
        }
    }

    /// One of these, of which `batches` are remembered, is as idle as `now` instead of `before`.
    pub(super) fn rank(&mut self, owner: Owner, before: Idleness, now: Idleness, batches: usize) {
        let (from, to) = (group(owner, before), group(owner, now));
        if from == to
            && let Some(members) = self.groups.get_mut(&from)
            && let Some(id) = members.idlest.remove(&before)
        {
            members.idlest.insert(now, id);
            return;
        }
        let members = self.groups.get(&from);
        let Some(id) = members.and_then(|members| members.idlest.get(&before).copied()) else {
            return;
        };
        self.remove(owner, before, batches);
        self.insert(owner, now, id, batches);
    }

    /// Of one of these, `after` batches are remembered instead of `before`.
    pub(super) fn count_batches(
        &mut self,
        owner: Owner,
        idleness: Idleness,
        before: usize,
        after: usize,
    ) {
        if let Some(members) = self.groups.get_mut(&group(owner, idleness)) {
            members.batches = (members.batches + after).saturating_sub(before);
        }
    }

    /// Who makes room for one of `newcomer`, which gives way itself where it has as many as anybody.
    pub(super) fn first_to_go(&self, newcomer: Owner) -> Option<ProducerId> {
        let (idle, most, owner) = self.by_count.last()?;
        let theirs = self.groups.get(&(*idle, newcomer));
        let members = theirs
            .filter(|members| members.idlest.len() == *most)
            .or_else(|| self.groups.get(&(*idle, *owner)))?;
        members.idlest.values().next().copied()
    }

    /// All, those of whoever has the most batches first, and of one owner the idlest first.
    pub(super) fn by_batches(&self) -> Vec<ProducerId> {
        let mut groups: Vec<_> = self.groups.values().collect();
        // No two are idle for as long, so that equals come in an order that can be repeated.
        let idlest = |members: &Members| members.idlest.keys().next().copied();
        groups.sort_by_key(|members| (std::cmp::Reverse(members.batches), idlest(members)));
        let ids = groups.iter().flat_map(|members| members.idlest.values());
        ids.copied().collect()
    }

    /// All, as they are kept: those that never committed first, then by how long they are idle, whoever they belong to.
    pub(super) fn by_idleness(&self) -> Vec<ProducerId> {
        let members = self.groups.values();
        let mut all: Vec<_> = members.flat_map(|members| &members.idlest).collect();
        all.sort_unstable_by_key(|(idleness, _)| (idleness.committed, idleness.used));
        all.into_iter().map(|(_, id)| *id).collect()
    }
}

fn group(owner: Owner, idleness: Idleness) -> Group {
    (!idleness.committed, owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Principal;

    #[test]
    fn whoever_has_as_many_comes_in_the_order_of_idleness() {
        let mut producers = ByOwner::default();
        // So many that chance would hardly put them in order.
        for number in (0..32).rev() {
            let owner = Principal::common_name(&number.to_string()).digest();
            let idleness = Idleness {
                committed: true,
                is_open: false,
                used: number,
            };
            let id = ProducerId(u128::from(number));
            producers.insert(Some(owner), idleness, id, 3);
        }
        let ids: Vec<u128> = producers.by_batches().iter().map(|id| id.0).collect();
        assert_eq!(ids, (0..32).collect::<Vec<u128>>());
    }
}
