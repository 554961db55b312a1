//! Taking locks, as the simulated library takes them, with the names of `host/src/locks.rs`. Whoever finds a lock taken lets others run
//! until it is free, and now and then somebody comes first who would not have. A wait on a signal is woken as the seed says.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{
    Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    TryLockResult,
};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::simulation::{Point, conductor, in_charge};

/// Waits are woken without reason once in so many times, as a condition variable may.
const SPURIOUS: u32 = 64;

/// Takes a mutex.
#[track_caller]
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let of_std = || mutex.lock().unwrap_or_else(PoisonError::into_inner);
    take(|| taken(mutex.try_lock()), of_std)
}

/// Takes a lock for reading.
#[track_caller]
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    let of_std = || lock.read().unwrap_or_else(PoisonError::into_inner);
    take(|| taken(lock.try_read()), of_std)
}

/// Takes a lock for writing.
#[track_caller]
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    let of_std = || lock.write().unwrap_or_else(PoisonError::into_inner);
    take(|| taken(lock.try_write()), of_std)
}

#[track_caller]
fn take<G>(attempt: impl Fn() -> Option<G>, of_std: impl FnOnce() -> G) -> G {
    let at = Location::caller();
    let Some(conductor) = conductor() else {
        return of_std();
    };
    conductor.pause(Point::Lock(at));
    loop {
        if let Some(guard) = attempt() {
            return guard;
        }
        let is_free = &|| attempt().is_some();
        conductor.pause(Point::Taken { at, is_free });
    }
}

fn taken<G>(result: TryLockResult<G>) -> Option<G> {
    match result {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// What a condition variable is elsewhere: strands wait for it with a mutex that they let go meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    next: u64,
    // Whoever was told is here no more.
    untold: BTreeMap<u64, Waker>,
}

impl Signal {
    /// One that nobody waits for.
    pub(crate) const fn new() -> Self {
        Self {
            waiters: Mutex::new(Waiters {
                next: 0,
                untold: BTreeMap::new(),
            }),
        }
    }

    /// Wakes one of those who wait; the seed says which.
    pub(crate) fn notify_one(&self) {
        let waker = {
            let mut waiters = lock_plain(&self.waiters);
            if waiters.untold.is_empty() {
                return;
            }
            let chosen = in_charge().choose("notify", waiters.untold.len());
            let ticket = waiters.untold.keys().copied().nth(chosen);
            ticket.and_then(|ticket| waiters.untold.remove(&ticket))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes all who wait.
    pub(crate) fn notify_all(&self) {
        let told = std::mem::take(&mut lock_plain(&self.waiters).untold);
        told.into_values().for_each(Waker::wake);
    }

    /// Lets the mutex go until it is notified, or without reason.
    #[track_caller]
    pub(crate) fn wait<'a, T>(
        &self,
        mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        self.wait_until(None, guard);
        lock(mutex)
    }

    /// The same, until the time is over at the latest.
    #[track_caller]
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> MutexGuard<'a, T> {
        self.wait_until(Instant::now().checked_add(time), guard);
        lock(mutex)
    }

    fn wait_until<G>(&self, end: Option<Instant>, guard: G) {
        let conductor = in_charge();
        if conductor.once_in("wakes without reason", SPURIOUS) {
            drop(guard);
            return conductor.pause(Point::Yield);
        }
        let ticket = {
            let mut waiters = lock_plain(&self.waiters);
            waiters.next += 1;
            let ticket = waiters.next;
            waiters.untold.insert(ticket, conductor.waker());
            ticket
        };
        // Nobody can notify between the two: nothing else runs before the pause.
        drop(guard);
        let waits = || lock_plain(&self.waiters).untold.contains_key(&ticket);
        while waits() && end.is_none_or(|end| Instant::now() < end) {
            conductor.pause(Point::Woken(end));
        }
        lock_plain(&self.waiters).untold.remove(&ticket);
    }
}

// Of what is never held across a suspension.
fn lock_plain<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
