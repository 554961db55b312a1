//! Memory for what clients send, as shares: of the broker, of a principal, of a connection. A publish stream is granted credit
//! from the shares of all three, and whoever sends a message that is larger than what it was granted waits until all three have
//! room for it. What is remembered of what consumers were sent packed counts likewise, for who has a share of that. So what everybody together can hold in the broker is known, and nobody can take what others need. Who a client
//! is was decided before; nothing here reads or writes.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::locks::lock;

/// Parts of all memory for what clients send: a principal may have a half, and a connection a half of that.
const OF_PRINCIPAL: usize = 2;
const OF_CONNECTION: usize = 4;
/// Part of what clients without a certificate may have together, that those of one network may have.
const OF_NETWORK: usize = 4;

/// A stream gets at most this part of what is left of a share, so that a few never take everything.
const PART: usize = 8;

/// Large messages are counted in units of this many bytes.
const UNIT_BYTES: usize = 1024;

/// What an account may give away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Publish streams.
    pub(super) streams: usize,
    /// Bytes of credit that streams get beyond the floor that each has.
    pub(super) credit_bytes: usize,
    /// Bytes of messages that are larger than what their stream was granted.
    pub(super) large_bytes: usize,
    /// Bytes that are remembered of what consumers were sent.
    pub(super) sent_bytes: usize,
}

/// A share and what is taken of it. What is taken is taken of the account above, too.
#[derive(Debug)]
pub(super) struct MemoryAccount {
    above: Option<Arc<MemoryAccount>>,
    share: Share,
    taken: Mutex<Taken>,
    large: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Taken {
    streams: usize,
    credit_bytes: usize,
    sent_bytes: usize,
}

/// Credit of one publish stream, given back when dropped.
#[derive(Debug)]
pub(super) struct CreditGrant {
    account: Arc<MemoryAccount>,
    floor: usize,
    extra: usize,
}

/// Room for what is remembered of one consumer's stream, given back when dropped.
#[derive(Debug)]
pub(super) struct Remembered {
    account: Arc<MemoryAccount>,
    bytes: usize,
}

/// Room for one large message, given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// What of everything one principal may have, on so many streams.
    pub(super) fn of_principal(self, streams: usize) -> Self {
        let part = self.part(OF_PRINCIPAL);
        Self { streams, ..part }
    }

    /// What of everything one connection may have, on so many streams.
    pub(super) fn of_connection(self, streams: usize) -> Self {
        let part = self.part(OF_CONNECTION);
        Self { streams, ..part }
    }

    /// What of everything that clients without a certificate may have, those of one network may have.
    pub(super) fn of_network(self) -> Self {
        self.part(OF_NETWORK)
    }

    // This part of it, for somebody who is one of many. A message is always let in when nothing else is, and a stream too.
    fn part(self, of: usize) -> Self {
        Self {
            streams: (self.streams / of).max(1),
            credit_bytes: self.credit_bytes / of,
            large_bytes: self.large_bytes / of,
            sent_bytes: self.sent_bytes / of,
        }
    }
}

impl MemoryAccount {
    /// The account of everybody.
    pub(super) fn of_all(share: Share) -> Arc<Self> {
        Self::new(None, share)
    }

    /// An account of somebody who shares this one with others.
    pub(super) fn below(self: &Arc<Self>, share: Share) -> Arc<Self> {
        Self::new(Some(self.clone()), share)
    }

    fn new(above: Option<Arc<Self>>, share: Share) -> Arc<Self> {
        Arc::new(Self {
            above,
            share,
            taken: Mutex::default(),
            large: Arc::new(Semaphore::new(units(share.large_bytes) as usize)),
        })
    }

    /// Credit for a publish stream: `floor`, and beyond it at most `wanted` together, less the more of the shares is taken. A stream
    /// that has reason to want several `times` what others want gets as many times more of what is left, too.
    /// `None` when there are too many streams already.
    pub(super) fn grant(
        self: &Arc<Self>,
        wanted: usize,
        times: usize,
        floor: usize,
    ) -> Option<CreditGrant> {
        let extra = self.take(wanted.saturating_sub(floor), times)?;
        Some(CreditGrant {
            account: self.clone(),
            floor,
            extra,
        })
    }

    // From below to above, as all locks of accounts are taken.
    fn take(&self, wanted: usize, times: usize) -> Option<usize> {
        let mut taken = lock(&self.taken);
        if taken.streams >= self.share.streams {
            return None;
        }
        let left = self.share.credit_bytes.saturating_sub(taken.credit_bytes);
        let here = wanted.min((left / PART).saturating_mul(times).min(left / 2));
        let bytes = match &self.above {
            Some(above) => above.take(here, times)?,
            None => here,
        };
        taken.streams += 1;
        taken.credit_bytes += bytes;
        Some(bytes)
    }

    fn give_back(&self, bytes: usize) {
        {
            let mut taken = lock(&self.taken);
            taken.streams = taken.streams.saturating_sub(1);
            taken.credit_bytes = taken.credit_bytes.saturating_sub(bytes);
        }
        if let Some(above) = &self.above {
            above.give_back(bytes);
        }
    }

    /// Room for `bytes` that are remembered of a consumer's stream, if all shares have as much.
    pub(super) fn remember(self: &Arc<Self>, bytes: usize) -> Option<Remembered> {
        self.take_sent(bytes).then(|| Remembered {
            account: self.clone(),
            bytes,
        })
    }

    fn take_sent(&self, bytes: usize) -> bool {
        let mut taken = lock(&self.taken);
        let fits = taken.sent_bytes + bytes <= self.share.sent_bytes;
        if !fits
            || self
                .above
                .as_ref()
                .is_some_and(|above| !above.take_sent(bytes))
        {
            return false;
        }
        taken.sent_bytes += bytes;
        true
    }

