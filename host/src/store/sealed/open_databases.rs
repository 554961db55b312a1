//! The pool of open sled databases. sled may bring everything that is read into memory and gives it back only when it is closed, so
//! the number of open ones is what bounds memory. No file is named here; what a database holds is [`super::generation`]'s business.

use std::sync::{Arc, Mutex, MutexGuard};

use super::database::Database;
use crate::locks::{Signal, lock};
use crate::store::error::ReadError;

/// Which database: generation and part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartKey {
    pub(super) generation: u64,
    pub(super) part: usize,
}

/// A bounded set of open databases, the least recently used of which gives way.
pub(super) struct OpenDatabases {
    open_max: usize,
    state: Mutex<State>,
    changed: Signal,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Databases that somebody has open outside the slots.
    reserved: usize,
    clock: u64,
    /// Most that were ever open at a time.
    peak: usize,
}

struct Slot {
    key: PartKey,
    /// `None` while it is being opened or closed.
    database: Option<Arc<Database>>,
    used: u64,
}

/// The right to have one database open.
pub(super) struct Permit<'a>(&'a OpenDatabases);

/// A slot whose database is being opened or closed. However that ends, it is free afterwards unless it was filled, and whoever
/// waits for it looks again.
pub(super) struct Place<'a> {
    pool: &'a OpenDatabases,
    key: PartKey,
}

/// Has those who wait look again.
struct Told<'a>(&'a OpenDatabases);

enum Turn {
    Use(Arc<Database>),
    Open,
    Close(Arc<Database>, PartKey),
}

impl OpenDatabases {
    pub(super) fn new(open_max: usize) -> Self {
        // A checkpoint writes one database while it reads from another.
        Self {
            open_max: open_max.max(2),
            state: Mutex::default(),
            changed: Signal::new(),
        }
    }

    /// Runs `read` with the database open. Waits while as many as may be are open and in use.
    pub(super) fn with<T>(
        &self,
        key: PartKey,
        open: impl Fn() -> Result<Database, ReadError>,
        read: impl FnOnce(&Database) -> T,
    ) -> Result<T, ReadError> {
        // Once the database is given back: a local that is made earlier goes later.
        let _told = Told(self);
        let database = loop {
            match self.turn(Some(key)) {
                Turn::Use(database) => break database,
                Turn::Close(database, old) => self.close(database, old),
                Turn::Open => {
                    let place = Place { pool: self, key };
                    break place.fill(Arc::new(open()?));
                }
            }
        };
        Ok(read(&database))
    }

    /// Waits for the right to have one more database open, closing an unused one if need be.
    pub(super) fn reserve(&self) -> Permit<'_> {
        while let Turn::Close(database, old) = self.turn(None) {
            self.close(database, old);
        }
        Permit(self)
    }

    /// Closes one database, waiting for who is reading it, and keeps it closed for everybody as long as the answer lives, so that
    /// whoever has that can open it by itself. It counts as open.
    pub(super) fn keep_closed(&self, key: PartKey) -> Place<'_> {
        loop {
            match self.turn(Some(key)) {
                Turn::Use(database) => {
                    drop(database);
                    self.close_part(key);
                }
                Turn::Close(database, old) => self.close(database, old),
                // Its place has no database yet, and others wait until it has.
                Turn::Open => return Place { pool: self, key },
            }
        }
    }

    /// Closes the databases of a generation, waiting for who is reading them.
    pub(super) fn close_generation(&self, generation: u64) {
        self.close_all(|key| key.generation == generation);
    }

    /// Closes one database, waiting for who is reading it.
    pub(super) fn close_part(&self, part: PartKey) {
        self.close_all(|key| key == part);
    }

    fn close_all(&self, is_meant: impl Fn(PartKey) -> bool) {
        loop {
            let mut state = self.lock();
            let Some(slot) = state.slots.iter_mut().find(|slot| is_meant(slot.key)) else {
                return;
            };
            let idle = slot
                .database
                .take_if(|database| Arc::strong_count(database) == 1);
            let key = slot.key;
            match idle {
                Some(database) => {
                    drop(state);
                    self.close(database, key);
                }
                None => drop(self.changed.wait(&self.state, state)),
            }
        }
    }

    /// Databases open now, and at most ever.
    #[cfg(test)]
    pub(super) fn open_now_and_peak(&self) -> (usize, usize) {
        let state = self.lock();
        (state.slots.len() + state.reserved, state.peak)
    }

    // What the caller has to do next; with `None` it wants a place rather than a database.
    fn turn(&self, key: Option<PartKey>) -> Turn {
        let mut state = self.lock();
        loop {
            state.clock += 1;
            let now = state.clock;
            if let Some(slot) = key.and_then(|key| state.slot(key)) {
                if let Some(database) = &slot.database {
                    slot.used = now;
                    return Turn::Use(database.clone());
                }
            } else if state.slots.len() + state.reserved < self.open_max {
                match key {
                    Some(key) => state.slots.push(Slot {
                        key,
                        database: None,
                        used: now,
                    }),
                    None => state.reserved += 1,
                }
                state.peak = state.peak.max(state.slots.len() + state.reserved);
                return Turn::Open;
            } else if let Some((database, key)) = state.take_idle() {
                return Turn::Close(database, key);
            }
            state = self.changed.wait(&self.state, state);
        }
    }

    // Its slot counts until it is really closed.
    fn close(&self, database: Arc<Database>, key: PartKey) {
        let _place = Place { pool: self, key };
        drop(database);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Place<'_> {
    // Others find it open from now on.
    fn fill(self, database: Arc<Database>) -> Arc<Database> {
        let mut state = self.pool.lock();
        if let Some(slot) = state.slot(self.key) {
            slot.database = Some(database.clone());
        }
        drop(state);
        database
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let is_mine = |slot: &Slot| slot.key == self.key && slot.database.is_none();
        state.slots.retain(|slot| !is_mine(slot));
        drop(state);
        self.pool.changed.notify_all();
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        // Nobody is between looking and waiting then.
        drop(self.0.lock());
        self.0.changed.notify_all();
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.lock().reserved -= 1;
        self.0.changed.notify_all();
    }
}

