//! A consumer of a subscription, as its connection sees it: it asks for deliveries and answers them. What is sent to whom, and when,
//! is the connection's business.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::context::DeliveryContext;
use super::fetcher::{Fetcher, Manner};
use super::leased_events::{LeasedEvent, LeasedSlice};
use super::transform_chain::Room;
use crate::auth::authorize;
use crate::broker::commit::request::Control;
use crate::broker::error::{ConsumeError, Unavailable};
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{
    ConsumerId, EncodedEvents, Millis, Position, Principal, Sequence, SubscriptionId, TopicName,
};
use crate::telemetry::error_line::with_causes;

/// When to try again to set up transforms for which the broker had no instance left.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// A delivery's entries of at least this many bytes are sent as they are, and kept until they have arrived. Shorter ones are
/// copied into what is sent, which is cheaper than a piece more in QUIC's queue, so until then they may be slices of something
/// much larger.
pub const SHARED_BYTES_MIN: usize = 2 * 1024;

/// One consumer attached to a subscription. Dropping it detaches it, which gives its events back at once.
pub struct Consumer {
    fetcher: Fetcher,
    who: Principal,
    // Of which version of the policy the answer was that let it in.
    let_in_by: u64,
    // Its client gave something back since it asked for more.
    gave_back: AtomicBool,
}

impl Consumer {
    pub(crate) fn attach(
        context: Arc<DeliveryContext>,
        live: Arc<LiveSubscription>,
        manner: Manner,
        who: Principal,
        let_in_by: u64,
    ) -> Self {
        Self {
            fetcher: Fetcher::attach_for(context, live, manner),
            who,
            let_in_by,
            gave_back: AtomicBool::new(false),
        }
    }

    /// Waits until whoever consumes may do so no more: grants were taken away, or the subscription has another owner.
    /// Cancel-safe.
    pub async fn denied(&self) -> ConsumeError {
        let policy = &self.fetcher.context.policy;
        let mut news = policy.watch();
        let mut known = self.let_in_by;
        loop {
            let version = *news.borrow_and_update();
            if version != known {
                known = version;
                let spec = self.spec();
                if let Err(denied) = authorize::stay_attached(policy, &self.who, &spec) {
                    return denied.into();
                }
            }
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The subscription as it is now.
    #[must_use]
    pub fn spec(&self) -> Arc<crate::domain::SubscriptionSpec> {
        self.fetcher.live.settings().spec.clone()
    }

    /// Waits until something can be delivered and returns at most `events_max` events of at most about
    /// `bytes_max` bytes (one event may exceed it, so that a large event is not stuck for ever).
    ///
    /// # Errors
    ///
    /// The subscription was deleted, the broker is shutting down, its store cannot be read, or transforms that the
    /// subscription was changed to cannot be set up.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: events handed out to a cancelled call are given back.
    pub async fn next(
        &self,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Delivery>, ConsumeError> {
        let (events_max, bytes_max) = (events_max.max(1), bytes_max.max(1));
        loop {
            let slices = self.fetcher.take(events_max, bytes_max).await?;
            let deliveries = self.deliveries(slices).await?;
            if deliveries.is_empty() {
                continue;
            }
            let events: u64 = deliveries.iter().map(Delivery::count).sum();
            let bytes: usize = deliveries.iter().map(Delivery::bytes).sum();
            self.fetcher.context.metrics.delivered(events, bytes as u64);
            self.fetcher
                .handing(|handing| handing.fetched(deliveries.iter().map(Delivery::range)));
            return Ok(deliveries);
        }
    }

    // With the transforms that the subscription has now.
    async fn deliveries(&self, slices: Vec<LeasedSlice>) -> Result<Vec<Delivery>, ConsumeError> {
        let settings = self.fetcher.live.settings();
        if settings.spec.transforms.is_empty() {
            return Ok(slices.into_iter().map(Delivery::from).collect());
        }
        let leased: Vec<LeasedEvent> = slices
            .into_iter()
            .flat_map(LeasedSlice::into_events)
            .collect();
        // Given back if this call is dropped while it waits.
        let guard = InHand {
            fetcher: &self.fetcher,
            positions: leased.iter().map(|l| l.position).collect(),
        };
        let transforms = match self
            .fetcher
            .context
            .chains
            .of(&self.fetcher.live, &settings)
            .await
        {
            Ok(transforms) => transforms,
            Err(error) if error.is_passing() => {
                tracing::warn!(subscription = %self.fetcher.live.name, principal = %self.who, %error, "transforms cannot be set up now; trying again");
                drop(guard);
                tokio::time::sleep(BUSY_RETRY).await;
                return Ok(Vec::new());
            }
            Err(error) => return Err(ConsumeError::Invalid(with_causes(&error))),
        };
        let inputs: Vec<_> = leased.iter().map(LeasedEvent::input).collect();
        let room = Room::Together(self.fetcher.context.delivery_bytes_max);
        let dispositions = transforms.apply_within(&inputs, room).await;
        guard.done();
        let rest = leased.get(dispositions.len()..).unwrap_or_default();
        self.fetcher
            .give_back(rest.iter().map(|leased| leased.position));
        let mut deliveries = Vec::with_capacity(dispositions.len());
        let results = leased.into_iter().zip(dispositions);
        for (leased, outputs) in self.fetcher.conclude_all(results) {
            if outputs.is_empty() {
                let here = leased.position..=leased.position;
                self.fetcher.finish(&[here]);
            } else {
                let parts = outputs.into_iter().map(|output| output.event).collect();
                deliveries.push(Delivery {
                    topic: leased.topic,
                    position: leased.position,
                    sequence: leased.sequence,
                    time: leased.time,
                    attempt: leased.attempt,
                    suspect: leased.suspect,
                    body: Body::Made(parts),
                });
            }
        }
        Ok(deliveries)
    }

    /// Whether none of the subscription's events is in its hands, or on the way there.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        self.fetcher.live.read().held_by(self.fetcher.id) == 0
    }

    /// Which one of the subscription it is.
    #[must_use]
    pub fn id(&self) -> ConsumerId {
        self.fetcher.id
    }

    /// The subscription that it is of.
    #[must_use]
    pub fn subscription_id(&self) -> SubscriptionId {
        self.fetcher.live.id
    }

    /// The consumers of the subscription that could be handed what others hold. Nobody while it is paused.
    #[must_use]
    pub fn successors(&self) -> Vec<ConsumerId> {
        self.fetcher.live.read().successors().collect()
    }

    /// Follows why nothing comes while the subscription is paused.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.fetcher.live.paused()
    }

    /// The events are done with. Positions that this consumer does not hold are left as they are; they are returned, as they are by all
    /// answers.
    pub fn ack(&self, positions: &[RangeInclusive<Position>]) -> Vec<RangeInclusive<Position>> {
        let id = self.fetcher.id;
        self.fetcher
            .answer(positions, |state, _| state.ack(id, positions))
    }

    /// Completes once all acks that were made so far are on disk.
    pub fn acks_durable(&self) -> impl Future<Output = Result<(), Unavailable>> + Send + 'static {
        let inbox = self.fetcher.context.inbox.clone();
        async move { inbox.ask(Control::ConfirmAcks).await }
    }

