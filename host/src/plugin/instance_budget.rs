//! Who holds how many plugin instances and how much of their memory, and what the next one may take. There is a bound for all, a
//! share for each owner of plugins, and a reserve from which an owner who holds nothing gets a first instance. What is refused
//! is nobody's fault: it is not to be had now. Counts only; instances are made and dropped by those who hold places here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::Notify;

use super::limits::PluginOptions;
use crate::domain::{Digest, Owner};
use crate::locks::lock;

/// What a reserve is of its whole: 64 of 512 instances, 128 MiB of 1 GiB.
const RESERVE_PART: usize = 8;
/// Less than this part of a bound is hardly anything.
const SHORT_PART: usize = 8;
/// So long after the last refusal a limit still counts as reached: what takes turns is refused again and again.
const REACHED_FOR: Duration = Duration::from_secs(10);
/// Owners of whom it is remembered that they were refused. Whoever is beyond them is refused all the same.
const REACHED_MAX: usize = 256;

/// What may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Instances of all.
    pub(super) instances_max: usize,
    /// Of these, of one owner.
    pub(super) owner_instances_max: usize,
    /// Bytes of the memories and tables of all instances.
    pub(super) memory_bytes_max: usize,
    /// Of these, of one owner.
    pub(super) owner_memory_bytes_max: usize,
}

/// Instances, and bytes of their memories and tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Instances. One with several memories, or many tables, counts as several.
    pub instances: usize,
    /// Bytes that their memories and tables have grown to.
    pub memory_bytes: usize,
}

/// A bound of what plugins may hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PluginLimit {
    /// Instances of all.
    Instances,
    /// Memory of all instances.
    Memory,
    /// Instances of one owner. `None` is the broker, whose are those that come with it or belong to nobody.
    OwnerInstances(Option<Owner>),
    /// Memory of one owner's instances.
    OwnerMemory(Option<Owner>),
}

/// What one owner's plugins hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The owner; `None` is the broker.
    pub owner: Option<Owner>,
    /// What they hold.
    pub held: Held,
}

/// A limit that refused something lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedLimit {
    /// Which.
    pub limit: PluginLimit,
    /// What it is, and who holds the most, in a sentence.
    pub why: String,
}

/// Something that is not to be had now.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Exhausted(String);

/// How long an instance stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenure {
    /// It may be kept.
    Lasting,
    /// It is dropped right after it was asked, so it may have a place of the reserve.
    Passing,
}

/// The books. Cheap to share.
#[derive(Debug)]
pub(super) struct InstanceBudget {
    bounds: Bounds,
    books: Mutex<Books>,
    // Whether so much is held that some bound may be short of it, which otherwise nobody has to look up.
    may_be_short: AtomicBool,
    refused: Notify,
}

#[derive(Debug, Default)]
struct Books {
    closed: bool,
    all: Held,
    // Those that hold something.
    owners: BTreeMap<Option<Owner>, Held>,
    // Plugins, by name, that belong to somebody.
    names: BTreeMap<String, Named>,
    reached: BTreeMap<PluginLimit, Instant>,
}

#[derive(Debug, Default)]
struct Named {
    owner: Option<Owner>,
    digests: Vec<Digest>,
    held: Held,
}

