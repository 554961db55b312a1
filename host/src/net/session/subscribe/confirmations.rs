//! Confirmations on their way from the future of a subscribe stream that reads to the one that writes: the numbers that the client gave
//! to what it wants confirmed.

use std::sync::Mutex;

use tokio::sync::Notify;

use crate::locks::lock;

/// What is to be confirmed to the client. How many there may be is seen to by who puts them in.
#[derive(Default)]
pub(super) struct Confirmations {
    numbers: Mutex<Vec<u64>>,
    filled: Notify,
}

impl Confirmations {
    /// Adds a number.
    pub(super) fn push(&self, number: u64) {
        self.locked(|numbers| numbers.push(number));
        self.filled.notify_one();
    }

    /// Keeps the highest only, in place of all before.
    pub(super) fn raise(&self, number: u64) {
        self.locked(|numbers| {
            let highest = numbers.pop().unwrap_or_default().max(number);
            numbers.push(highest);
        });
        self.filled.notify_one();
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.locked(|numbers| numbers.len())
    }

    /// All there are; waits for the first. Cancel-safe.
    pub(super) async fn take(&self) -> Vec<u64> {
        loop {
            let numbers = self.locked(std::mem::take);
            if !numbers.is_empty() {
                return numbers;
            }
            self.filled.notified().await;
        }
    }

    fn locked<T>(&self, change: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        change(&mut lock(&self.numbers))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn confirmations_are_taken_all_at_once() {
        let confirmations = Confirmations::default();
        assert_eq!(confirmations.take().now_or_never(), None);
        confirmations.push(1);
        confirmations.push(2);
        assert_eq!(confirmations.take().now_or_never(), Some(vec![1, 2]));
        assert_eq!(confirmations.take().now_or_never(), None);
    }
}
