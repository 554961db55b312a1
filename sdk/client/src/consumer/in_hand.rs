//! What the application has in hand: the present stream's deliveries that it has got, has not answered, and still holds, by which a stream
//! that moves knows how long to wait. Each counts once, however often it is answered, and no longer than until its ack deadline, which is
//! never said to have passed: they are forgotten by the time at which they were handed over. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use super::extensions::Extensions;

/// Deliveries that were handed over within this part of the ack deadline are forgotten at once, with the last of them.
const SPAN_PART: u64 = 32;

/// Positions that are remembered at once: four times what may be taken ahead of an application. Of others it is not known here when
/// they are answered.
const POSITIONS_MAX: usize = 4 * 65_536;

/// What is not answered of a stream, and until when it is held. Times are milliseconds of the consumer's clock.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// What was handed over at about the same time, the oldest first.
    spans: VecDeque<Span>,
    /// All that are numbered above this were handed over since the last look at the clock, and so many of them are not answered.
    looked_at: u64,
    fresh: u64,
    /// Of a consumer whose deliveries are answered by position too.
    by_position: Option<ByPosition>,
    /// What was extended and is not answered.
    extended: Extensions,
}

#[derive(Debug)]
struct Span {
    /// The number of the first; the last is before the first of the next span.
    first: u64,
    begun_ms: u64,
    /// When the last of them is not held any more, unless it was extended.
    until_ms: u64,
    unanswered: u64,
}

#[derive(Debug)]
struct ByPosition {
    /// Only those that were handed over after so many: what an application has when it begins to name positions is answered for sure
    /// only by its handles.
    from: u64,
    /// Their numbers.
    unanswered: BTreeMap<u64, u64>,
}

impl InHand {
    /// Of the next stream.
    pub(super) fn reset(&mut self) {
        let names_positions = self.by_position.is_some();
        *self = Self::default();
        if names_positions {
            self.count_positions(0);
        }
    }

    /// From now on, after `handed_over`, positions may be named.
    pub(super) fn count_positions(&mut self, handed_over: u64) {
        self.by_position.get_or_insert_with(|| ByPosition {
            from: handed_over,
            unanswered: BTreeMap::new(),
        });
    }

    /// The application gets delivery `number` of the stream, which is the one at `position`.
    pub(super) fn hand_over(&mut self, number: u64, position: u64) {
        self.fresh += 1;
        let Some(by_position) = &mut self.by_position else {
            return;
        };
        let unanswered = &mut by_position.unanswered;
        if let Some(before) = unanswered.remove(&position) {
            // It comes again: the one before is nobody's any more.
            unanswered.insert(position, number);
            self.let_go(before);
        } else if unanswered.len() < POSITIONS_MAX {
            unanswered.insert(position, number);
        }
    }

    /// Whether there is a reason to look at the clock.
    pub(super) fn is_any_fresh(&self) -> bool {
        self.fresh > 0
    }

    /// A look at the clock: what was handed over since the last one, of `handed_over` in all, is held for `lasts_ms` from now on, and what
    /// is not held any more is forgotten.
    pub(super) fn look(&mut self, handed_over: u64, now_ms: u64, lasts_ms: u64) {
        self.forget_passed(now_ms);
        let first = self.looked_at + 1;
        self.looked_at = self.looked_at.max(handed_over);
        let unanswered = std::mem::take(&mut self.fresh);
        if unanswered == 0 {
            return;
        }
        let until_ms = now_ms.saturating_add(lasts_ms);
        match self.spans.back_mut() {
            Some(last) if now_ms.saturating_sub(last.begun_ms) < lasts_ms / SPAN_PART => {
                last.until_ms = until_ms;
                last.unanswered += unanswered;
            }
            _ => self.spans.push_back(Span {
                first,
                begun_ms: now_ms,
                until_ms,
                unanswered,
            }),
        }
    }

    /// The one at `position` is answered, which is delivery `number` of its stream where that is known.
    pub(super) fn settle(&mut self, number: Option<u64>, position: u64) {
        self.extended.remove(position);
        let answered = match &mut self.by_position {
            Some(by_position) if number.is_none_or(|number| number > by_position.from) => {
                by_position.unanswered.remove(&position)
            }
            _ => number,
        };
        if let Some(answered) = answered {
            self.let_go(answered);
        }
    }

    /// The one at `position`, which is delivery `number` of its stream where that is known, is held until `until_ms`; unless it is known
    /// not to be in hand at `now_ms`.
    pub(super) fn extend(
        &mut self,
        number: Option<u64>,
        position: u64,
        until_ms: u64,
        now_ms: u64,
    ) {
        let may_be_in_hand = match &self.by_position {
            Some(ByPosition { from, unanswered }) => {
                unanswered.contains_key(&position)
                    || self.extended.expires_ms(position).is_some()
                    || number
                        .map_or_else(|| self.has_any_to(*from, now_ms), |number| number <= *from)
                    || unanswered.len() >= POSITIONS_MAX
            }
            None => number.is_some(),
        };
        if may_be_in_hand {
            self.extended.insert(position, until_ms, now_ms);
        }
    }

