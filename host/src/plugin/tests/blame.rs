//! Who is to blame when a plugin fails: only what a fresh instance failed on alone, and nobody pays for others.

use std::collections::BTreeMap;

use super::*;

// Pauses that are over at once: what waits is tried again without end.
fn tireless() -> Rig {
    Rig::new(|options| {
        options.pause_min = Duration::ZERO;
        options.pause_max = Duration::ZERO;
    })
}

// What becomes of every pair, as a lane finds it out: who was not tried on an event is asked again from there on.
pub(super) async fn decide(
    group: &mut FilterGroup,
    events: &[InputEvent],
    rules: &[RuleKey],
) -> Evaluation {
    let mut decided = Evaluation::default();
    let mut cursors = BTreeMap::from([(0, rules.to_vec())]);
    for _ in 0..10_000 {
        let Some((cursor, rules)) = cursors.pop_first() else {
            return decided;
        };
        // Not past those ahead, so that they meet.
        let stop = cursors.keys().next().map_or(events.len(), |next| *next);
        let evaluation = group.evaluate(&events[cursor..stop], &rules).await;
        let shift = |event: u32| u32::try_from(cursor).expect("few events") + event;
        let matches = evaluation.matches.into_iter();
        decided
            .matches
            .extend(matches.map(|(event, rule)| (shift(event), rule)));
        decided.failures.extend(
            evaluation
                .failures
                .into_iter()
                .map(|failure| FilterFailure {
                    event: shift(failure.event),
                    ..failure
                }),
        );
        let mut next: BTreeMap<RuleKey, usize> = rules.iter().map(|rule| (*rule, stop)).collect();
        for undecided in evaluation.undecided {
            next.insert(undecided.rule, cursor + undecided.event as usize);
        }
        for (rule, next) in next {
            if next < events.len() {
                cursors.entry(next).or_default().push(rule);
            }
        }
    }
    panic!("no end of it: {cursors:?}");
}