    fn give_back_sent(&self, bytes: usize) {
        {
            let mut taken = lock(&self.taken);
            taken.sent_bytes = taken.sent_bytes.saturating_sub(bytes);
        }
        if let Some(above) = &self.above {
            above.give_back_sent(bytes);
        }
    }

    /// Waits for room for `bytes` of a large message, in the order in which it was asked for. What is larger than a whole share
    /// counts as that.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: nothing is taken, but the place in the line is lost.
    pub(super) async fn room(self: &Arc<Self>, mut bytes: usize) -> Room {
        let mut permits = Vec::with_capacity(4);
        let mut next = Some(self);
        // From below to above, so that who waits for a share of all holds only what is his own.
        while let Some(account) = next {
            bytes = bytes.min(account.share.large_bytes);
            let wanted = units(bytes);
            // These semaphores are never closed.
            permits.extend(account.large.clone().acquire_many_owned(wanted).await.ok());
            next = account.above.as_ref();
        }
        Room { _permits: permits }
    }
}

impl CreditGrant {
    /// Bytes of credit.
    pub(super) fn bytes(&self) -> usize {
        self.floor + self.extra
    }
}

impl Drop for CreditGrant {
    fn drop(&mut self) {
        self.account.give_back(self.extra);
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.account.give_back_sent(self.bytes);
    }
}

fn units(bytes: usize) -> u32 {
    // More than 2^32 KiB are as good as no limit, and more than a semaphore can count.
    u32::try_from(bytes.div_ceil(UNIT_BYTES))
        .unwrap_or(u32::MAX)
        .min(u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SHARE: Share = Share {
        streams: 100,
        credit_bytes: 8_000,
        large_bytes: 64 * UNIT_BYTES,
        sent_bytes: 400,
    };

    #[test]
    fn credit_shrinks_to_the_floor_and_recovers() {
        let account = MemoryAccount::of_all(SHARE);
        let grants: Vec<CreditGrant> = (0..100).filter_map(|_| account.grant(910, 1, 10)).collect();
        let bytes: Vec<usize> = grants.iter().map(CreditGrant::bytes).collect();
        assert_eq!(bytes[..3], [910, 10 + 887, 10 + 776]);
        assert_eq!(bytes.last(), Some(&10));
        assert!(bytes.iter().sum::<usize>() <= 8_000 + 100 * 10);
        assert!(account.grant(910, 1, 10).is_none(), "one stream too many");
        drop(grants);
        assert_eq!(
            account.grant(910, 1, 10).map(|grant| grant.bytes()),
            Some(910)
        );
    }

    #[test]
    fn who_has_reason_to_gets_more_of_what_is_left() {
        let account = MemoryAccount::of_all(SHARE);
        let far = account.grant(8_000, 3, 1).expect("a stream");
        assert_eq!(far.bytes(), 1 + 3_000);
        let further = account.grant(8_000, 100, 1).expect("a stream");
        assert_eq!(further.bytes(), 1 + 2_500, "never more than half");
    }

    #[test]
    fn one_of_many_takes_only_its_own_share() {
        let all = MemoryAccount::of_all(SHARE);
        let greedy = all.below(SHARE.part(2));
        let grants: Vec<CreditGrant> = (0..200).filter_map(|_| greedy.grant(8_000, 1, 1)).collect();
        assert_eq!(grants.len(), 50);
        let modest = all.below(SHARE.part(2)).grant(400, 1, 1).expect("a stream");
        assert_eq!(modest.bytes(), 400, "there is as much left as it wants");
        drop((grants, modest));
        let taken = lock(&all.taken);
        assert_eq!((taken.streams, taken.credit_bytes), (0, 0));
    }

    #[test]
    fn large_messages_wait_for_room_in_all_shares() {
        let all = MemoryAccount::of_all(SHARE);
        let (one, other) = (all.below(SHARE.part(2)), all.below(SHARE.part(2)));
        let first = one.room(32 * UNIT_BYTES).now_or_never().expect("room");
        assert!(one.room(1).now_or_never().is_none(), "its share is taken");
        let second = other.room(1 << 40).now_or_never();
        assert!(
            second.is_some(),
            "the other's is not, and larger than it counts as all of it"
        );
        drop(first);
        assert!(one.room(1).now_or_never().is_some());
    }

    #[test]
    fn what_is_not_a_limit_any_more_does_not_overflow() {
        let share = Share {
            streams: usize::MAX,
            credit_bytes: usize::MAX,
            large_bytes: usize::MAX,
            sent_bytes: usize::MAX,
        };
        let account = MemoryAccount::of_all(share);
        assert!(account.room(usize::MAX).now_or_never().is_some());
        assert!(account.grant(1 << 20, 1, 1).is_some());
        assert!(account.remember(1 << 20).is_some());
    }

    #[test]
    fn what_is_remembered_for_consumers_stays_in_all_shares() {
        let all = MemoryAccount::of_all(SHARE);
        let (one, other) = (all.below(SHARE.part(2)), all.below(SHARE.part(2)));
        let third = all.below(SHARE.part(2));
        let of = |account: &Arc<MemoryAccount>| -> Vec<Remembered> {
            (0..9).map_while(|_| account.remember(50)).collect()
        };
        let (first, second) = (of(&one), of(&other));
        assert_eq!((first.len(), second.len()), (4, 4));
        assert!(of(&third).is_empty(), "nothing is left of all");
        drop(first);
        assert_eq!(of(&third).len(), 4);
        drop(second);
        for account in [&all, &one, &other, &third] {
            assert_eq!(lock(&account.taken).sent_bytes, 0);
        }
    }
}
