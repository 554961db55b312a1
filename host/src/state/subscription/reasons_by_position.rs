//! Positions, and for each the reason why it is given up. The reasons of the first ones are kept one by one, in their own
//! words; those of more are shared, a set of positions per reason, and of different reasons beyond a number only the kind is
//! kept. So whatever is given up stays given up, and costs a few bytes however much it is.

use std::collections::BTreeMap;

use super::give_up_reason::GiveUpReason;
use crate::state::position_set::PositionSet;

/// While this many events wait for their dead letter, further ones share their reasons: what is kept of each, with its reason,
/// must not grow with the backlog.
pub(super) const GIVEN_UP_EXACT_MAX: usize = 262_144;
/// Different reasons that positions share, before only their kinds are told apart.
const SHARED_MAX: usize = 64;
/// Says in place of a reason that only its kind is known.
const NOT_KEPT: &str = "why was not kept, since too many events wait for their dead letter";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reasons {
    /// Those of `exact` and `shared`; no position is in two of them.
    all: PositionSet,
    exact: BTreeMap<u64, GiveUpReason>,
    shared: Vec<(GiveUpReason, PositionSet)>,
    exact_max: usize,
}

impl Default for Reasons {
    fn default() -> Self {
        Self {
            all: PositionSet::default(),
            exact: BTreeMap::new(),
            shared: Vec::new(),
            exact_max: GIVEN_UP_EXACT_MAX,
        }
    }
}

impl Reasons {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All positions.
    pub(super) fn all(&self) -> &PositionSet {
        &self.all
    }