impl InstanceBudget {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            books: Mutex::default(),
            may_be_short: AtomicBool::new(false),
            refused: Notify::new(),
        })
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Nothing is to be had any more.
    pub(super) fn close(&self) {
        self.books().closed = true;
    }

    /// From now on what plugins of this name hold, and have held so far, is this owner's.
    pub(super) fn belongs(&self, name: &str, digest: Digest, owner: Option<&Owner>) {
        let mut books = self.books();
        let named = books.names.entry(name.to_owned()).or_default();
        if !named.digests.contains(&digest) {
            named.digests.push(digest);
        }
        let before = std::mem::replace(&mut named.owner, owner.cloned());
        let held = named.held;
        if before.as_ref() != owner {
            books.change(&before, |sum| sum.less(held));
            books.change(&owner.cloned(), |sum| sum.more(held));
        }
    }

    /// Nothing of this name has these bytes any more. A name with none is forgotten, once nothing of it holds anything.
    pub(super) fn belongs_no_more(&self, name: &str, digest: &Digest) {
        let mut books = self.books();
        if let Some(named) = books.names.get_mut(name) {
            named.digests.retain(|known| known != digest);
        }
        books.tidy(name);
    }

    /// The account of a plugin that is used as `label`: `name`, `name@version`, or a digest.
    pub(super) fn account(self: &Arc<Self>, label: &str, digest: &Digest) -> Account {
        let name = label.split_once('@').map_or(label, |(name, _)| name);
        let mut books = self.books();
        let mut names = books.names.iter();
        let name = match books.names.contains_key(name) {
            true => name.to_owned(),
            false => names
                .find(|(_, named)| named.digests.contains(digest))
                .map_or_else(|| name.to_owned(), |(name, _)| name.clone()),
        };
        let named = books.names.entry(name.clone()).or_default();
        if !named.digests.contains(digest) {
            named.digests.push(*digest);
        }
        drop(books);
        Account {
            budget: Arc::clone(self),
            name: name.into(),
        }
    }

    /// Who holds what, the one with the most memory first.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let books = self.books();
        let mut holders: Vec<Holder> = books
            .owners
            .iter()
            .map(|(owner, held)| Holder {
                owner: owner.clone(),
                held: *held,
            })
            .collect();
        drop(books);
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held.memory_bytes));
        holders
    }

    /// What all plugins hold.
    pub(super) fn held(&self) -> Held {
        self.books().all
    }

    /// What plugins of this name hold.
    pub(super) fn held_by(&self, name: &str) -> Held {
        let books = self.books();
        let named = books.names.get(name);
        named.map_or_else(Held::default, |named| named.held)
    }

    /// Limits that refused something in the last ten seconds.
    pub(super) fn reached(&self) -> Vec<ReachedLimit> {
        let now = Instant::now();
        let mut books = self.books();
        books
            .reached
            .retain(|_, since| now.saturating_duration_since(*since) < REACHED_FOR);
        let reached = books.reached.keys().map(|limit| ReachedLimit {
            why: self.tell(&books, limit),
            limit: limit.clone(),
        });
        reached.collect()
    }

    /// Completes when something was refused since the last time it completed.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    fn tell(&self, books: &Books, limit: &PluginLimit) -> String {
        let bounds = &self.bounds;
        let most = |by: fn(&Held) -> usize| {
            let owners = books.owners.iter();
            let most = owners.max_by_key(|(_, held)| by(held));
            most.map_or_else(String::new, |(owner, held)| {
                format!("; {} holds the most, {held}", Who(owner))
            })
        };
        match limit {
            PluginLimit::Instances => {
                let who = most(|held| held.instances);
                format!("{}{who}", bounds.why(limit))
            }
            PluginLimit::Memory => {
                let who = most(|held| held.memory_bytes);
                format!("{}{who}", bounds.why(limit))
            }
            PluginLimit::OwnerInstances(owner) | PluginLimit::OwnerMemory(owner) => {
                let held = books.owners.get(owner).copied().unwrap_or_default();
                let which = books.most_of(owner, limit);
                format!("{}; {} holds {held}{which}", bounds.why(limit), Who(owner))
            }
        }
    }

    // No owner holds more than all of them.
    fn note(&self, books: &Books) {
        let (bounds, all) = (&self.bounds, books.all);
        let least = |all: usize, owner: usize| {
            let of_all = all - all / RESERVE_PART - all / SHORT_PART;
            of_all.min(owner - owner / SHORT_PART)
        };
        let may_be_short = all.instances > least(bounds.instances_max, bounds.owner_instances_max)
            || all.memory_bytes > least(bounds.memory_bytes_max, bounds.owner_memory_bytes_max);
        self.may_be_short.store(may_be_short, Ordering::Relaxed);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }
}

impl Books {
    fn change(&mut self, owner: &Option<Owner>, change: impl FnOnce(&mut Held)) {
        let sum = self.owners.entry(owner.clone()).or_default();
        change(sum);
        if *sum == Held::default() {
            self.owners.remove(owner);
        }
    }

    fn add(&mut self, name: &str, more: Held) {
        let named = self.names.entry(name.to_owned()).or_default();
        named.held.more(more);
        let owner = named.owner.clone();
        self.all.more(more);
        self.change(&owner, |sum| sum.more(more));
    }

    fn take(&mut self, name: &str, less: Held) {
        let Some(named) = self.names.get_mut(name) else {
            return;
        };
        named.held.less(less);
        let owner = named.owner.clone();
        self.all.less(less);
        self.change(&owner, |sum| sum.less(less));
        self.tidy(name);
    }

    fn tidy(&mut self, name: &str) {
        let is_spent = |named: &Named| named.digests.is_empty() && named.held == Held::default();
        if self.names.get(name).is_some_and(is_spent) {
            self.names.remove(name);
        }
    }

