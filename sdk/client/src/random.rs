//! The one place where this client's randomness comes from: seeded by the operating system, or by the options for a run that is to
//! be repeated exactly.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A generator that everything of one client shares. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// One that says the same for the same `seed`, and without one what nobody foresees.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let generator = match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => rand::make_rng(),
        };
        Self(Arc::new(Mutex::new(generator)))
    }

    /// A number of `range`, each as likely as the others.
    pub(crate) fn within(&self, range: RangeInclusive<f64>) -> f64 {
        self.generator().random_range(range)
    }

    /// An id that nobody else has.
    pub(crate) fn id(&self) -> [u8; 16] {
        self.generator().random()
    }

    fn generator(&self) -> MutexGuard<'_, StdRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_what_it_said() {
        let said = |seed| {
            let random = Random::new(seed);
            (random.id(), random.clone().id(), random.within(0.0..=1.0))
        };
        assert_eq!(said(Some(7)), said(Some(7)));
        assert_ne!(said(Some(7)), said(Some(8)));
        assert_ne!(said(None), said(None));
    }
}