impl State {
    fn slot(&mut self, key: PartKey) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.key == key)
    }

    // Takes the least recently used database that nobody uses out of its slot.
    fn take_idle(&mut self) -> Option<(Arc<Database>, PartKey)> {
        let idle = |slot: &&mut Slot| {
            slot.database
                .as_ref()
                .is_some_and(|database| Arc::strong_count(database) == 1)
        };
        let slot = self
            .slots
            .iter_mut()
            .filter(idle)
            .min_by_key(|slot| slot.used)?;
        Some((slot.database.take()?, slot.key))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};

    use super::super::database::failing;
    use super::*;
    use crate::disk::RealFileSystem;

    // So many databases with nothing in them.
    fn databases(dir: &Path, count: usize) -> Vec<(PartKey, PathBuf)> {
        let parts = (0..count).map(|part| {
            let path = dir.join(format!("part-{part:04}"));
            let made = Database::create(&RealFileSystem, &path).expect("create");
            made.close().expect("close");
            (
                PartKey {
                    generation: 1,
                    part,
                },
                path,
            )
        });
        parts.collect()
    }

    #[test]
    fn a_database_whose_closing_fails_gives_its_place_back_and_can_be_opened_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let parts = databases(dir.path(), 3);
        let pool = OpenDatabases::new(2);
        let failing = failing::closing(dir.path());
        for _ in 0..2 {
            for (key, path) in &parts {
                let opened = pool.with(*key, || Database::open(&RealFileSystem, path), |_| ());
                opened.expect("open, in the place of one that could not be closed");
            }
        }
        pool.close_part(parts[2].0);
        drop((pool.reserve(), pool.reserve()));
        pool.close_generation(1);
        assert_eq!(pool.open_now_and_peak(), (0, 2));
        drop(failing);
        for (key, path) in &parts {
            let opened = pool.with(*key, || Database::open(&RealFileSystem, path), |_| ());
            opened.expect("open");
        }
    }

    #[test]
    fn whatever_ends_an_opening_or_a_reading_the_place_is_free() {
        let dir = tempfile::tempdir().expect("a folder");
        let (key, path) = databases(dir.path(), 1).remove(0);
        let pool = OpenDatabases::new(2);
        for _ in 0..3 {
            let opening = || -> Result<Database, ReadError> { panic!("while it opens") };
            let unwound = catch_unwind(AssertUnwindSafe(|| pool.with(key, opening, |_| ())));
            assert!(unwound.is_err());
            assert_eq!(pool.open_now_and_peak().0, 0);
        }
        let reading = |_: &Database| panic!("while it is read");
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            pool.with(key, || Database::open(&RealFileSystem, &path), reading)
        }));
        assert!(unwound.is_err());
        pool.close_part(key);
        let opened = pool.with(key, || Database::open(&RealFileSystem, &path), |_| ());
        opened.expect("open");
    }
}
