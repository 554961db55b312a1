//! Clocks and random numbers that a guest asks for when others do not: as it is made, and while it allocates.

use super::*;

// As runtimes with a collector do, it looks at clocks and random numbers while it is made and while it allocates.
const CURIOUS_START: &str = r#"
    (func $begin
      (if (i64.eqz (call $now)) (then unreachable))
      (if (i64.ge_s (i64.sub (call $now) (call $now)) (i64.const 0)) (then unreachable)))
    (start $begin)
    (func $alloc (export "cabi_realloc")"#;
const CURIOUS_ALLOCATION: &str = r#"
      (if (i64.eqz (call $now)) (then unreachable))
      (if (i64.ge_s (i64.sub (call $now) (call $now)) (i64.const 0)) (then unreachable))
      (if (i64.eq (call $random) (call $random)) (then unreachable))
      (local.set $at (i32.and (i32.add (global.get $next)"#;

#[tokio::test]
async fn clocks_work_from_the_start_and_while_a_guest_allocates() {
    let curious = FILTER
        .replacen(
            "(func $alloc (export \"cabi_realloc\")",
            CURIOUS_START.trim(),
            1,
        )
        .replacen(
            "(local.set $at (i32.and (i32.add (global.get $next)",
            CURIOUS_ALLOCATION.trim(),
            1,
        );
    assert!(
        curious.contains("(start $begin)") && curious.contains("(call $random) (call $random)")
    );
    let rig = Rig::new(|_| {});
    let plugin = rig.load(&curious).await.expect("it is a filter");
    let mut group = rig
        .plugins
        .filter_group(&plugin.digest, "curious@1")
        .expect("it is a filter");
    for (key, config) in ["a", "r", "w"].into_iter().enumerate() {
        let added = group.add(RuleKey(key as u64), config, "s").await;
        added.expect("it allocates for the text");
    }
    let first = group.evaluate(&events(64), &keys(3)).await;
    assert_eq!(first, group.evaluate(&events(64), &keys(3)).await);
    assert_eq!(of_rule(&first, 0).0.len(), 64);
    assert!(
        (1..64).contains(&of_rule(&first, 1).0.len()),
        "the usual numbers"
    );
    assert_eq!(of_rule(&first, 2).0.len(), 64);
}
