//! Whether the client of a consumer is gone without a word: killed, without power, or behind a path that carries nothing. What it holds
//! is given to other clients then, long before its connection is given up, if there are others. Who holds nothing is not looked at, and
//! who is alone is not asked: nobody else waits for what it holds, and after an outage its answers still count. Nor is anybody given up
//! for others that are silent themselves, as all are when the outage is on the broker's side: those who could take over are asked too.

use std::time::Duration;

use tidegate_wire::stream::Connection;
use tokio::sync::Notify;

use super::super::peer::Peer;
use super::super::silence_watch::{LOOK_EVERY, Seen};
use super::successors::Listed;
use crate::broker::Consumer;

/// A silent client has so many looks to be heard after others were: when all come back, it may be the last.
pub(in super::super) const HEARD_LOOKS: u32 = 3;

/// What a consumer knows of those who could take over since its client is silent.
#[derive(Default)]
struct Waiting {
    /// When they were called.
    called: Option<u64>,
    /// Looks in a row that found one who was heard after that, and lately.
    heard_looks: u32,
}

/// Waits until the client of `consumer` is silent and other clients could have what it holds; returns for how long it is. `took` says that the
/// consumer was handed something.
pub(super) async fn of_client<C: Connection>(
    peer: &Peer<C>,
    consumer: &Consumer,
    listed: &Listed<'_>,
    took: &Notify,
) -> Duration {
    let silent_after = peer.service.options.silent_after;
    loop {
        took.notified().await;
        let mut news = peer.silence.follow();
        let mut waiting = Waiting::default();
        // While the client is heard there are no news, however much comes and goes.
        while news.changed().await.is_ok() && !consumer.holds_nothing() {
            let seen = *news.borrow_and_update();
            if waiting.is_over(peer, seen, silent_after, consumer, listed) {
                return seen.silence_lasts();
            }
        }
    }
}

impl Waiting {
    // Whether others are to have what `consumer` holds; asks whoever is to be asked before.
    fn is_over<C: Connection>(
        &mut self,
        peer: &Peer<C>,
        seen: Seen,
        silent_after: Duration,
        consumer: &Consumer,
        listed: &Listed<'_>,
    ) -> bool {
        let is_late = seen.silence_lasts() + LOOK_EVERY * HEARD_LOOKS >= silent_after;
        let counts = is_late || seen.is_to_be_asked();
        if !counts || !listed.others_could_take(consumer) {
            *self = Self::default();
            return false;
        }
        if !is_late {
            *self = Self::default();
            peer.silence.ask();
            return false;
        }
        let called = *self.called.get_or_insert_with(|| listed.call(consumer));
        if !listed.one_was_heard(consumer, called) {
            self.heard_looks = 0;
            return false;
        }
        self.heard_looks += 1;
        if self.heard_looks == 1 {
            // What was asked during an outage may be asked again late.
            peer.silence.ask();
        }
        self.heard_looks >= HEARD_LOOKS && seen.silence_lasts() >= silent_after
    }
}
