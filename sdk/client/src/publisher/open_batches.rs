//! The batches being filled, one open batch per topic, and the order in which they go out. Pure: no task, no clock,
//! no stream; the time is an argument.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustc_hash::FxHashMap;
use tidegate_wire::batch::{element_len, push_event};
use tidegate_wire::credit::batch_cost;
use tidegate_wire::pb;
use tokio::time::Instant;

use super::path_bounds::{SMALL_IN_FLIGHT, batch_bytes_max, small_batches_max};
use super::ticket::Fate;
use super::window::Window;

/// From this many bytes on, a batch is not small: one block of the broker's store.
const SMALL_BYTES: usize = 64 * 1024;

/// Topics remembered although nothing of them is under way.
const IDLE_TOPICS_MAX: usize = 1024;

/// Batches are not made smaller than this to fit a stream's credit; one may always be outstanding, whatever it costs.
const COST_LEAST: usize = 16 * 1024;

/// Room a batch starts with at most, a full one by default; it grows with what comes.
const START_BYTES_MAX: usize = 256 * 1024;

/// The batches being filled.
#[derive(Debug)]
pub(super) struct Gatherer {
    topics: Topics,
    /// Where the topics are that have a batch that may go out, those that have waited longest first.
    queue: VecDeque<usize>,
    batch_bytes_max: usize,
    batch_events_max: usize,
    batch_cost_max: usize,
    /// What is answered whole should not be longer than what the path carries at a time.
    path_bytes_max: usize,
    small_in_flight_max: usize,
    /// Batches that are not resolved. They are numbered in the order in which they were begun.
    unresolved: Window<()>,
}

/// The topics that are remembered, each in its place for as long as anything of it is under way.
#[derive(Debug, Default)]
struct Topics {
    /// Names come from the program itself, so a fast hash is as good as one that withstands attacks.
    places: FxHashMap<Arc<str>, usize>,
    all: Vec<Topic>,
    /// Places of forgotten ones.
    free: Vec<usize>,
    /// Where the last event went: mostly the next one goes there too.
    last: usize,
}

impl Topics {
    /// The place of the topic `name`, which it gets if it has none.
    fn place(&mut self, name: &str) -> usize {
        let is_last = |topic: &Topic| !topic.is_forgotten && *topic.name == *name;
        if !self.all.get(self.last).is_some_and(is_last) {
            self.last = match self.places.get(name) {
                Some(place) => *place,
                None => self.add(name),
            };
        }
        self.last
    }

    fn add(&mut self, name: &str) -> usize {
        if self.places.len() >= IDLE_TOPICS_MAX {
            self.forget_idle();
        }
        let topic = Topic::new(name.into());
        let name = Arc::clone(&topic.name);
        let place = match self.free.pop() {
            Some(place) => {
                self.all[place] = topic;
                place
            }
            None => {
                self.all.push(topic);
                self.all.len() - 1
            }
        };
        self.places.insert(name, place);
        place
    }

    fn forget_idle(&mut self) {
        let (all, free) = (&mut self.all, &mut self.free);
        self.places.retain(|_, place| {
            let topic = &mut all[*place];
            topic.is_forgotten = !topic.queued && topic.is_idle();
            if topic.is_forgotten {
                free.push(*place);
            }
            !topic.is_forgotten
        });
    }
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    full: VecDeque<Gathered>,
    open: Option<Gathered>,
    /// Batches taken and not resolved.
    in_flight: usize,
    /// It is in the queue.
    queued: bool,
    /// Its place is free.
    is_forgotten: bool,
    /// Bytes of the batch before: a guess for the next one.
    last_bytes: usize,
}

impl Topic {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            full: VecDeque::new(),
            open: None,
            in_flight: 0,
            queued: false,
            is_forgotten: false,
            last_bytes: 0,
        }
    }

    fn may_send(&self, small_in_flight_max: usize) -> bool {
        !self.full.is_empty()
            || self.open.as_ref().is_some_and(|open| {
                self.in_flight < small_in_flight_max || open.body.len() >= SMALL_BYTES
            })
    }

    fn is_idle(&self) -> bool {
        self.full.is_empty() && self.open.is_none() && self.in_flight == 0
    }
}

