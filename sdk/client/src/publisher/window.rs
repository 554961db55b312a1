//! Values with numbers that count on, of which the oldest mostly leave first: what lies between the oldest and the newest is all
//! that is kept, and a number says where its value lies. Pure.

use std::collections::VecDeque;
use std::ops::Range;

/// Those that are still there, and the numbers that were given.
#[derive(Debug)]
pub(super) struct Window<T> {
    /// The first has the number `front`, the others count on. What left leaves a hole until it is the first.
    slots: VecDeque<Option<T>>,
    front: u64,
    count: usize,
}

impl<T> Window<T> {
    /// An empty one, whose first number is `front`.
    pub(super) fn new(front: u64) -> Self {
        Self {
            slots: VecDeque::new(),
            front,
            count: 0,
        }
    }

    /// Adds a value, which gets the next number.
    pub(super) fn push(&mut self, value: T) -> u64 {
        let number = self.numbers().end;
        self.slots.push_back(Some(value));
        self.count += 1;
        number
    }

    /// No value gets a number before `number`.
    pub(super) fn skip_to(&mut self, number: u64) {
        if self.slots.is_empty() {
            self.front = self.front.max(number);
        }
        while self.numbers().end < number {
            self.slots.push_back(None);
        }
    }

    /// The value of `number`, unless it has left.
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.slots.get(self.index(number)?)?.as_ref()
    }

    /// Takes the value of `number` out, unless it has left already.
    pub(super) fn take(&mut self, number: u64) -> Option<T> {
        let index = self.index(number)?;
        let value = self.slots.get_mut(index)?.take()?;
        self.count -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.front += 1;
        }
        Some(value)
    }

    /// Takes all of them out.
    pub(super) fn clear(&mut self) {
        self.front = self.numbers().end;
        self.slots.clear();
        self.count = 0;
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<&T> {
        self.slots.front().and_then(Option::as_ref)
    }

    /// From the oldest to the newest.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// The number of the oldest, and the next that is given.
    pub(super) fn numbers(&self) -> Range<u64> {
        self.front..self.front + self.slots.len() as u64
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.front)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_on_whoever_leaves() {
        let mut window = Window::new(1);
        assert_eq!(["a", "b", "c"].map(|value| window.push(value)), [1, 2, 3]);
        assert_eq!((window.take(2), window.take(2)), (Some("b"), None));
        assert_eq!((window.numbers(), window.len()), (1..4, 2));
        assert_eq!(
            (window.get(0), window.get(2), window.get(4)),
            (None, None, None)
        );
        assert_eq!(window.take(1), Some("a"));
        assert_eq!((window.numbers(), window.first()), (3..4, Some(&"c")));
        assert_eq!(window.take(3), Some("c"));
        assert!(window.is_empty() && window.first().is_none());
        assert_eq!(window.push("d"), 4);
        window.clear();
        assert_eq!((window.numbers(), window.len()), (5..5, 0));
    }

    #[test]
    fn numbers_that_are_skipped_have_no_value() {
        let mut window = Window::new(0);
        window.skip_to(1 << 40);
        assert_eq!(window.push('a'), 1 << 40);
        window.skip_to(7);
        window.skip_to((1 << 40) + 3);
        assert_eq!(window.push('b'), (1 << 40) + 3);
        assert_eq!(window.iter().collect::<String>(), "ab");
        assert_eq!(
            (window.take(1 << 40), window.numbers().start),
            (Some('a'), (1 << 40) + 3)
        );
    }
}
