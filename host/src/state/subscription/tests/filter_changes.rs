//! Filters that change: each event is judged by the chain that holds at its position, whenever the change comes.

use proptest::prelude::*;

use super::*;

#[test]
fn changed_filters_begin_exactly_at_their_fence() {
    let mut state = SubscriptionState::new(policy(), Position(1), 2);
    state.attach(C);
    state.stage_result(0, Position(3), &[Position(2), Position(3)]);
    assert!(state.change_filters(1, Position(5), 1));
    assert_eq!(
        (state.pending_changes(), state.judges_until()),
        (1, Position(4))
    );

    // The lanes of the old filters do not know of it.
    state.exclude(0, Position(4), "trap");
    state.exclude(0, Position(5), "beyond the fence");
    state.stage_result(0, Position(9), &[Position(6)]);
    assert_eq!(state.stage_through(0), Position(4));
    assert_eq!(state.revision(), 0, "the other filter has not looked");
    assert!(state.stage_result(1, Position(9), &[Position(2), Position(4), Position(7)]));
    assert_eq!((state.revision(), state.pending_changes()), (1, 0));
    assert_eq!(state.evaluated_through(), Position(4));
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 1)]);
    assert_eq!(state.take_given_up(9).len(), 1, "the event at 4");

    assert!(state.stage_result(0, Position(9), &[Position(5), Position(7)]));
    assert_eq!(lease(&mut state, C, 9, 0), [(5, 1), (7, 1)]);
    assert!(!state.has_given_up());
}

#[test]
fn filters_come_and_go() {
    let mut state = with_events(3);
    state.change_filters(1, Position(6), 1);
    assert!(state.observe(Position(9), [run(4, 9)]));
    assert_eq!(
        (state.depth(), state.revision()),
        (5, 1),
        "4 and 5, and then it was asked no more"
    );
    assert!(!state.observe(Position(20), [run(6, 20)]));
    state.change_filters(2, Position(8), 0);
    assert!(state.stage_result(0, Position(30), &[Position(7), Position(8)]));
    assert_eq!((state.depth(), state.stages()), (6, 0));
    assert!(state.observe(Position(9), [run(8, 9)]));
    assert_eq!(state.depth(), 8);
}

#[test]
fn a_change_that_is_overtaken_never_judges() {
    let mut state = SubscriptionState::new(policy(), Position(1), 1);
    state.stage_result(0, Position(4), &[]);
    state.change_filters(1, Position(20), 1);
    state.change_filters(2, Position(20), 2);
    assert_eq!(
        state.pending_changes(),
        1,
        "two at one position: the second"
    );
    assert_eq!(state.freeze(3), Position(5));
    assert!(
        !state.stage_result(0, Position(30), &[Position(5)]),
        "frozen"
    );
    state.change_filters(3, Position(5), 0);
    assert_eq!((state.revision(), state.pending_changes()), (3, 0));
    assert!(state.observe(Position(30), [run(1, 30)]));
    assert_eq!(state.depth(), 26);
}

#[test]
fn a_change_that_does_not_come_leaves_everything_as_it_was() {
    let mut state = SubscriptionState::new(policy(), Position(1), 1);
    state.stage_result(0, Position(4), &[]);
    assert_eq!(state.freeze(1), Position(5));
    assert!(!state.stage_result(0, Position(30), &[Position(5)]));
    assert!(!state.thaw(2), "that is another change");
    assert!(!state.stage_result(0, Position(30), &[Position(5)]));
    assert!(state.thaw(1) && !state.thaw(1));
    assert_eq!(state.judges_until(), Position(u64::MAX));
    assert_eq!(state.stage_through(0), Position(4), "to be judged again");
    assert!(state.stage_result(0, Position(30), &[Position(5)]));
    assert_eq!((state.depth(), state.revision()), (1, 0));
}

/// What happens to a subscription whose filters change.
#[derive(Clone, Debug)]
enum ChangeOp {
    Commit(u64),
    /// To a chain with this many filters, fenced behind everything that is committed.
    Change(usize),
    /// The same, fenced at the first undecided event.
    ChangeHere(usize),
    /// One that never reaches the journal: the broker ends before.
    FreezeOnly,
    Look(usize, u64),
    Snapshot,
    /// From the last snapshot, with the changes read from the journal.
    Restart,
}

fn change_op() -> impl Strategy<Value = ChangeOp> {
    prop_oneof![
        3 => (1u64..20).prop_map(ChangeOp::Commit),
        2 => (0usize..3).prop_map(ChangeOp::Change),
        1 => (0usize..3).prop_map(ChangeOp::ChangeHere),
        1 => Just(ChangeOp::FreezeOnly),
        8 => (0usize..3, 1u64..30).prop_map(|(stage, ahead)| ChangeOp::Look(stage, ahead)),
        1 => Just(ChangeOp::Snapshot),
        1 => Just(ChangeOp::Restart),
    ]
}