    /// Until when the one at `position` is held, if it was extended.
    pub(super) fn extended_until_ms(&self, position: u64) -> Option<u64> {
        self.extended.expires_ms(position)
    }

    /// The broker says that these are not held any more.
    pub(super) fn not_held(&mut self, range: &RangeInclusive<u64>) {
        self.extended.remove_range(range);
        let Some(by_position) = &self.by_position else {
            return;
        };
        let unanswered = by_position.unanswered.range(range.clone());
        let positions: Vec<u64> = unanswered.map(|(position, _)| *position).collect();
        for position in positions {
            self.settle(None, position);
        }
    }

    /// When nothing is in hand any more, though nothing more is answered, if the last look at the clock was now; `None` when that is so
    /// already.
    pub(super) fn until_ms(&self, now_ms: u64, lasts_ms: u64) -> Option<u64> {
        let fresh = (self.fresh > 0).then(|| now_ms.saturating_add(lasts_ms));
        let spans = self.spans.iter().filter(|span| span.unanswered > 0);
        let until_ms = spans
            .map(|span| span.until_ms)
            .chain(fresh)
            .chain(self.extended.last_ms())
            .max();
        until_ms.filter(|until_ms| *until_ms > now_ms)
    }

    // Delivery `number` is not in hand any more. It is not known here when its time is over already.
    fn let_go(&mut self, number: u64) {
        let unanswered = if number > self.looked_at {
            &mut self.fresh
        } else {
            let after = self.spans.partition_point(|span| span.first <= number);
            let span = after.checked_sub(1).and_then(|at| self.spans.get_mut(at));
            let Some(span) = span else {
                return;
            };
            &mut span.unanswered
        };
        *unanswered = unanswered.saturating_sub(1);
    }

    fn forget_passed(&mut self, now_ms: u64) {
        let mut unanswered = 0;
        while let Some(span) = self.spans.pop_front_if(|span| span.until_ms <= now_ms) {
            unanswered += span.unanswered;
        }
        if unanswered > 0
            && let Some(by_position) = &mut self.by_position
        {
            let oldest = self.spans.front().map(|span| span.first);
            let oldest = oldest.unwrap_or(self.looked_at + 1);
            by_position.unanswered.retain(|_, number| *number >= oldest);
        }
    }