#[tokio::test]
async fn one_bad_rule_of_a_thousand_fails_alone() {
    for (bad, word) in [
        ("l", "longer"),
        ("t", "unreachable"),
        ("m", "memory"),
        ("h", "wasi:http/outgoing-handler#handle"),
    ] {
        let rig = tireless();
        let mut configs = vec!["a"; 1000];
        configs[617] = bad;
        let mut group = rig.group(&configs).await;
        let found = decide(&mut group, &events(4), &keys(1000)).await;
        let failures = &found.failures;
        assert!(failures.iter().all(|failure| failure.rule.0 == 617));
        assert_eq!(of_rule(&found, 617), (vec![], vec![0, 1, 2, 3]), "{bad}");
        assert!(failures[0].reason.contains(word), "{}", failures[0].reason);
        assert_eq!(found.matches.len(), 999 * 4, "{bad}");

        // From now on the others share one call again.
        let before = rig.stats();
        let others: Vec<RuleKey> = keys(1000).into_iter().filter(|key| key.0 != 617).collect();
        let evaluation = group.evaluate(&events(4), &others).await;
        let after = rig.stats();
        assert_eq!(evaluation.matches.len(), 999 * 4, "{bad}");
        assert_eq!(
            (after.calls - before.calls, after.quarantined),
            (1, 1),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_rule_that_fails_on_one_event_loses_only_that() {
    let rig = Rig::new(|_| {});
    let mut configs = vec!["a"; 64];
    configs[40] = "t77";
    configs[41] = "t78";
    let mut group = rig.group(&configs).await;
    let evaluation = group.evaluate(&events(100), &keys(64)).await;
    assert_eq!(of_rule(&evaluation, 40), (without(100, 77), vec![77]));
    assert_eq!(of_rule(&evaluation, 41), (without(100, 78), vec![78]));
    assert_eq!(evaluation.failures.len(), 2);
    assert_eq!(evaluation.matches.len(), 64 * 100 - 2);
}

#[tokio::test]
async fn an_event_that_fails_with_every_rule_is_tried_with_each_and_no_rule_is_moved() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["p33"; 512]).await;
    let evaluation = group.evaluate(&events(50), &keys(512)).await;
    let failures = &evaluation.failures;
    assert!(failures.iter().all(|failure| failure.event == 33));
    assert_eq!(failures.len(), 512);
    assert_eq!(evaluation.matches.len(), 512 * 49);
    let stats = rig.stats();
    assert_eq!(stats.quarantined, 0);
    assert!(stats.traps >= 512, "each pair by itself: {}", stats.traps);
}

#[tokio::test]
async fn a_rule_that_spoils_the_instance_for_others_is_guilty_and_they_are_not() {
    let rig = Rig::new(|_| {});
    let mut configs = vec!["a"; 512];
    configs[3] = "p33";
    let mut group = rig.group(&configs).await;
    let evaluation = group.evaluate(&events(50), &keys(512)).await;
    assert_eq!(of_rule(&evaluation, 3), (without(50, 33), vec![33]));
    assert_eq!(evaluation.failures.len(), 1);
    assert_eq!(evaluation.matches.len(), 512 * 50 - 1);
}

#[tokio::test]
async fn a_sound_rule_among_seven_that_always_fail_gets_every_event() {
    for bad in ["t", "u", "l"] {
        let rig = tireless();
        let mut group = rig.group(&[bad, bad, bad, bad, "a", bad, bad, bad]).await;
        let count = if bad == "l" { 5 } else { 300 };
        let found = decide(&mut group, &events(count.into()), &keys(8)).await;
        let all: Vec<u32> = (0..count).collect();
        assert_eq!(of_rule(&found, 4), (all.clone(), vec![]), "{bad}");
        for rule in [0, 1, 2, 3, 5, 6, 7] {
            assert_eq!(of_rule(&found, rule), (vec![], all.clone()), "{bad}");
        }
    }
}

// Of 400 events every second is poison to every rule.
fn good_and_poison() -> Vec<InputEvent> {
    let mut events = events(400);
    for event in events.iter_mut().skip(1).step_by(2) {
        event.sequence = Sequence(1_000);
    }
    events
}

#[tokio::test]
async fn good_events_between_poison_pass() {
    for rules in [1, 2, 8, 40] {
        let rig = tireless();
        let mut group = rig.group(&vec!["t1000"; rules]).await;
        let rules = keys(rules as u64);
        let found = decide(&mut group, &good_and_poison(), &rules).await;
        let is_good = |event: &u32| event.is_multiple_of(2);
        for rule in rules {
            let (wanted, failed) = of_rule(&found, rule.0);
            assert!(wanted.len() == 200 && wanted.iter().all(is_good));
            assert!(failed.len() == 200 && !failed.iter().any(is_good));
        }
    }
}

#[tokio::test]
async fn what_was_not_tried_waits_and_is_not_judged() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["t", "a"]).await;
    let evaluation = group.evaluate(&events(900), &keys(2)).await;
    let [undecided] = evaluation.undecided[..] else {
        panic!("one rule fails too often: {:?}", evaluation.undecided);
    };
    let tried = undecided.event;
    assert_eq!(undecided.rule, RuleKey(0));
    assert!(!undecided.after.is_zero() && tried > 0 && tried < 900);
    let failed: Vec<u32> = evaluation.failures.iter().map(|f| f.event).collect();
    assert_eq!(failed, (0..tried).collect::<Vec<_>>());
    assert_eq!(evaluation.matches.len(), 900, "of the other");
    assert_eq!(rig.stats().paused, 1);

    // While it pauses it costs nothing, and its events wait.
    let before = rig.stats();
    let evaluation = group.evaluate(&events(10), &keys(1)).await;
    assert_eq!(evaluation.undecided[0].event, 0);
    assert_eq!(
        (evaluation.matches.len(), evaluation.failures.len()),
        (0, 0)
    );
    assert_eq!(rig.stats().calls, before.calls);
    let evaluation = group.evaluate(&events(10), &keys(2)[1..]).await;
    assert_eq!(evaluation.matches.len(), 10, "the other goes on");
}