/// A batch without a number yet.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) topic: Arc<str>,
    /// Where the gatherer has its topic, until it is resolved.
    pub(super) topic_at: usize,
    /// The events, as `PublishBatch.events`.
    pub(super) body: BytesMut,
    pub(super) events: usize,
    /// Bytes of the encoded events alone.
    event_bytes: usize,
    /// Room taken by its events, to be given back.
    pub(super) admitted_bytes: usize,
    pub(super) fate: Arc<Fate>,
    pub(super) begun: Instant,
    pub(super) order: u64,
    /// Not to wait for company any longer.
    released: bool,
}

impl Gathered {
    /// What it costs of a stream's credit.
    pub(super) fn cost(&self) -> usize {
        batch_cost(self.events, self.event_bytes)
    }
}

/// Where an event went.
pub(super) struct Pushed {
    pub(super) fate: Arc<Fate>,
    /// Its place in its batch.
    pub(super) index: usize,
    /// The driver has something new to send.
    pub(super) wake: bool,
}

impl Gatherer {
    pub(super) fn new(batch_bytes_max: usize, batch_events_max: usize) -> Self {
        Self {
            topics: Topics::default(),
            queue: VecDeque::new(),
            batch_bytes_max,
            batch_events_max: batch_events_max.max(1),
            batch_cost_max: usize::MAX,
            path_bytes_max: usize::MAX,
            small_in_flight_max: SMALL_IN_FLIGHT,
            unresolved: Window::new(0),
        }
    }

    /// How long a round trip to the broker takes now, and how many bytes are worth handing to the path at a time. Holds from the next
    /// event or answer of each topic on.
    pub(super) fn set_path(&mut self, round_trip: Duration, bytes: usize) {
        self.path_bytes_max = batch_bytes_max(round_trip, bytes);
        self.small_in_flight_max = small_batches_max(round_trip);
    }

    /// The credit of the stream that batches go to from now on: no batch is made that costs more, as far as it depends on how
    /// many events are gathered.
    pub(super) fn set_credit(&mut self, credit: usize) {
        self.batch_cost_max = credit.max(COST_LEAST);
    }

    /// Adds `event`, which takes `size` bytes encoded, to the open batch of `topic`. It has taken `admitted_bytes` of
    /// room.
    pub(super) fn push(
        &mut self,
        topic: &str,
        event: &mut pb::Event,
        size: usize,
        admitted_bytes: usize,
        now: impl FnOnce() -> Instant,
    ) -> Pushed {
        let topic_at = self.topics.place(topic);
        let entry = &mut self.topics.all[topic_at];
        let mut filled = false;
        if let Some(open) = &entry.open {
            let full = open.events >= self.batch_events_max
                || open.body.len() + element_len(size)
                    > self.batch_bytes_max.min(self.path_bytes_max)
                || batch_cost(open.events + 1, open.event_bytes + size) > self.batch_cost_max;
            if full {
                entry.full.extend(entry.open.take());
                filled = true;
            }
        }
        let last_bytes = entry.last_bytes;
        let open = entry.open.get_or_insert_with(|| Gathered {
            topic: Arc::clone(&entry.name),
            topic_at,
            body: BytesMut::with_capacity(last_bytes.min(START_BYTES_MAX)),
            events: 0,
            event_bytes: 0,
            admitted_bytes: 0,
            fate: Arc::default(),
            begun: now(),
            order: self.unresolved.push(()),
            released: false,
        });
        let index = open.events;
        open.event_bytes += push_event(&mut open.body, event);
        open.events += 1;
        open.admitted_bytes += admitted_bytes;
        let fate = Arc::clone(&open.fate);
        let mut wake = filled;
        if !entry.queued && entry.may_send(self.small_in_flight_max) {
            entry.queued = true;
            self.queue.push_back(topic_at);
            wake = true;
        }
        Pushed { fate, index, wake }
    }

