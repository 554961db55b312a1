//! Taking locks and waiting under them, as the whole host does it. A panic under a lock does not poison it for everybody else: every critical section
//! leaves what it guards whole at each step, and that a task has panicked is seen and said by whoever started it. Nothing here
//! knows what a lock guards.

// The one place that does it with the standard library's own methods; clippy.toml refuses them elsewhere.
#![allow(clippy::disallowed_methods)]

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::Duration;

/// Takes a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock for reading.
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock for writing.
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// What those who wait under a mutex for what others do under it are woken by. One signal goes with one mutex.
#[derive(Debug, Default)]
pub(crate) struct Signal(Condvar);

impl Signal {
    /// One that nobody waits for.
    pub(crate) const fn new() -> Self {
        Self(Condvar::new())
    }

    /// Wakes one of those who wait, if anybody does.
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all who wait.
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Gives `mutex`, whose `guard` the caller has, back until somebody wakes it, and takes it again. It may wake up for nothing: the
    /// caller looks again at what it waits for.
    pub(crate) fn wait<'a, T>(
        &self,
        _mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for `time` at most.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        _mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> MutexGuard<'a, T> {
        let waited = self.0.wait_timeout(guard, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