    fn of_owner(&self, name: &str) -> Held {
        let owner = self.names.get(name).map_or(&None, |named| &named.owner);
        self.owners.get(owner).copied().unwrap_or_default()
    }

    fn owner_of(&self, name: &str) -> (Option<Owner>, Held) {
        let owner = self.names.get(name).and_then(|named| named.owner.clone());
        let held = self.owners.get(&owner).copied().unwrap_or_default();
        (owner, held)
    }

    fn refuse(&mut self, limit: PluginLimit) {
        if self.reached.len() < REACHED_MAX || self.reached.contains_key(&limit) {
            self.reached.insert(limit, Instant::now());
        }
    }

    // The plugin with which an owner has most of it.
    fn most_of(&self, owner: &Option<Owner>, limit: &PluginLimit) -> String {
        let by = |held: &Held| match limit {
            PluginLimit::Memory | PluginLimit::OwnerMemory(_) => held.memory_bytes,
            PluginLimit::Instances | PluginLimit::OwnerInstances(_) => held.instances,
        };
        let names = self.names.iter();
        let names = names.filter(|(_, named)| &named.owner == owner);
        let most = names.max_by_key(|(_, named)| by(&named.held));
        most.map_or_else(String::new, |(name, named)| {
            format!(", of these plugin `{name}` {}", named.held)
        })
    }
}

impl Bounds {
    /// As `options` say it. Whatever they say, one instance may have the memory that is its own.
    pub(super) fn of(options: &PluginOptions) -> Self {
        let widest = options.widest().memory_bytes_max;
        let instances_max = options.instances_max.max(1);
        let memory_bytes_max = options.instances_memory_bytes_max.max(widest);
        let half = |all: usize, said: usize| match said {
            0 => all.div_ceil(2),
            said => said.min(all),
        };
        Self {
            instances_max,
            owner_instances_max: half(instances_max, options.owner_instances_max),
            memory_bytes_max,
            owner_memory_bytes_max: half(memory_bytes_max, options.owner_memory_bytes_max)
                .max(widest),
        }
    }

    // The limit in the way of another place for an owner who holds so much.
    fn place(
        &self,
        owner: &Option<Owner>,
        held: Held,
        all: Held,
        places: usize,
        tenure: Tenure,
    ) -> Option<PluginLimit> {
        let reserve = match held.instances == 0 || tenure == Tenure::Passing {
            true => 0,
            false => self.instances_max / RESERVE_PART,
        };
        // Whoever holds nothing gets one, whatever it counts as.
        if held.instances > 0 && held.instances + places > self.owner_instances_max {
            return Some(PluginLimit::OwnerInstances(owner.clone()));
        }
        (all.instances + places > self.instances_max - reserve).then_some(PluginLimit::Instances)
    }

    // The same for memory. `first` is what a first instance may have of the reserve.
    fn memory(
        &self,
        owner: &Option<Owner>,
        held: Held,
        all: Held,
        bytes: usize,
        first: usize,
    ) -> Option<PluginLimit> {
        let after = held.memory_bytes.saturating_add(bytes);
        if after > self.owner_memory_bytes_max {
            return Some(PluginLimit::OwnerMemory(owner.clone()));
        }
        let reserve = match after <= first {
            true => 0,
            false => self.memory_bytes_max / RESERVE_PART,
        };
        let room = self.memory_bytes_max - reserve;
        (all.memory_bytes.saturating_add(bytes) > room).then_some(PluginLimit::Memory)
    }

    // What is said to whoever is refused, which names nobody else.
    fn why(&self, limit: &PluginLimit) -> String {
        match limit {
            PluginLimit::Instances => format!(
                "all plugin instances are in use: {} (plugins.instances_max)",
                self.instances_max
            ),
            PluginLimit::Memory => format!(
                "all memory for plugin instances is in use: {} bytes (plugins.instances_memory_bytes_max)",
                self.memory_bytes_max
            ),
            PluginLimit::OwnerInstances(owner) => format!(
                "the plugins of {} have all instances that those of one owner may have: {} (plugins.owner_instances_max)",
                Who(owner),
                self.owner_instances_max
            ),
            PluginLimit::OwnerMemory(owner) => format!(
                "the plugins of {} have all memory that those of one owner may have: {} bytes (plugins.owner_memory_bytes_max)",
                Who(owner),
                self.owner_memory_bytes_max
            ),
        }
    }
}

