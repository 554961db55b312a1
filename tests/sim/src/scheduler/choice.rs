//! What a seed chooses. Each choice is a function of the seed, of who is concerned and of how often it was asked of them, and of nothing
//! else: what one strand does more or less leaves the choices of the others as they are, so that a part of a run can be taken out and
//! the rest still happens.
//!
//! The order is that of a race. Whoever becomes runnable draws how long it takes until it runs, and the shortest comes first. With
//! draws that have no memory that is the same as drawing one of those who are runnable each time; but each draws for itself, and none
//! waits for ever.

use serde::{Deserialize, Serialize};

/// How the order of a run is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manner {
    /// Who comes first.
    pub order: Order,
    /// A strand lets others come first at a free lock once in so many times; 0 is never.
    pub preempted_once_in: u32,
}

/// Who comes first of those who are runnable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Whoever has waited longest.
    InTurn,
    /// Anybody.
    Even,
    /// Strands differ in how fast they are, up to 64 times, and that changes now and then.
    Speeds,
    /// Some strands stand almost still for a while.
    Slow,
}

impl Manner {
    /// The plainest: in turn, and nobody gives way at a free lock.
    pub const PLAIN: Self = Self {
        order: Order::InTurn,
        preempted_once_in: 0,
    };

    /// That of a seed.
    pub fn of(seed: u64) -> Self {
        let order = match mix(&[seed, text("order")]) % 4 {
            0 | 1 => Order::Even,
            2 => Order::Speeds,
            _ => Order::Slow,
        };
        let preempted_once_in = match mix(&[seed, text("preempted")]) % 4 {
            0 | 1 => 0,
            2 => 256,
            _ => 16,
        };
        Self {
            order,
            preempted_once_in,
        }
    }
}

/// Steps of a strand for which it stays as fast as it is.
const STRETCH: u64 = 32;
/// A delay of 1.
const UNIT: u64 = 1 << 16;

/// The choices of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    seed: u64,
    manner: Manner,
}

impl Choice {
    pub(super) fn new(seed: u64, manner: Manner) -> Self {
        Self { seed, manner }
    }

    /// How long a strand takes until it makes its next step, once it can.
    pub(super) fn delay(&self, strand: u64, step: u64) -> u64 {
        let drawn = || without_memory(mix(&[self.seed, text("delay"), strand, step]));
        let stretch = |what| mix(&[self.seed, text(what), strand, step / STRETCH]);
        match self.manner.order {
            Order::InTurn => UNIT,
            Order::Even => drawn(),
            Order::Speeds => drawn() << (2 * (stretch("speed") % 4)),
            Order::Slow => match stretch("slow") % 8 {
                0 => drawn() << 8,
                _ => drawn(),
            },
        }
    }

    /// Whether a strand gives way at a free lock.
    pub(super) fn is_preempted(&self, strand: u64, time: u64) -> bool {
        let n = self.manner.preempted_once_in;
        n > 0 && self.once_in("preempted", strand, time, n)
    }

    /// Whether what happens once in `n` times happens this time.
    pub(super) fn once_in(&self, what: &str, strand: u64, time: u64, n: u32) -> bool {
        self.number(what, strand, time)
            .is_multiple_of(u64::from(n.max(1)))
    }

    /// One of `among`, from 0.
    pub(super) fn among(&self, what: &str, strand: u64, time: u64, among: usize) -> usize {
        let among = u64::try_from(among.max(1)).unwrap_or(u64::MAX);
        let chosen = self.number(what, strand, time) % among;
        usize::try_from(chosen).unwrap_or_default()
    }

    fn number(&self, what: &str, strand: u64, time: u64) -> u64 {
        mix(&[self.seed, text(what), strand, time])
    }
}

// A draw of the exponential distribution, by integers so that it is the same on each machine: minus the logarithm to 2, straight
// between powers.
fn without_memory(number: u64) -> u64 {
    let number = number | 1;
    let zeros = number.leading_zeros();
    // What follows the first one, as a part of a unit.
    let part = number.checked_shl(zeros + 1).unwrap_or_default() >> 48;
    (u64::from(zeros) + 1) * UNIT - part
}

/// A number that depends on each bit of `words`, and looks like chance.
pub(crate) fn mix(words: &[u64]) -> u64 {
    let mut mixed = 0x6c62_272e_07bb_0142_u64;
    for word in words {
        mixed = scatter(mixed.rotate_left(23) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    mixed
}

// Each bit of what comes in changes about half of what goes out, and no two numbers come to the same.
fn scatter(number: u64) -> u64 {
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    number ^ (number >> 32)
}

/// A word as a number, for [`mix`].
pub(crate) fn text(word: &str) -> u64 {
    let mut number = u64::try_from(word.len()).unwrap_or(u64::MAX);
    for byte in word.bytes() {
        number = scatter(number ^ u64::from(byte)).rotate_left(9);
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Manner = Manner {
        order: Order::Even,
        preempted_once_in: 0,
    };

    #[test]
    fn draws_are_spread_as_they_should_be() {
        let choice = Choice::new(7, EVEN);
        let draws: Vec<u64> = (0..10_000).map(|step| choice.delay(1, step)).collect();
        let mean = draws.iter().sum::<u64>() / 10_000;
        // 1 / ln 2 is 1.44; straight lines between powers make it 1.5.
        assert!((UNIT * 14 / 10..UNIT * 16 / 10).contains(&mean), "{mean}");
        let longer = |than: u64| draws.iter().filter(|delay| **delay > than).count();
        // Half of what is left each time: it has no memory.
        assert!((4_800..5_200).contains(&longer(UNIT)), "{}", longer(UNIT));
        assert!((1_100..1_400).contains(&longer(3 * UNIT)));
        let happened = (0..64_000).filter(|time| choice.once_in("a", 1, *time, 64));
        assert!((850..1_150).contains(&happened.count()));
        let mut chosen = [0; 3];
        (0..3_000).for_each(|time| chosen[choice.among("b", 1, time, 3)] += 1);
        assert!(
            chosen.iter().all(|count| (900..1_100).contains(count)),
            "{chosen:?}"
        );
    }

    #[test]
    fn seeds_strands_and_words_choose_apart() {
        let of = |seed, what, strand, time| Choice::new(seed, EVEN).number(what, strand, time);
        let mut numbers = vec![of(1, "a", 1, 1), of(2, "a", 1, 1), of(1, "b", 1, 1)];
        numbers.extend([of(1, "a", 2, 1), of(1, "a", 1, 2), of(1, "ab", 1, 1)]);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 6);
    }

    #[test]
    fn each_manner_is_drawn() {
        let manners: Vec<Manner> = (0..200).map(Manner::of).collect();
        for order in [Order::Even, Order::Speeds, Order::Slow] {
            assert!(
                manners
                    .iter()
                    .filter(|manner| manner.order == order)
                    .count()
                    > 20
            );
        }
        for often in [0, 16, 256] {
            assert!(
                manners
                    .iter()
                    .any(|manner| manner.preempted_once_in == often)
            );
        }
    }
}