    /// The next batch to send, if there is one that costs at most `credit` and has waited for `linger`.
    pub(super) fn take(
        &mut self,
        credit: usize,
        linger: Duration,
        now: impl Fn() -> Instant,
    ) -> Option<Gathered> {
        for _ in 0..self.queue.len() {
            let topic_at = self.queue.pop_front()?;
            let topic = &mut self.topics.all[topic_at];
            if !topic.may_send(self.small_in_flight_max) {
                // Comes back with the next answer for this topic, or when its batch is no longer small.
                topic.queued = false;
                continue;
            }
            let next = topic.full.front().or(topic.open.as_ref());
            let Some(next) = next else { continue };
            if next.cost() > credit {
                self.queue.push_front(topic_at);
                return None;
            }
            // The clock is looked at by those who linger only.
            let lingers = !linger.is_zero()
                && topic.full.is_empty()
                && !next.released
                && next.begun + linger > now();
            if lingers {
                self.queue.push_back(topic_at);
                continue;
            }
            let batch = topic.full.pop_front().or_else(|| topic.open.take())?;
            topic.in_flight += 1;
            topic.last_bytes = batch.body.len();
            topic.queued = topic.may_send(self.small_in_flight_max);
            if topic.queued {
                self.queue.push_back(topic_at);
            }
            return Some(batch);
        }
        None
    }

    /// When the open batch that has waited longest will have lingered enough. Only of use with a linger.
    pub(super) fn next_linger(&self, linger: Duration) -> Option<Instant> {
        let waiting = self.queue.iter().map(|place| &self.topics.all[*place]);
        waiting
            .filter_map(|topic| topic.full.front().or(topic.open.as_ref()))
            .map(|batch| batch.begun + linger)
            .min()
    }

