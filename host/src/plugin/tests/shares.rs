//! Bounds of what all plugins hold, and shares of their owners: obeyed and reached, and never anybody's fault.

use super::*;
use crate::domain::Owner;

const MIB: usize = 1 << 20;

fn owner(name: &str) -> Owner {
    name.parse().expect("an owner")
}

async fn group_of(rig: &Rig, name: &str) -> FilterGroup {
    let plugin = rig.load(FILTER).await.expect("the test filter");
    let of = owner(&format!("cn:{name}"));
    rig.plugins.belongs(name, plugin.digest, Some(&of));
    let group = rig
        .plugins
        .filter_group(&plugin.digest, &format!("{name}@1"));
    group.expect("a filter")
}

// Everything but this is somebody else's.
fn leave(rig: &Rig, bytes: usize) -> instance_budget::Memory {
    let budget = &rig.plugins.shared.budget;
    let max = budget.bounds().memory_bytes_max;
    let held: usize = rig
        .plugins
        .holders()
        .iter()
        .map(|h| h.held.memory_bytes)
        .sum();
    let digest = Digest([9; 32]);
    budget.belongs("other", digest, Some(&owner("cn:other")));
    let mut memory = budget.account("other", &digest).memory(usize::MAX);
    memory.grow(max - held - bytes).expect("there is as much");
    memory
}

#[tokio::test]
async fn rules_whose_memory_is_bounded_together_take_turns_and_none_is_blamed() {
    // Each takes 16 MiB: three in an instance, nine of them in 160 MiB.
    let rig = Rig::new(|options| {
        options.instances_memory_bytes_max = 160 * MIB;
        options.owner_memory_bytes_max = 160 * MIB;
    });
    let mut group = rig.group(&["x"; 24]).await;
    let found = blame::decide(&mut group, &events(20), &keys(24)).await;
    assert_eq!(found.failures, []);
    assert_eq!(found.matches.len(), 24 * 20);
    assert!(rig.plugins.holders()[0].held.memory_bytes <= 160 * MIB);
    drop(group);
    // The last call may still be ending on its thread.
    while !rig.plugins.holders().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_finds_no_memory_waits_and_is_told_why() {
    let rig = Rig::new(|options| options.owner_memory_bytes_max = 1024 * MIB);
    let mut group = rig.group(&["g"]).await;
    let others = leave(&rig, 3 * MIB);
    // It keeps no instance, since there is hardly any memory left.
    let transformer = rig.transformer("k").await.expect("a transform");
    // It wants 4 MiB more for each event.
    let evaluation = group.evaluate(&events(3), &keys(1)).await;
    assert_eq!(
        (&evaluation.matches[..], &evaluation.failures[..]),
        (&[][..], &[][..])
    );
    assert_eq!(evaluation.undecided.len(), 1);
    assert!(!evaluation.undecided[0].after.is_zero());
    let reached = rig.plugins.reached_limits();
    assert!(
        reached
            .iter()
            .any(|reached| reached.limit == PluginLimit::Memory)
    );
    let why = &reached[0].why;
    assert!(
        why.contains("cn:other") && why.contains("instances_memory_bytes_max"),
        "{why}"
    );
    drop(others);
    let others = leave(&rig, 0);
    let outcomes = transformer.apply(&events(2)).await;
    let untried = |outcome: &Result<_, _>| matches!(outcome, Err(TransformFailure::Untried { .. }));
    assert!(outcomes.iter().all(untried), "{outcomes:?}");
    let busy = rig.transformer("k").await.err();
    assert!(busy.is_some_and(|error| error.is_passing()));
    drop(others);
    let evaluation = group.evaluate(&events(3), &keys(1)).await;
    assert_eq!(of_rule(&evaluation, 0).0, [0, 1, 2]);
    assert_eq!(
        transformer.apply(&events(2)).await,
        vec![Ok(Outcome::Keep); 2]
    );
}

#[tokio::test]
async fn an_owner_takes_no_more_than_a_share_of_instances() {
    let rig = Rig::new(|options| {
        options.instances_max = 8;
        options.owner_instances_max = 0;
    });
    let mut groups = Vec::new();
    for number in 0..4 {
        let mut group = group_of(&rig, "team").await;
        group
            .add(RuleKey(number), "a", "s")
            .await
            .expect("of its share");
        groups.push(group);
    }
    let mut fifth = group_of(&rig, "team").await;
    let refused = fifth.add(RuleKey(0), "a", "s").await;
    let Err(ConfigureError::Busy(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        why.contains("cn:team") && why.contains("owner_instances_max"),
        "{why}"
    );
    let mut victims = group_of(&rig, "vic").await;
    victims
        .add(RuleKey(0), "a", "s")
        .await
        .expect("another's share");
    let digest = rig.stats().digest;
    let check = rig
        .plugins
        .check(&digest, PluginWorld::Filter, "a", "vic@1");
    assert_eq!(check.await, Ok(()));
    let check = rig
        .plugins
        .check(&digest, PluginWorld::Filter, "a", "team@1");
    assert!(matches!(check.await, Err(ConfigureError::Busy(_))));
    let held = |name: &str| rig.plugins.held_by(name).instances;
    assert_eq!((held("team"), held("vic")), (4, 1));
    fifth.add_later(RuleKey(0), "a", "s").await;
    groups.pop();
    let evaluation = fifth.evaluate(&events(3), &keys(1)).await;
    assert_eq!(of_rule(&evaluation, 0).0, [0, 1, 2]);
}

#[tokio::test]
async fn an_owner_takes_no_more_than_a_share_of_memory() {
    let rig = Rig::new(|options| options.instances_memory_bytes_max = 192 * MIB);
    let mut team = group_of(&rig, "team").await;
    // 64 MiB would do for an instance, but all of theirs have 96.
    for key in 0..12 {
        team.add_later(RuleKey(key), "x", "s").await;
    }
    let mut victims = group_of(&rig, "vic").await;
    for _ in 0..20 {
        let evaluation = team.evaluate(&events(5), &keys(12)).await;
        assert_eq!(evaluation.failures, []);
        assert!(rig.plugins.held_by("team").memory_bytes <= 96 * MIB);
        // Three of them fill an instance; they have that at any time.
        for key in 0..3 {
            victims
                .add(RuleKey(key), "x", "s")
                .await
                .expect("another's share");
        }
    }
}