    /// Whether some have to share their reasons.
    pub(super) fn are_coarse(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Those that have one of their own, rising.
    pub(super) fn exact(&self) -> impl Iterator<Item = (u64, &GiveUpReason)> {
        self.exact.iter().map(|(at, reason)| (*at, reason))
    }

    /// The others, by reason.
    pub(super) fn shared(&self) -> impl Iterator<Item = (&GiveUpReason, &PositionSet)> {
        self.shared.iter().map(|(reason, set)| (reason, set))
    }

    pub(super) fn get(&self, position: u64) -> Option<&GiveUpReason> {
        let shared = || {
            let mut sets = self.shared.iter();
            let found = sets.find(|(_, set)| set.contains(position));
            found.map(|(reason, _)| reason)
        };
        self.exact.get(&position).or_else(shared)
    }

    /// The reasons within `first..=last`, in no order.
    pub(super) fn runs(&self, first: u64, last: u64) -> Vec<(u64, u64, GiveUpReason)> {
        if first > last || self.all.ranges(first, last).next().is_none() {
            return Vec::new();
        }
        let exact = self.exact.range(first..=last);
        let mut runs: Vec<_> = exact.map(|(at, why)| (*at, *at, why.clone())).collect();
        for (reason, set) in &self.shared {
            let shared = set.ranges(first, last);
            runs.extend(shared.map(|(first, last)| (first, last, reason.clone())));
        }
        runs
    }

    /// Adds a range. Positions that have a reason keep it.
    pub(super) fn insert(&mut self, first: u64, last: u64, reason: &GiveUpReason) {
        for (first, last) in self.all.gaps(first, last) {
            self.all.insert_range(first, last);
            let mut at = first;
            while at <= last && self.exact.len() < self.exact_max {
                self.exact.insert(at, reason.clone());
                at += 1;
            }
            if at <= last {
                self.share(reason).insert_range(at, last);
            }
        }
    }

    /// Adds those that share a reason, but for those that have one.
    pub(super) fn insert_shared(&mut self, reason: &GiveUpReason, positions: &PositionSet) {
        for (first, last) in positions.ranges(0, u64::MAX) {
            for (first, last) in self.all.gaps(first, last) {
                self.all.insert_range(first, last);
                self.share(reason).insert_range(first, last);
            }
        }
    }

    pub(super) fn remove(&mut self, first: u64, last: u64) {
        if self.all.remove_range(first, last) == 0 {
            return;
        }
        let exact = self.exact.range(first..=last).map(|(at, _)| *at);
        for position in exact.collect::<Vec<_>>() {
            self.exact.remove(&position);
        }
        for (_, set) in &mut self.shared {
            set.remove_range(first, last);
        }
        self.shared.retain(|(_, set)| !set.is_empty());
    }

    /// Removes what is not in `kept`.
    pub(super) fn keep_within(&mut self, kept: &PositionSet) {
        let runs = self.all.ranges(0, u64::MAX);
        let foreign: Vec<_> = runs.flat_map(|(a, b)| kept.gaps(a, b)).collect();
        for (first, last) in foreign {
            self.remove(first, last);
        }
    }

    // The set of those that share `reason`, or one of its kind.
    fn share(&mut self, reason: &GiveUpReason) -> &mut PositionSet {
        let place = |wanted: &GiveUpReason, shared: &[(GiveUpReason, PositionSet)]| {
            shared.iter().position(|(known, _)| known == wanted)
        };
        let general;
        let mut kept = reason;
        let mut found = place(kept, &self.shared);
        if found.is_none() && self.shared.len() >= SHARED_MAX {
            general = reason.of_its_kind(NOT_KEPT);
            kept = &general;
            found = place(kept, &self.shared);
        }
        let index = found.unwrap_or_else(|| {
            self.shared.push((kept.clone(), PositionSet::default()));
            self.shared.len() - 1
        });
        &mut self.shared[index].1
    }

    /// Fewer have reasons of their own, so that a test need not give up many.
    #[cfg(test)]
    pub(super) fn keep_exact(&mut self, max: usize) {
        self.exact_max = max;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(number: u64) -> GiveUpReason {
        match number {
            0 => GiveUpReason::AttemptsExhausted,
            number => GiveUpReason::Terminated(number.to_string().into()),
        }
    }

    proptest! {
        #[test]
        fn behave_like_a_reason_per_position(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20, 0u64..4), 1..60),
            kept in (0u64..80, 0u64..80),
        ) {
            let mut reasons = Reasons::default();
            reasons.keep_exact(5);
            let mut model = BTreeMap::new();
            for (insert, first, length, number) in steps {
                let last = first + length;
                if insert {
                    reasons.insert(first, last, &reason(number));
                    for at in first..=last {
                        model.entry(at).or_insert(reason(number));
                    }
                } else {
                    reasons.remove(first, last);
                    model.retain(|at, _| !(first..=last).contains(at));
                }
                prop_assert!(reasons.exact.len() <= 5);
                let mut runs = reasons.runs(first, last);
                runs.sort_by_key(|run| run.0);
                let flat: Vec<_> = runs.into_iter().flat_map(|(a, b, why)| (a..=b).map(move |at| (at, why.clone()))).collect();
                let expected: Vec<_> = model.range(first..=last).map(|(at, why)| (*at, why.clone())).collect();
                prop_assert_eq!(flat, expected);
            }
            for at in 0..90 {
                prop_assert_eq!(reasons.get(at), model.get(&at));
                prop_assert_eq!(reasons.all().contains(at), model.contains_key(&at));
            }
            let mut within = PositionSet::default();
            within.insert_range(kept.0, kept.1);
            reasons.keep_within(&within);
            model.retain(|at, _| (kept.0..=kept.1).contains(at));
            prop_assert_eq!(reasons.all().len(), model.len() as u64);
        }
    }

    #[test]
    fn of_too_many_different_reasons_the_kind_is_kept() {
        let mut reasons = Reasons::default();
        reasons.keep_exact(10);
        for position in 1..=10_000 {
            reasons.insert(position, position, &reason(position));
        }
        reasons.insert(10_001, 10_001, &GiveUpReason::FilterFailed("a trap".into()));
        reasons.insert(10_002, 10_002, &GiveUpReason::HopLimit);
        assert_eq!(reasons.all().len(), 10_002);
        assert_eq!(reasons.shared.len(), SHARED_MAX + 3);
        assert_eq!(reasons.get(10), Some(&reason(10)));
        assert_eq!(reasons.get(74), Some(&reason(74)));
        let said = |position| reasons.get(position).map(ToString::to_string);
        let all = [75, 10_000, 10_001, 10_002].map(said);
        let all: Vec<_> = all.into_iter().flatten().collect();
        assert!(
            all[0].starts_with("refused by the consumer: why was not kept"),
            "{all:?}"
        );
        assert_eq!(all[1], all[0]);
        assert!(
            all[2].starts_with("filter failed: why was not kept"),
            "{all:?}"
        );
        assert!(all[3].contains("routes"), "{all:?}");
    }
}