#[tokio::test]
async fn a_plugin_that_fails_with_all_its_rules_is_tried_within_bounds() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["t"; 200]).await;
    let mut pairs = 0;
    let mut waiting = 0;
    for _ in 0..50 {
        let evaluation = group.evaluate(&events(300), &keys(200)).await;
        assert_eq!(evaluation.matches, []);
        pairs += evaluation.failures.len();
        let later = |undecided: &&Undecided| !undecided.after.is_zero();
        waiting = evaluation.undecided.iter().filter(later).count();
        assert_eq!(evaluation.undecided.len(), 200);
    }
    assert!(pairs >= 200, "some are found");
    assert_eq!(waiting, 200, "then all wait");
    assert!(rig.stats().traps < 10_000, "{}", rig.stats().traps);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_faults() {
    for bad in ["u", "v", "d", "b"] {
        let rig = Rig::new(|_| {});
        let mut group = rig.group(&["a", bad]).await;
        let evaluation = group.evaluate(&events(2), &keys(2)).await;
        assert_eq!(of_rule(&evaluation, 0), (vec![0, 1], vec![]), "{bad}");
        assert_eq!(of_rule(&evaluation, 1), (vec![], vec![0, 1]), "{bad}");
    }
}

#[tokio::test]
async fn an_instance_that_wears_out_is_no_events_fault() {
    for configs in [&["g"][..], &["a", "g"]] {
        let rig = Rig::new(|_| {});
        let mut group = rig.group(configs).await;
        let rules = keys(configs.len() as u64);
        for _ in 0..3 {
            let evaluation = group.evaluate(&events(100), &rules).await;
            assert_eq!(
                (&evaluation.failures[..], &evaluation.undecided[..]),
                (&[][..], &[][..])
            );
            assert_eq!(evaluation.matches.len(), 100 * configs.len());
        }
        assert!(rig.stats().traps > 0, "it does wear out");
        assert_eq!(rig.stats().quarantined, 0);
    }
}

#[tokio::test]
async fn a_rule_that_finds_no_room_beside_others_works_elsewhere() {
    // An instance has room for three of these.
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["x"; 8]).await;
    let found = decide(&mut group, &events(20), &keys(8)).await;
    assert_eq!(found.failures, []);
    assert_eq!(found.matches.len(), 8 * 20);

    // Its number clashes with another's, but not in an instance of its own.
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["a", "i", "a"]).await;
    let found = decide(&mut group, &events(20), &keys(3)).await;
    assert_eq!(found.failures, []);
    assert_eq!(found.matches.len(), 3 * 20);
}

#[tokio::test]
async fn without_an_instance_nothing_is_judged() {
    let rig = Rig::new(|options| options.instances_max = 2);
    let mut first = rig.group(&["a"]).await;
    let mut second = rig.group(&["t1", "a"]).await;
    first.evaluate(&events(3), &keys(1)).await;
    // No place is left for an instance of the rule that fails, so the two of the group take turns.
    let found = decide(&mut second, &events(30), &keys(2)).await;
    assert_eq!(of_rule(&found, 0), (without(30, 1), vec![1]));
    assert_eq!(of_rule(&found, 1), ((0..30).collect(), vec![]));
    first.evaluate(&events(3), &keys(1)).await;
    second.evaluate(&events(3), &keys(2)[1..]).await;
    let mut third = rig
        .plugins
        .filter_group(&rig.stats().digest, "test@1")
        .expect("a filter");
    third.add_later(RuleKey(0), "t", "s").await;
    let evaluation = third.evaluate(&events(3), &keys(1)).await;
    assert_eq!(
        (&evaluation.failures[..], evaluation.undecided.len()),
        (&[][..], 1)
    );
    assert!(!evaluation.undecided[0].after.is_zero());
    drop((first, second));
    let evaluation = third.evaluate(&events(3), &keys(1)).await;
    assert_eq!(of_rule(&evaluation, 0), (vec![], vec![0, 1, 2]));
}