    // Whether one of the first `number` may be in hand.
    fn has_any_to(&self, number: u64, now_ms: u64) -> bool {
        let is_held = |span: &Span| span.unanswered > 0 && span.until_ms > now_ms;
        let mut spans = self.spans.iter().take_while(|span| span.first <= number);
        spans.any(is_held) || (self.fresh > 0 && self.looked_at < number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the ack deadline.
    const LASTS: u64 = 30_000;

    fn hand_over(in_hand: &mut InHand, numbered: impl IntoIterator<Item = (u64, u64)>) {
        for (number, position) in numbered {
            in_hand.hand_over(number, position);
        }
    }

    fn is_any(in_hand: &InHand) -> bool {
        in_hand.until_ms(0, LASTS).is_some()
    }

    #[test]
    fn each_is_answered_once_however_it_is_named() {
        let mut in_hand = InHand::default();
        hand_over(&mut in_hand, [(1, 10), (2, 11)]);
        in_hand.look(2, 0, LASTS);
        in_hand.count_positions(2);
        hand_over(&mut in_hand, [(3, 12), (4, 13)]);
        // By handle, of those before and after, and by position.
        in_hand.settle(Some(1), 10);
        in_hand.settle(Some(3), 12);
        in_hand.settle(None, 12);
        in_hand.settle(None, 13);
        in_hand.settle(None, 13);
        in_hand.settle(Some(4), 13);
        // Of an earlier stream, or none.
        in_hand.settle(None, 7);
        assert!(is_any(&in_hand));
        in_hand.settle(Some(2), 11);
        assert!(!is_any(&in_hand));
    }

    #[test]
    fn one_that_comes_again_is_not_in_hand_twice() {
        let mut in_hand = InHand::default();
        in_hand.count_positions(0);
        hand_over(&mut in_hand, [(1, 5)]);
        in_hand.look(1, 0, LASTS);
        hand_over(&mut in_hand, [(2, 5)]);
        assert!(is_any(&in_hand));
        in_hand.settle(Some(2), 5);
        assert!(!is_any(&in_hand));
        hand_over(&mut in_hand, [(3, 6)]);
        in_hand.reset();
        assert!(!is_any(&in_hand));
        // Of the next stream, the numbers of which begin anew.
        hand_over(&mut in_hand, [(1, 5)]);
        assert!(is_any(&in_hand));
        in_hand.settle(None, 5);
        assert!(!is_any(&in_hand));
    }

    #[test]
    fn what_was_handed_over_a_deadline_ago_is_not_in_hand() {
        for by_position in [false, true] {
            let mut in_hand = InHand::default();
            if by_position {
                in_hand.count_positions(0);
            }
            // One that is never answered, and an hour of others, of which each is.
            hand_over(&mut in_hand, [(1, 1)]);
            in_hand.look(1, 0, LASTS);
            assert_eq!(in_hand.until_ms(29_999, LASTS), Some(30_000));
            assert_eq!(in_hand.until_ms(30_000, LASTS), None);
            for number in 2..=3_600 {
                hand_over(&mut in_hand, [(number, number)]);
                in_hand.look(number, 1_000 * number, LASTS);
                assert!(in_hand.spans.len() <= 1 + SPAN_PART as usize);
                let handle = (number % 2 == 0).then_some(number);
                if handle.is_some() || by_position {
                    in_hand.settle(handle, number);
                } else {
                    in_hand.settle(Some(number), number);
                }
            }
            assert_eq!(in_hand.until_ms(3_600_000, LASTS), None);
            // An answer to what is forgotten counts for no other.
            hand_over(&mut in_hand, [(3_601, 3_601)]);
            in_hand.settle(Some(1), 1);
            in_hand.settle(None, 1);
            assert_eq!(in_hand.until_ms(3_600_000, LASTS), Some(3_630_000));
        }
    }

    #[test]
    fn what_is_never_answered_takes_no_room_for_ever() {
        let mut in_hand = InHand::default();
        in_hand.count_positions(0);
        let kept = |in_hand: &InHand| {
            let by_position = in_hand.by_position.as_ref();
            by_position.map_or(0, |by_position| by_position.unanswered.len())
        };
        for number in 1..=10_000 {
            hand_over(&mut in_hand, [(number, number)]);
            in_hand.look(number, 100 * number, LASTS);
            assert!(kept(&in_hand) <= 320, "{}", kept(&in_hand));
            assert!(in_hand.spans.len() <= 1 + SPAN_PART as usize);
        }
        assert_eq!(in_hand.until_ms(1_000_000, LASTS), Some(1_030_000));
        // However many there are within one deadline.
        let all = POSITIONS_MAX as u64 + 10;
        hand_over(
            &mut in_hand,
            (10_001..=10_000 + all).map(|number| (number, number)),
        );
        assert_eq!(kept(&in_hand), POSITIONS_MAX);
        in_hand.look(10_000 + all, 1_000_000, LASTS);
        in_hand.look(10_000 + all, 1_030_000, LASTS);
        assert_eq!(kept(&in_hand), 0);
    }

    #[test]
    fn an_extension_counts_until_it_is_answered_or_not_held() {
        for by_position in [false, true] {
            let mut in_hand = InHand::default();
            if by_position {
                in_hand.count_positions(0);
            }
            hand_over(&mut in_hand, [(1, 11), (2, 12), (3, 13)]);
            in_hand.look(3, 0, LASTS);
            in_hand.extend(Some(1), 11, 3_600_000, 1_000);
            in_hand.extend(Some(2), 12, 100_000, 1_000);
            assert_eq!(in_hand.until_ms(1_000, LASTS), Some(3_600_000));
            in_hand.settle(Some(1), 11);
            assert_eq!(in_hand.until_ms(1_000, LASTS), Some(100_000));
            in_hand.not_held(&(12..=12));
            assert_eq!(in_hand.until_ms(1_000, LASTS), Some(30_000));
            assert_eq!(in_hand.until_ms(30_000, LASTS), None);
            // Beyond its first deadline, which is forgotten.
            in_hand.extend(Some(3), 13, 50_000, 20_000);
            in_hand.look(3, 40_000, LASTS);
            in_hand.extend(by_position.then_some(3), 13, 60_000, 40_000);
            assert!(in_hand.extended_until_ms(13).is_some());
            in_hand.settle(by_position.then_some(3), 13);
            assert_eq!(in_hand.until_ms(40_000, LASTS), None);
        }
    }

    #[test]
    fn what_is_known_to_be_answered_is_not_extended() {
        let mut in_hand = InHand::default();
        hand_over(&mut in_hand, [(1, 11)]);
        in_hand.count_positions(1);
        hand_over(&mut in_hand, [(2, 12)]);
        in_hand.look(2, 0, LASTS);
        in_hand.settle(None, 12);
        // Somebody goes on saying that it is at work.
        in_hand.extend(Some(2), 12, 90_000, 0);
        assert_eq!(in_hand.until_ms(0, LASTS), Some(30_000));
        // Of one from before it is not known, as long as any of those may be in hand.
        in_hand.extend(None, 11, 60_000, 29_999);
        assert_eq!(in_hand.until_ms(30_000, LASTS), Some(60_000));
        in_hand.settle(None, 11);
        in_hand.extend(None, 11, 90_000, 30_000);
        assert_eq!(in_hand.until_ms(30_000, LASTS), None);
    }
}
