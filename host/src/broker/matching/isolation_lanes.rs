//! Isolation lanes, or wards: lanes beside a plugin's common one, for subscriptions whose calls failed there. Who is to blame is found out in them, so
//! that whoever was not concerned does not wait for it; owners have wards of their own, as far as there are enough. Which
//! owner's subscriptions go to which is decided here. Pure: what a lane is, others know.

use crate::domain::{Digest, Principal};

/// Wards of one plugin: each costs a task and at least an instance. Owners beyond that share them.
const WARDS_MAX: usize = 16;
/// A subscription goes back to the common lane after so many events without a failure.
const SOUND_EVENTS_MIN: u64 = 4096;
/// It takes twice as many after each further stay, up to this power of two: some million.
const STAYS_MAX: u32 = 8;

/// Whose subscriptions; `None` for those that are nobody's.
pub(crate) type Whose = Option<Principal>;

/// One lane of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneId {
    /// The plugin.
    pub(crate) digest: Digest,
    /// Number of the ward; `None` for the common lane.
    pub(crate) ward: Option<usize>,
}

impl LaneId {
    /// The plugin's common lane.
    pub(crate) fn common(digest: Digest) -> Self {
        Self { digest, ward: None }
    }

    /// Whether it is a ward.
    pub(crate) fn is_apart(self) -> bool {
        self.ward.is_some()
    }
}

/// The wards there are, each with what reaches its lane.
pub(crate) struct Wards<T> {
    open: Vec<Ward<T>>,
}

struct Ward<T> {
    id: LaneId,
    owners: Vec<Whose>,
    lane: T,
}

impl<T> Default for Wards<T> {
    fn default() -> Self {
        Self { open: Vec::new() }
    }
}

impl<T> Wards<T> {
    /// The ward of an owner's subscriptions on a plugin: a new one, or, where there are as many as may be, the one with the fewest
    /// owners.
    pub(crate) fn of(
        &mut self,
        digest: Digest,
        whose: &Whose,
        open: impl FnOnce(LaneId) -> T,
    ) -> &T {
        let of_plugin = |ward: &&Ward<T>| ward.id.digest == digest;
        let has_it = |ward: &Ward<T>| ward.id.digest == digest && ward.owners.contains(whose);
        let count = self.open.iter().filter(of_plugin).count();
        let index = match self.open.iter().position(has_it) {
            Some(index) => index,
            None if count < WARDS_MAX => {
                let taken = |number: &usize| {
                    let mut of_plugin = self.open.iter().filter(of_plugin);
                    of_plugin.any(|ward| ward.id.ward == Some(*number))
                };
                let number = (1..).find(|number| !taken(number));
                let id = LaneId {
                    digest,
                    ward: number,
                };
                self.open.push(Ward {
                    id,
                    owners: vec![whose.clone()],
                    lane: open(id),
                });
                self.open.len() - 1
            }
            None => {
                let of_plugin = self.open.iter_mut().enumerate();
                let of_plugin = of_plugin.filter(|(_, ward)| ward.id.digest == digest);
                let (index, ward) = of_plugin
                    .min_by_key(|(_, ward)| ward.owners.len())
                    .expect("there are as many as may be");
                ward.owners.push(whose.clone());
                index
            }
        };
        &self.open[index].lane
    }

    /// A ward ends. Answers whose it was.
    pub(crate) fn close(&mut self, id: LaneId) -> Vec<Whose> {
        let index = self.open.iter().position(|ward| ward.id == id);
        index.map_or_else(Vec::new, |index| self.open.swap_remove(index).owners)
    }

    /// What reaches all of them.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &T> {
        self.open.iter().map(|ward| &ward.lane)
    }
}

/// How a subscription fares in wards.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stay {
    stays: u32,
    sound: u64,
}

impl Stay {
    /// It goes to a ward.
    pub(crate) fn begin(&mut self) {
        self.stays = self.stays.saturating_add(1);
        self.sound = 0;
    }

    /// Its rule was asked about so many events.
    pub(crate) fn asked(&mut self, events: usize) {
        self.sound = self.sound.saturating_add(events as u64);
    }

    /// Its rule failed, or was not tried since others had.
    pub(crate) fn failed(&mut self) {
        self.sound = 0;
    }

    /// Whether it has been sound for long enough to go back.
    pub(crate) fn is_over(self) -> bool {
        let doubled = self.stays.saturating_sub(1).min(STAYS_MAX);
        self.sound >= SOUND_EVENTS_MIN << doubled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: usize) -> Whose {
        let who = (number > 0).then(|| format!("uri:spiffe://a/{number}"));
        who.map(|who| who.parse().expect("a principal"))
    }

    #[test]
    fn each_owner_has_a_ward_and_there_are_no_more_than_may_be() {
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let mut wards = Wards::default();
        let mut of = |digest, who| *wards.of(digest, &owner(who), |id| id);
        let first: Vec<LaneId> = (0..WARDS_MAX).map(|who| of(one, who)).collect();
        let numbers: Vec<_> = first.iter().filter_map(|id| id.ward).collect();
        assert_eq!(numbers, (1..=WARDS_MAX).collect::<Vec<_>>());
        assert_eq!(of(one, 3), first[3]);
        assert_eq!(of(two, 3).ward, Some(1), "each plugin has its own");
        // The others share, evenly.
        let shared: Vec<LaneId> = (100..100 + WARDS_MAX).map(|who| of(one, who)).collect();
        assert_eq!(shared, first);
        assert_eq!(of(one, 101), first[1]);

        assert_eq!(wards.lanes().count(), WARDS_MAX + 1);
        assert_eq!(wards.close(first[4]), [owner(4), owner(104)]);
        assert_eq!(wards.close(first[4]), []);
        assert_eq!(*wards.of(one, &owner(104), |id| id), first[4]);
    }

    #[test]
    fn who_comes_again_stays_longer() {
        let mut stay = Stay::default();
        for events in [4096, 8192, 16_384] {
            stay.begin();
            stay.asked(events);
            assert!(stay.is_over());
            stay.failed();
            stay.asked(events - 1);
            assert!(!stay.is_over());
        }
        (0..100).for_each(|_| stay.begin());
        stay.asked(4096 << STAYS_MAX);
        assert!(stay.is_over());
    }
}
