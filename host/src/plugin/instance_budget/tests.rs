//! Who gets what, without a guest.

use super::*;

const MIB: usize = 1 << 20;

fn budget() -> Arc<InstanceBudget> {
    InstanceBudget::new(Bounds {
        instances_max: 16,
        owner_instances_max: 8,
        memory_bytes_max: 800 * MIB,
        owner_memory_bytes_max: 400 * MIB,
    })
}

fn account(budget: &Arc<InstanceBudget>, name: &str, owner: &str) -> Account {
    let digest = Digest([0; 32]);
    let owner: Owner = owner.parse().expect("an owner");
    budget.belongs(name, digest, Some(&owner));
    budget.account(name, &digest)
}

fn places(account: &Account) -> Vec<Place> {
    std::iter::from_fn(|| account.place(1, Tenure::Lasting).ok()).collect()
}

fn limits(budget: &InstanceBudget) -> Vec<PluginLimit> {
    let reached = budget.reached().into_iter();
    reached.map(|reached| reached.limit).collect()
}

#[test]
fn an_owner_has_a_share_and_everybody_a_first_instance() {
    let budget = budget();
    let [a, b] = ["a", "b"].map(|name| account(&budget, name, "cn:team"));
    let (first, second) = (places(&a), places(&b));
    assert_eq!((first.len(), second.len()), (8, 0), "one owner, two names");
    let owner: Owner = "cn:team".parse().expect("an owner");
    let share = PluginLimit::OwnerInstances(Some(owner));
    assert_eq!(limits(&budget), std::slice::from_ref(&share));
    let why = &budget.reached()[0].why;
    assert!(
        why.contains("cn:team holds 8 instances") && why.contains("`a`"),
        "{why}"
    );

    let rich = places(&account(&budget, "c", "cn:rich"));
    assert_eq!(rich.len(), 6, "but for the reserve");
    let poor = account(&budget, "d", "cn:poor");
    let held = places(&poor);
    assert_eq!(held.len(), 1, "of the reserve");
    assert!(poor.place(1, Tenure::Passing).is_ok(), "for a moment");
    let last = places(&account(&budget, "e", "cn:last"));
    assert_eq!(last.len(), 1);
    assert_eq!(places(&account(&budget, "f", "cn:late")).len(), 0);
    assert!(limits(&budget).contains(&PluginLimit::Instances));
    drop((first, second, rich, held, last));
    assert_eq!(budget.holders(), []);
    assert_eq!(places(&a).len(), 8);
}

#[test]
fn memory_has_shares_and_a_reserve_too() {
    let budget = budget();
    let team = account(&budget, "a", "cn:team");
    let mut memories: Vec<Memory> = (0..8).map(|_| team.memory(64 * MIB)).collect();
    let grown = memories.iter_mut().map(|memory| memory.grow(60 * MIB));
    assert_eq!(grown.filter(Result::is_ok).count(), 6);
    assert!(memories[0].grow(40 * MIB).is_ok(), "to the byte");
    assert!(memories[0].grow(1).is_err());
    let rich = account(&budget, "b", "cn:rich");
    let mut large = rich.memory(64 * MIB);
    assert!(large.grow(301 * MIB).is_err(), "the reserve");
    assert!(large.grow(300 * MIB).is_ok());
    let mut small = account(&budget, "c", "cn:poor").memory(64 * MIB);
    assert!(small.grow(64 * MIB).is_ok());
    assert!(small.grow(1).is_err());
    drop(memories);
    assert!(small.grow(1).is_ok());
    assert_eq!(budget.held_by("a"), Held::default());
}

#[test]
fn what_is_given_to_another_owner_counts_as_that_ones() {
    let budget = budget();
    let team = account(&budget, "a", "cn:team");
    let held = places(&team);
    let now: Owner = "cn:other".parse().expect("an owner");
    budget.belongs("a", Digest([0; 32]), Some(&now));
    let holders = budget.holders();
    assert_eq!(holders.len(), 1);
    assert_eq!(holders[0].owner, Some(now));
    assert_eq!(holders[0].held.instances, 8);
    assert_eq!(places(&account(&budget, "b", "cn:team")).len(), 6);
    drop(held);
    assert_eq!(budget.holders(), []);
}

#[test]
fn what_is_used_by_its_digest_is_on_its_owners_account() {
    let budget = budget();
    let team = account(&budget, "a", "cn:team");
    let digest = Digest([0; 32]);
    let same = budget.account(&digest.to_string(), &digest);
    assert_eq!(same.name, team.name);
    assert_eq!(budget.account("a@3", &digest).name, team.name);
}

#[test]
fn a_deleted_version_is_on_nobodys_account() {
    let budget = budget();
    let digest = Digest([0; 32]);
    for (name, owner) in [("a", "cn:first"), ("b", "cn:second")] {
        account(&budget, name, owner);
    }
    let other: Owner = "cn:first".parse().expect("an owner");
    budget.belongs("a", Digest([1; 32]), Some(&other));
    budget.belongs_no_more("a", &digest);
    let by_digest = budget.account(&digest.to_string(), &digest);
    assert_eq!(&*by_digest.name, "b", "`a` has other bytes by now");
}
