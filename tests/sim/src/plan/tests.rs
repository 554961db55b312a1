//! Plans are drawn, written and read.

use super::payload::{hash, number, payload};
use super::*;

#[test]
fn a_plan_is_read_as_it_was_written() {
    for seed in 0..300 {
        let plan = Plan::of(seed);
        assert_eq!(plan, Plan::of(seed));
        assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan), "{seed}");
    }
}

#[test]
fn a_plan_from_before_there_were_sizes_is_read_with_those_of_its_seed() {
    let plan = Plan::of(7);
    let mut old = plan.clone();
    (old.sizes, old.manner) = (None, None);
    let json = old.to_json();
    let lines = json.lines().filter(|line| !line.contains("null"));
    let without: Vec<&str> = lines.collect();
    assert!(without.len() < json.lines().count());
    assert_eq!(Plan::from_json(&without.join("\n")), Ok(plan));
}

#[test]
fn what_a_plan_names_is_in_it() {
    let plan = Plan::of(3);
    let json = plan.to_json();
    for (from, to, expected) in [
        (
            "\"topic\": \"t.0\"",
            "\"topic\": \"t.9\"",
            "t.9 is not in the plan",
        ),
        (
            "\"subscription\": \"s0-0\"",
            "\"subscription\": \"x\"",
            "x is not in the plan",
        ),
    ] {
        assert!(json.contains(from), "{json}");
        let changed = json.replace(from, to);
        assert_eq!(Plan::from_json(&changed), Err(expected.to_owned()));
    }
    let mut strange = plan;
    strange.faults = vec![Timed {
        after_ms: 0,
        does: Fault::Cut {
            actor: "nobody".to_owned(),
        },
    }];
    let read = Plan::from_json(&strange.to_json());
    assert_eq!(read, Err("nobody is not in the plan".to_owned()));
    strange.faults.clear();
    strange.operations = vec![Timed {
        after_ms: 0,
        does: Operation::DeleteSubscription {
            subscription: "none".to_owned(),
        },
    }];
    let read = Plan::from_json(&strange.to_json());
    assert_eq!(read, Err("none is not in the plan".to_owned()));
    let misspelt = Plan::from_json(&json.replace("lasts_ms", "lasts"));
    assert!(misspelt.is_err_and(|why| why.contains("lasts")));
}

#[test]
fn plans_differ_in_what_they_have() {
    let plans: Vec<Plan> = (0..200).map(Plan::of).collect();
    let some = |is: &dyn Fn(&Plan) -> bool| {
        let many = plans.iter().filter(|plan| is(plan)).count();
        (10..190).contains(&many)
    };
    assert!(some(&|plan| plan.crashes.is_empty()));
    assert!(some(&|plan| plan.faults.is_empty()));
    assert!(some(&|plan| plan.operations.is_empty()));
    let pauses = |does: &Timed<Operation>| matches!(does.does, Operation::Pause { .. });
    assert!(some(&|plan| plan.operations.iter().any(pauses)));
    assert!(some(&|plan| plan.topics.len() > 1));
    assert!(some(&|plan| plan.topics.iter().all(|topic| topic.is_sync)));
    let power = |crash: &Crash| matches!(crash.how, How::Power(_));
    assert!(some(&|plan| plan.crashes.iter().any(power)));
    let is_far = |actor: &Actor| actor.link.shape().delay >= std::time::Duration::from_millis(80);
    assert!(some(&|plan| plan.actors.iter().any(is_far)));
    let dies = |actor: &Actor| match &actor.role {
        Role::Publisher(does) => does.iter().any(|timed| timed.does == Publishing::Die),
        Role::Consumer(consuming) => consuming.dies_after > 0,
    };
    assert!(some(&|plan| plan.actors.iter().any(dies)));
    assert!(some(&|plan| plan.routes.is_empty()));
    let gives_up = |of: &Subscription| of.attempts.max > 0;
    assert!(some(&|plan| plan.subscriptions.iter().any(gives_up)));
    let is_poison = |actor: &Actor| match &actor.role {
        Role::Publisher(_) => false,
        Role::Consumer(consuming) => consuming.poison.is_some(),
    };
    assert!(some(&|plan| plan.actors.iter().any(is_poison)));
}

#[test]
fn what_an_event_holds_follows_from_its_number_and_length() {
    for (n, bytes) in [(0, 0), (7, 2), (12_345, 100), (1, 20_000)] {
        let held = payload(n, bytes);
        assert_eq!(number(&held), Some(n));
        assert_eq!(held.len() as u64, bytes.max(n.to_string().len() as u64 + 1));
        assert_eq!(hash(&held), hash(&payload(n, bytes)));
        let mut changed = held.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert_ne!(hash(&changed), hash(&held));
        assert_ne!(hash(&held[..held.len() - 1]), hash(&held));
    }
    assert_ne!(payload(1, 100), payload(2, 100));
    assert_eq!(number(b"x y"), None);
    assert_eq!(number(b"12"), None);
}