impl Held {
    fn more(&mut self, other: Self) {
        self.instances += other.instances;
        self.memory_bytes += other.memory_bytes;
    }

    fn less(&mut self, other: Self) {
        self.instances = self.instances.saturating_sub(other.instances);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.memory_bytes.div_ceil(1 << 20);
        write!(f, "{} instances and {mib} MiB", self.instances)
    }
}

struct Who<'a>(&'a Option<Owner>);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(owner) => owner.fmt(f),
            None => f.write_str("the broker"),
        }
    }
}

/// On whose account a plugin holds things.
#[derive(Clone, Debug)]
pub(super) struct Account {
    budget: Arc<InstanceBudget>,
    name: Arc<str>,
}

impl Account {
    /// A place for an instance that counts as so many.
    pub(super) fn place(&self, places: usize, tenure: Tenure) -> Result<Place, Exhausted> {
        let budget = &self.budget;
        let mut books = budget.books();
        if books.closed {
            return Err(Exhausted("the plugin service is stopping".into()));
        }
        let (owner, held) = books.owner_of(&self.name);
        let all = books.all;
        if let Some(limit) = budget.bounds.place(&owner, held, all, places, tenure) {
            return Err(self.refuse(books, limit));
        }
        let taken = Held {
            instances: places,
            memory_bytes: 0,
        };
        books.add(&self.name, taken);
        budget.note(&books);
        drop(books);
        Ok(Place {
            account: self.clone(),
            taken,
        })
    }

    /// An account of the memory of one instance, of which a first one may have so much of the reserve.
    pub(super) fn memory(&self, first_bytes: usize) -> Memory {
        Memory {
            account: self.clone(),
            first_bytes,
            bytes: 0,
        }
    }

    /// Whether more than half is left, in all and of the owner's share, so that an instance may be had for speed alone.
    pub(super) fn has_to_spare(&self) -> bool {
        self.all_bounds(|max, _, held| max.saturating_sub(held) > max / 2)
    }

    /// Whether hardly anything is left, so that an instance that is not at work goes to others.
    pub(super) fn is_short(&self) -> bool {
        self.budget.may_be_short.load(Ordering::Relaxed)
            && !self.all_bounds(|max, open, held| open.saturating_sub(held) >= max / SHORT_PART)
    }

    // Of each bound: all of it, what of it is open to whoever has something already, and what is held.
    fn all_bounds(&self, holds: impl Fn(usize, usize, usize) -> bool) -> bool {
        let bounds = self.budget.bounds;
        let books = self.budget.books();
        let held = books.of_owner(&self.name);
        let of_all = |max: usize, held: usize| holds(max, max - max / RESERVE_PART, held);
        let of_owner = |max: usize, held: usize| holds(max, max, held);
        of_all(bounds.instances_max, books.all.instances)
            && of_all(bounds.memory_bytes_max, books.all.memory_bytes)
            && of_owner(bounds.owner_instances_max, held.instances)
            && of_owner(bounds.owner_memory_bytes_max, held.memory_bytes)
    }

    fn refuse(&self, mut books: MutexGuard<'_, Books>, limit: PluginLimit) -> Exhausted {
        let why = self.budget.bounds.why(&limit);
        books.refuse(limit);
        drop(books);
        self.budget.refused.notify_one();
        Exhausted(why)
    }
}

/// A place for an instance. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    account: Account,
    taken: Held,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut books = self.account.budget.books();
        books.take(&self.account.name, self.taken);
        self.account.budget.note(&books);
    }
}

/// The memory of one instance. Dropping it gives all of it back.
#[derive(Debug)]
pub(super) struct Memory {
    account: Account,
    first_bytes: usize,
    bytes: usize,
}

impl Memory {
    /// So many bytes more, or nothing.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let account = &self.account;
        let mut books = account.budget.books();
        let (owner, held) = books.owner_of(&account.name);
        let all = books.all;
        let bounds = &account.budget.bounds;
        if let Some(limit) = bounds.memory(&owner, held, all, bytes, self.first_bytes) {
            return Err(account.refuse(books, limit));
        }
        let more = Held {
            instances: 0,
            memory_bytes: bytes,
        };
        books.add(&account.name, more);
        account.budget.note(&books);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let less = Held {
            instances: 0,
            memory_bytes: self.bytes,
        };
        let mut books = self.account.budget.books();
        books.take(&self.account.name, less);
        self.account.budget.note(&books);
    }
}

#[cfg(test)]
mod tests;