#[tokio::test]
async fn what_fails_in_a_replica_is_blamed_on_the_guilty() {
    for (first, second) in [(3, 4), (3, 77), (77, 3), (77, 78)] {
        let rig = sharing();
        let mut configs = vec!["a"; 64];
        let (trap, nonsense) = (format!("t{first}"), format!("u{second}"));
        configs[40] = &trap;
        configs[41] = &nonsense;
        let mut group = rig.group(&configs).await;
        for _ in 0..2 {
            let evaluation = group.evaluate(&events(100), &keys(64)).await;
            for (rule, event) in [(40, first), (41, second)] {
                let expected = (without(100, event), vec![event]);
                assert_eq!(of_rule(&evaluation, rule), expected, "{first} {second}");
            }
            assert_eq!(evaluation.failures.len(), 2);
            assert_eq!(evaluation.matches.len(), 64 * 100 - 2);
        }
        assert_eq!(rig.stats().quarantined, 2);
    }
}

#[tokio::test]
async fn a_transform_that_fails_on_one_event_loses_only_that() {
    for config in ["t77", "s77"] {
        let rig = Rig::new(|_| {});
        let transformer = rig.transformer(config).await.expect("a transform");
        let outcomes = transformer.apply(&events(100)).await;
        let failed: Vec<usize> = (0..100).filter(|at| outcomes[*at].is_err()).collect();
        assert_eq!(failed, [77], "{config}");
        assert!(
            matches!(outcomes[77], Err(TransformFailure::Fault(_))),
            "{config}"
        );
        assert_eq!(
            transformer.apply(&events(10)).await,
            vec![Ok(Outcome::Keep); 10]
        );
    }
}

#[tokio::test]
async fn a_transform_that_loops_on_one_event_loses_only_that() {
    let rig = tireless();
    let transformer = rig.transformer("l77").await.expect("a transform");
    let outcomes = transformer.apply(&events(100)).await;
    let failed: Vec<usize> = (0..100).filter(|at| outcomes[*at].is_err()).collect();
    assert_eq!(failed, [77]);
}

#[tokio::test]
async fn a_transform_that_only_fails_pauses_and_its_events_wait_untried() {
    let rig = Rig::new(|_| {});
    let transformer = rig.transformer("t").await.expect("a transform");
    let first = transformer.apply(&events(1000)).await;
    let failed = |outcome: &Result<_, _>| matches!(outcome, Err(TransformFailure::Fault(_)));
    let tried = first.iter().filter(|outcome| failed(outcome)).count();
    assert!(tried > 0 && tried < 1000);
    assert!(first[..tried].iter().all(failed), "in order");
    let untried = |outcome: &Result<_, _>| matches!(outcome, Err(TransformFailure::Untried { after, .. }) if !after.is_zero());
    assert!(first[tried..].iter().all(untried));
    let traps = rig.stats().traps;
    let second = transformer.apply(&events(100)).await;
    assert!(second.iter().all(untried));
    assert_eq!((rig.stats().paused, rig.stats().traps), (1, traps));
}

#[tokio::test]
async fn a_transforms_instance_that_wears_out_is_no_events_fault() {
    let rig = Rig::new(|_| {});
    let transformer = rig.transformer("g").await.expect("a transform");
    for _ in 0..3 {
        let outcomes = transformer.apply(&events(100)).await;
        assert_eq!(outcomes, vec![Ok(Outcome::Keep); 100]);
    }
    assert!(rig.stats().traps > 0, "it does wear out");
}

#[tokio::test]
async fn without_an_instance_a_transform_waits() {
    let rig = Rig::new(|options| options.instances_max = 1);
    let transformer = rig.transformer("t").await.expect("a transform");
    // Its one instance is gone with the first call, and the place is taken by another.
    let mut fresh = transformer.apply(&events(1)).await;
    assert!(matches!(fresh.pop(), Some(Err(TransformFailure::Fault(_)))));
    let _other = rig.group(&["a"]).await;
    let outcomes = transformer.apply(&events(1)).await;
    assert!(matches!(
        outcomes[..],
        [Err(TransformFailure::Untried { .. })]
    ));
}