    /// When the oldest batch was begun.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let first = |topic: &Topic| {
            topic
                .full
                .front()
                .or(topic.open.as_ref())
                .map(|batch| batch.begun)
        };
        self.topics.all.iter().filter_map(first).min()
    }

    /// Ends the linger of everything gathered so far.
    pub(super) fn release(&mut self) {
        for topic in self.topics.all.iter_mut() {
            if let Some(open) = &mut topic.open {
                open.released = true;
            }
        }
    }

    /// A batch that was taken, of the topic at `topic_at`, is resolved. Returns whether there is something new to send.
    pub(super) fn resolved(&mut self, topic_at: usize, order: u64) -> bool {
        let was_there = self.unresolved.take(order).is_some();
        // After everything was taken out there are no topics any more.
        let Some(topic) = self.topics.all.get_mut(topic_at).filter(|_| was_there) else {
            return false;
        };
        topic.in_flight = topic.in_flight.saturating_sub(1);
        if topic.queued || !topic.may_send(self.small_in_flight_max) {
            return false;
        }
        topic.queued = true;
        self.queue.push_back(topic_at);
        true
    }

    /// Takes out what was begun before `deadline`; it counts as resolved.
    pub(super) fn expire(&mut self, deadline: Instant) -> Vec<Gathered> {
        let mut expired = Vec::new();
        for topic in self.topics.all.iter_mut() {
            while topic
                .full
                .front()
                .is_some_and(|batch| batch.begun <= deadline)
            {
                expired.extend(topic.full.pop_front());
            }
            if topic
                .open
                .as_ref()
                .is_some_and(|batch| batch.begun <= deadline)
            {
                expired.extend(topic.open.take());
            }
        }
        for batch in &expired {
            self.unresolved.take(batch.order);
        }
        expired
    }

    /// Takes out everything; it, and all that was taken before, counts as resolved.
    pub(super) fn clear(&mut self) -> Vec<Gathered> {
        self.unresolved.clear();
        self.queue.clear();
        let topics = std::mem::take(&mut self.topics);
        topics
            .all
            .into_iter()
            .flat_map(|topic| topic.full.into_iter().chain(topic.open))
            .collect()
    }

    /// Nothing is gathered that was not taken.
    pub(super) fn is_empty(&self) -> bool {
        self.topics
            .all
            .iter()
            .all(|topic| topic.full.is_empty() && topic.open.is_none())
    }

    /// The order that the next batch will have.
    pub(super) fn next_order(&self) -> u64 {
        self.unresolved.numbers().end
    }

    /// All batches begun before the one of `order` are resolved.
    pub(super) fn all_resolved_before(&self, order: u64) -> bool {
        self.unresolved.numbers().start >= order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: usize = usize::MAX;

    fn event(bytes: usize) -> pb::Event {
        pb::Event {
            payload: vec![0; bytes].into(),
            ..Default::default()
        }
    }

    fn push_at(gatherer: &mut Gatherer, topic: &str, bytes: usize, now: Instant) -> Pushed {
        let mut event = event(bytes);
        let size = prost::Message::encoded_len(&event);
        gatherer.push(topic, &mut event, size, size, || now)
    }

    fn push(gatherer: &mut Gatherer, topic: &str, bytes: usize) -> Pushed {
        push_at(gatherer, topic, bytes, Instant::now())
    }

    fn take(gatherer: &mut Gatherer) -> Option<(String, usize)> {
        let batch = gatherer.take(ANY, Duration::ZERO, Instant::now)?;
        Some((batch.topic.to_string(), batch.events))
    }

    #[test]
    fn what_is_queued_goes_out_together() {
        let mut gatherer = Gatherer::new(1000, 10);
        assert!(push(&mut gatherer, "a", 1).wake);
        assert!(!push(&mut gatherer, "a", 1).wake);
        assert_eq!(push(&mut gatherer, "b", 1).index, 0);
        assert_eq!(push(&mut gatherer, "a", 1).index, 2);
        assert_eq!(take(&mut gatherer), Some(("a".into(), 3)));
        assert_eq!(take(&mut gatherer), Some(("b".into(), 1)));
        assert_eq!(take(&mut gatherer), None);
        assert!(gatherer.is_empty());
    }

    #[test]
    fn a_batch_keeps_to_its_limits() {
        let mut gatherer = Gatherer::new(1000, 2);
        for _ in 0..5 {
            push(&mut gatherer, "a", 1);
        }
        assert_eq!(take(&mut gatherer), Some(("a".into(), 2)));
        assert_eq!(take(&mut gatherer), Some(("a".into(), 2)));
        assert_eq!(take(&mut gatherer), Some(("a".into(), 1)));
        let mut gatherer = Gatherer::new(1000, 100);
        for _ in 0..3 {
            push(&mut gatherer, "a", 400);
        }
        assert_eq!(take(&mut gatherer), Some(("a".into(), 2)));
        push(&mut gatherer, "b", 5000);
        assert_eq!(take(&mut gatherer), Some(("a".into(), 1)));
        assert_eq!(
            take(&mut gatherer),
            Some(("b".into(), 1)),
            "one event may be above the batch's limit"
        );
    }

    #[test]
    fn credit_holds_the_queue() {
        let mut gatherer = Gatherer::new(1000, 10);
        push(&mut gatherer, "a", 100);
        let event_bytes = prost::Message::encoded_len(&event(100));
        let cost = batch_cost(1, event_bytes);
        let mut at = |credit| gatherer.take(credit, Duration::ZERO, Instant::now);
        assert!(at(cost - 1).is_none());
        assert_eq!(at(cost).map(|batch| batch.events), Some(1));
    }

    #[test]
    fn empty_events_cost_credit_too() {
        let mut gatherer = Gatherer::new(1 << 20, 4_096);
        gatherer.set_credit(COST_LEAST);
        for _ in 0..2_000 {
            push(&mut gatherer, "a", 0);
        }
        let mut batches = 0;
        while let Some(batch) = gatherer.take(COST_LEAST, Duration::ZERO, Instant::now) {
            assert!(batch.cost() <= COST_LEAST);
            batches += 1;
        }
        assert_eq!(batches, 3, "each as large as the credit lets it be");
        assert!(gatherer.is_empty());
    }

    #[test]
    fn small_batches_wait_for_an_answer() {
        let mut gatherer = Gatherer::new(1 << 20, 10_000);
        let mut orders = Vec::new();
        let a = 0;
        for _ in 0..SMALL_IN_FLIGHT {
            push(&mut gatherer, "a", 1);
            orders.push(
                gatherer
                    .take(ANY, Duration::ZERO, Instant::now)
                    .unwrap()
                    .order,
            );
        }
        assert!(!push(&mut gatherer, "a", 1).wake);
        assert_eq!(take(&mut gatherer), None);
        assert!(
            push(&mut gatherer, "b", 1).wake,
            "another topic does not wait"
        );
        assert_eq!(take(&mut gatherer), Some(("b".into(), 1)));
        assert!(
            push(&mut gatherer, "a", SMALL_BYTES).wake,
            "it is not small any more"
        );
        assert_eq!(take(&mut gatherer), Some(("a".into(), 2)));
        push(&mut gatherer, "a", 1);
        assert!(!gatherer.resolved(a, orders[0]), "nine were under way");
        assert!(gatherer.resolved(a, orders[1]));
        assert_eq!(take(&mut gatherer), Some(("a".into(), 1)));
    }

    #[test]
    fn near_the_broker_one_small_batch_is_under_way_at_a_time() {
        let mut gatherer = Gatherer::new(1 << 20, 10_000);
        gatherer.set_path(Duration::from_micros(200), 1 << 20);
        push(&mut gatherer, "a", 1);
        let first = gatherer.take(ANY, Duration::ZERO, Instant::now).unwrap();
        assert!(!push(&mut gatherer, "a", 1).wake);
        assert_eq!(take(&mut gatherer), None);
        assert!(gatherer.resolved(first.topic_at, first.order));
        assert_eq!(take(&mut gatherer), Some(("a".into(), 1)));
        gatherer.set_path(Duration::from_millis(20), 1 << 20);
        assert!(
            push(&mut gatherer, "a", 1).wake,
            "far away there may be several"
        );
    }

    #[test]
    fn the_longer_the_round_trip_the_more_small_batches_are_under_way() {
        let mut gatherer = Gatherer::new(1 << 20, 10_000);
        for (round_trip_ms, in_flight) in [(20, 8), (100, 40), (600, 240), (10_000, 256)] {
            gatherer.set_path(Duration::from_millis(round_trip_ms), 1 << 20);
            let mut orders = Vec::new();
            while push(&mut gatherer, "a", 1).wake {
                let batch = gatherer.take(ANY, Duration::ZERO, Instant::now);
                orders.push(batch.expect("it may be sent").order);
            }
            assert_eq!(orders.len(), in_flight, "{round_trip_ms} ms");
            gatherer.clear();
        }
    }

    #[test]
    fn a_batch_is_a_part_of_what_the_path_carries_at_a_time() {
        let mut gatherer = Gatherer::new(1 << 20, 10_000);
        for (path, bytes) in [(256 * 1_024, 64 * 1_024), (1, 8 * 1_024)] {
            gatherer.set_path(Duration::from_secs(1), path);
            (0..100).for_each(|_| drop(push(&mut gatherer, "a", 1_000)));
            let batch = gatherer.take(ANY, Duration::ZERO, Instant::now);
            let length = batch.expect("it is full").body.len();
            assert!((bytes - 1_100..=bytes).contains(&length), "{length}");
            gatherer.clear();
        }
    }

    #[test]
    fn a_linger_ends_by_time_or_release() {
        let mut gatherer = Gatherer::new(1000, 2);
        let linger = Duration::from_secs(10);
        let now = Instant::now();
        push_at(&mut gatherer, "a", 1, now);
        assert!(gatherer.take(ANY, linger, || now).is_none());
        assert_eq!(gatherer.next_linger(linger), Some(now + linger));
        assert!(gatherer.take(ANY, linger, || now + linger).is_some());
        push_at(&mut gatherer, "a", 1, now);
        gatherer.release();
        assert!(gatherer.take(ANY, linger, || now).is_some());
        for _ in 0..3 {
            push_at(&mut gatherer, "a", 1, now);
        }
        assert!(
            gatherer.take(ANY, linger, || now).is_some(),
            "a full batch does not linger"
        );
        assert!(gatherer.take(ANY, linger, || now).is_none());
    }

    #[test]
    fn a_flush_covers_what_was_begun_before_it() {
        let mut gatherer = Gatherer::new(1000, 10);
        push(&mut gatherer, "a", 1);
        let target = gatherer.next_order();
        let batch = gatherer.take(ANY, Duration::ZERO, Instant::now).unwrap();
        push(&mut gatherer, "a", 1);
        assert!(!gatherer.all_resolved_before(target));
        gatherer.resolved(batch.topic_at, batch.order);
        assert!(gatherer.all_resolved_before(target));
    }

    #[test]
    fn idle_topics_are_forgotten() {
        let mut gatherer = Gatherer::new(1000, 10);
        for topic in 0..5 * IDLE_TOPICS_MAX {
            push(&mut gatherer, &format!("t{topic}"), 1);
            let batch = gatherer.take(ANY, Duration::ZERO, Instant::now).unwrap();
            gatherer.resolved(batch.topic_at, batch.order);
        }
        assert!(gatherer.topics.places.len() <= IDLE_TOPICS_MAX);
    }
}