    /// Deliver again, after `delay_ms` or the subscription's back-off.
    pub fn nack(
        &self,
        positions: &[RangeInclusive<Position>],
        delay_ms: Option<u64>,
    ) -> Vec<RangeInclusive<Position>> {
        let id = self.fetcher.id;
        self.fetcher.answer(positions, |state, now| {
            state.nack(id, positions, delay_ms, now)
        })
    }

    /// To the dead-letter topic.
    pub fn term(
        &self,
        positions: &[RangeInclusive<Position>],
        reason: &str,
    ) -> Vec<RangeInclusive<Position>> {
        let id = self.fetcher.id;
        self.fetcher
            .answer(positions, |state, _| state.term(id, positions, reason))
    }

    /// Starts the ack deadline anew, for so long, or as long as the subscription says.
    pub fn extend(
        &self,
        positions: &[RangeInclusive<Position>],
        extend_for_ms: Option<u64>,
    ) -> Vec<RangeInclusive<Position>> {
        let id = self.fetcher.id;
        self.fetcher.answer(positions, |state, now| {
            state.extend(id, positions, extend_for_ms, now)
        })
    }

    /// This consumer takes no frames that the event fits in, as `why` says; another may. It counts as an attempt.
    pub fn too_large(&self, position: Position, why: &str) {
        let Fetcher { live, id, .. } = &self.fetcher;
        live.apply(|state, now| state.too_large(*id, position, why, now));
    }

    /// Of what [`next`](Self::next) returned, so many deliveries are on their way now, in that order, and of these the
    /// `ranges`; the others cannot be sent.
    pub fn sent(
        &self,
        deliveries: usize,
        ranges: impl IntoIterator<Item = RangeInclusive<Position>>,
    ) {
        self.fetcher.handing(|handing| {
            handing.is_sent(deliveries);
            ranges.into_iter().for_each(|range| handing.sent(range));
        });
    }