struct Changing {
    state: SubscriptionState,
    /// First position that is not committed.
    end: u64,
    /// As the journal has them: revision, fence, filters.
    changes: Vec<(u32, u64, usize)>,
    snapshot: Vec<u8>,
    first_stages: usize,
}

impl Changing {
    fn new(stages: usize) -> Self {
        let state = SubscriptionState::new(policy(), Position(1), stages);
        Self {
            snapshot: state.snapshot(0),
            state,
            end: 1,
            changes: Vec::new(),
            first_stages: stages,
        }
    }

    fn verdict(revision: u32, stage: usize, position: u64) -> bool {
        let mixed =
            (u64::from(revision) * 7 + stage as u64 * 3 + 1).wrapping_mul(position * 2_654_435_761);
        mixed >> 7 & 3 != 0
    }

    fn wanted(&self, position: u64) -> bool {
        let mut chains = vec![(0, 1, self.first_stages)];
        for change in &self.changes {
            chains.retain(|chain| chain.1 < change.1);
            chains.push(*change);
        }
        let (revision, _, stages) = *chains
            .iter()
            .rfind(|chain| chain.1 <= position)
            .expect("the first begins at 1");
        (0..stages).all(|stage| Self::verdict(revision, stage, position))
    }

    fn apply(&mut self, op: ChangeOp) {
        let revision = self.changes.len() as u32 + 1;
        match op {
            ChangeOp::Commit(count) => self.end += count,
            ChangeOp::Change(stages) => self.change(revision, self.end, stages),
            ChangeOp::ChangeHere(stages) => {
                let fence = self.state.freeze(revision);
                // What a lane finds out between the freeze and the change counts for nothing.
                self.look(0, 30);
                self.change(revision, fence.0, stages);
            }
            ChangeOp::FreezeOnly => {
                self.state.freeze(revision);
                self.look(0, 30);
                self.restart();
            }
            ChangeOp::Look(stage, ahead) => self.look(stage, ahead),
            ChangeOp::Snapshot => self.snapshot = self.state.snapshot(0),
            ChangeOp::Restart => self.restart(),
        }
    }

    fn change(&mut self, revision: u32, fence: u64, stages: usize) {
        self.changes.push((revision, fence, stages));
        assert!(self.state.change_filters(revision, Position(fence), stages));
        assert!(
            !self.state.change_filters(revision, Position(fence + 5), 1),
            "known"
        );
    }

    fn restart(&mut self) {
        self.state =
            SubscriptionState::restore(&self.snapshot, policy(), |_| None).expect("just written");
        for (revision, fence, stages) in &self.changes {
            self.state
                .change_filters(*revision, Position(*fence), *stages);
        }
    }

    // As a lane does that does not know of fences.
    fn look(&mut self, stage: usize, ahead: u64) {
        let revision = self.state.revision();
        let filtered = self.state.stages() > 0;
        let after = match filtered {
            true => self.state.stage_through(stage).0,
            false => self.state.evaluated_through().0,
        };
        let through = (after + ahead).min(self.end - 1);
        if !filtered {
            let all = (after < through).then(|| run(after + 1, through));
            self.state.observe(Position(through), all);
            return;
        }
        let matched: Vec<Position> = (after + 1..=through)
            .filter(|position| Self::verdict(revision, stage, *position))
            .map(Position)
            .collect();
        self.state.stage_result(stage, Position(through), &matched);
    }

    fn check_so_far(&self) {
        let restored = SubscriptionState::restore(&self.state.snapshot(0), policy(), |_| None);
        restored.expect("whatever it can be in is a state to start from");
        let decided = self.state.evaluated_through().0;
        let pending: Vec<u64> = self
            .state
            .pending
            .ranges(0, u64::MAX)
            .flat_map(|(first, last)| first..=last)
            .collect();
        let wanted: Vec<u64> = (1..=decided)
            .filter(|position| self.wanted(*position))
            .collect();
        assert_eq!(pending, wanted, "{:?}", self.changes);
        assert!(decided < self.end);
    }

    fn finish(mut self) {
        while self.state.evaluated_through().0 + 1 < self.end {
            let before = self.state.snapshot(0);
            (0..3).for_each(|stage| self.look(stage, u64::MAX >> 1));
            assert_ne!(self.state.snapshot(0), before, "it stands still");
        }
        assert_eq!(self.state.pending_changes(), 0);
        self.check_so_far();
        self.restart();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn each_event_is_judged_by_the_chain_of_its_position(
        stages in 0usize..3,
        ops in prop::collection::vec(change_op(), 1..80),
    ) {
        let mut changing = Changing::new(stages);
        for op in ops {
            changing.apply(op);
            changing.check_so_far();
        }
        changing.finish();
    }
}
