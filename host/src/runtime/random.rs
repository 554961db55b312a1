//! Where the broker takes what nobody may guess or what must not repeat: keys, salts, identifiers, and the random numbers that
//! transforms ask for. It is the system's, unless a run that must be repeatable seeds it. Nothing is decided by chance here.

use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::locks::lock;

/// A source of random bytes. Clones draw from the same.
#[derive(Clone, Debug, Default)]
pub struct Random {
    // `None`: the system's.
    seeded: Option<Arc<Mutex<StdRng>>>,
}

impl Random {
    /// What the system has: fit for keys.
    #[must_use]
    pub fn of_system() -> Self {
        Self::default()
    }

    /// The same bytes each time, for runs that must be repeatable. Fit for nothing that is to stay secret.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            seeded: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))),
        }
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        match &self.seeded {
            None => rand::rng().fill_bytes(bytes),
            Some(seeded) => lock(seeded).fill_bytes(bytes),
        }
    }

    /// So many bytes.
    #[must_use]
    pub fn bytes<const COUNT: usize>(&self) -> [u8; COUNT] {
        let mut bytes = [0; COUNT];
        self.fill(&mut bytes);
        bytes
    }

    /// Any number.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_the_system_does_not() {
        let draw = |random: Random| (random.clone().bytes::<16>(), random.number());
        assert_eq!(draw(Random::seeded(7)), draw(Random::seeded(7)));
        assert_ne!(draw(Random::seeded(7)), draw(Random::seeded(8)));
        assert_ne!(draw(Random::of_system()), draw(Random::of_system()));
    }
}