#[tokio::test]
async fn transforms_that_are_seldom_asked_leave_instances_for_others() {
    let rig = Rig::new(|options| options.instances_max = 8);
    let mut transformers = Vec::new();
    for _ in 0..8 {
        transformers.push(rig.transformer("k").await.expect("a transform"));
    }
    let filter = rig.load(FILTER).await.expect("the test filter");
    let mut group = rig
        .plugins
        .filter_group(&filter.digest, "test@1")
        .expect("a filter");
    let added = group.add(RuleKey(0), "a", "s").await;
    assert_eq!(added, Ok(()), "they keep none that others need");
    // One that was at work gives way, so that one that has none finds one.
    for transformer in [&transformers[0], &transformers[7], &transformers[6]] {
        let outcomes = transformer.apply(&events(1)).await;
        assert_eq!(outcomes, vec![Ok(Outcome::Keep)]);
    }
}

impl Rig {
    // A group of many who do not know of each other.
    async fn common_group(&self, configs: &[&str]) -> FilterGroup {
        let plugin = self.load(FILTER).await.expect("the test filter");
        let group = self.plugins.common_filter_group(&plugin.digest, "test@1");
        let mut group = group.expect("a filter");
        for (key, config) in (0..).zip(configs) {
            let added = group.add(RuleKey(key), config, "s").await;
            added.expect("a configuration");
        }
        group
    }
}

#[tokio::test]
async fn among_many_a_failure_costs_two_calls_and_whoever_was_not_asked_nothing() {
    for bad in ["t1", "l1", "m1", "u1", "p1"] {
        let rig = Rig::new(|_| {});
        let mut configs = vec![bad; 64];
        configs[0] = "a";
        let mut group = rig.common_group(&configs).await;
        let evaluation = group.evaluate(&events(3), &keys(64)[1..]).await;
        assert_eq!(
            (&evaluation.matches[..], &evaluation.failures[..]),
            (&[][..], &[][..]),
            "{bad}: nobody is judged by that"
        );
        assert_eq!(evaluation.undecided.len(), 63);
        for undecided in &evaluation.undecided {
            let Undecided {
                event,
                after,
                apart,
                ..
            } = *undecided;
            assert_eq!((event, after, apart), (0, Duration::ZERO, true));
        }
        let stats = rig.stats();
        assert_eq!((stats.calls, stats.quarantined, stats.paused), (2, 0, 0));

        let evaluation = group.evaluate(&events(3), &keys(1)).await;
        assert_eq!(of_rule(&evaluation, 0), (vec![0, 1, 2], vec![]), "{bad}");
        assert_eq!(rig.stats().calls, 3);
    }
}

#[tokio::test]
async fn among_many_what_went_well_before_a_failure_counts() {
    let rig = Rig::new(|_| {});
    let mut group = rig.common_group(&["t1500"]).await;
    // A call has 1,024 events.
    let evaluation = group.evaluate(&events(2000), &keys(1)).await;
    assert_eq!(evaluation.matches.len(), CALL_EVENTS_MAX);
    let undecided = evaluation.undecided[0];
    assert_eq!((undecided.event, undecided.apart), (1024, true));
}

#[tokio::test]
async fn among_many_a_worn_out_or_full_instance_sends_nobody_away_but_whom_it_has_no_room_for() {
    let rig = Rig::new(|_| {});
    let mut group = rig.common_group(&["a", "g"]).await;
    // An instance has room for fifteen of these.
    for _ in 0..3 {
        let evaluation = group.evaluate(&events(10), &keys(2)).await;
        assert_eq!(evaluation.undecided, []);
        assert_eq!(evaluation.matches.len(), 20);
    }
    assert!(rig.stats().traps > 0, "it does wear out");

    // An instance has room for three of these.
    let rig = Rig::new(|_| {});
    let mut group = rig.common_group(&["x"; 8]).await;
    let mut here = keys(8);
    for _ in 0..8 {
        let evaluation = group.evaluate(&events(20), &here).await;
        assert_eq!(evaluation.failures, []);
        let apart = evaluation.undecided.iter();
        let apart = apart.filter(|undecided| undecided.apart);
        for gone in apart.map(|undecided| undecided.rule) {
            group.remove(gone).await;
            here.retain(|key| *key != gone);
        }
    }
    let evaluation = group.evaluate(&events(20), &here).await;
    assert_eq!(evaluation.undecided, []);
    assert!(here.len() >= 3, "{here:?}");
    assert_eq!(evaluation.matches.len(), 20 * here.len());
}