    /// The application may have got so many events of all that were sent. For those it still holds, the ack deadline begins.
    pub fn handed_over(&self, events: u64) {
        let Fetcher { live, id, .. } = &self.fetcher;
        // Both in one, so that nobody finds the events handed over and their deadline not begun.
        live.apply(|state, now| {
            let ranges = self.fetcher.handing(|handing| handing.handed_over(events));
            if let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) {
                state.handed_over(*id, &ranges, now);
            }
        });
    }

    /// The client says more before it hands over more than so many events of all that were sent. What is beyond that is no suspect.
    pub fn hands_over_at_most(&self, events: u64) {
        self.fetcher
            .handing(|handing| handing.hands_over_at_most(events));
    }

    /// Ends it because its connection is lost: what the application may have had in hand becomes suspect. Dropping it
    /// otherwise detaches it: nothing counts as an attempt.
    pub fn cut(mut self) {
        self.fetcher.is_cut = true;
    }

    /// The client gives back what its application has not got and will not get; this attempt does not count.
    pub fn take_back(&self, ranges: &[RangeInclusive<Position>]) {
        let Fetcher { live, id, .. } = &self.fetcher;
        self.gave_back.store(true, Ordering::Relaxed);
        live.apply(|state, _| state.take_back(*id, ranges));
    }

    /// It asks for more, so that it gets something again if it gave back what its application did not take.
    pub fn goes_on(&self) {
        // One stream says both, in turn. Most never give anything back, and their credit needs no lock.
        if self.gave_back.swap(false, Ordering::Relaxed) {
            let Fetcher { live, id, .. } = &self.fetcher;
            live.apply(|state, _| state.goes_on(*id));
        }
    }

    /// Gives events back that were handed out but not sent; this attempt does not count.
    pub fn give_back(&self, positions: impl Iterator<Item = Position>) {
        self.fetcher.give_back(positions);
    }
}

// Positions that go back if the call that holds them is dropped.
struct InHand<'a> {
    fetcher: &'a Fetcher,
    positions: Vec<Position>,
}

impl InHand<'_> {
    fn done(mut self) {
        self.positions.clear();
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.fetcher.give_back(self.positions.iter().copied());
    }
}

/// Events for a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Their topic.
    pub topic: TopicName,
    /// Place of the first event in the broker; acks name it. The others follow without a gap.
    pub position: Position,
    /// Place of the first event in its topic. The others follow without a gap.
    pub sequence: Sequence,
    /// When they were appended.
    pub time: Millis,
    /// How often they have been handed out, this time included.
    pub attempt: u32,
    /// A consumer that had them before lost its connection.
    pub suspect: bool,
    /// What they say.
    pub body: Body,
}

/// What a [`Delivery`] holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// Events as they are stored: at least one. Fewer bytes than [`SHARED_BYTES_MIN`] may keep much more in memory.
    Stored(EncodedEvents),
    /// The parts that transforms made of one event, encoded: at least one.
    Made(Vec<Bytes>),
}

impl Delivery {
    /// How many events are delivered, each of which is acked by its position.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.body {
            Body::Stored(entries) => u64::from(entries.count()),
            Body::Made(_) => 1,
        }
    }

    /// Bytes of the encoded events: what a consumer's credit counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.body {
            Body::Stored(entries) => entries.event_bytes(),
            Body::Made(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    /// First and last position of the events.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<Position> {
        let last = self.position.0 + self.count().saturating_sub(1);
        self.position..=Position(last)
    }

    /// Positions of the events.
    pub fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        let first = self.position.0;
        (first..first + self.count()).map(Position)
    }
}

impl From<LeasedSlice> for Delivery {
    fn from(mut slice: LeasedSlice) -> Self {
        if slice.entries.bytes().len() >= SHARED_BYTES_MIN {
            slice.detach();
        }
        Self {
            topic: slice.topic,
            position: slice.first_position,
            sequence: slice.first_sequence,
            time: slice.time,
            attempt: slice.attempt,
            suspect: slice.suspect,
            body: Body::Stored(slice.entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::leased_events::tests::{is_slice, open};
    use super::*;

    #[test]
    fn a_delivery_is_a_slice_when_it_is_copied_at_once_or_most_of_its_block() {
        let open = open(&[100, SHARED_BYTES_MIN, 4 * SHARED_BYTES_MIN]);
        let shares = |places: Range<usize>| {
            let delivery = Delivery::from(open.slice(places, (1, false)));
            let Body::Stored(entries) = delivery.body else {
                panic!("nobody has made anything of it");
            };
            is_slice(&open, entries.bytes())
        };
        assert!(shares(0..1), "short");
        assert!(!shares(1..2), "kept until it has arrived");
        assert!(shares(1..3), "most of the block");
    }
}
