//! The group that is being put together: what one record of the journal will say, and who waits for it to be durable. It gives
//! events their positions and sequences, packs them into blocks, and knows how long it may become. What belongs into it is
//! decided by others, and nothing here is written or shown to anybody.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::journal_note::{self, Note};
use super::publish_reply::{PublishReplies, PublishReply};
use super::request::{Outputs, Reply};
use super::rollback::Rollback;
use super::waiting_acks::Acks;
use super::waiting_returns::Returns;
use crate::broker::error::Unavailable;
use crate::domain::{
    BLOCK_BYTES_MAX, Block, BlockBuilder, BlockOrigin, EncodedEvents, Millis, Position, Sequence,
    SubscriptionId, TopicId,
};
use crate::state::catalog::{Change, Topic};

/// A group takes nothing more once it is this long, heads, notes and all: about what one sync moves at full speed.
pub(super) const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What one batch, or one item of outputs, may add to a group; more is refused. A group takes at most one of each beyond
/// [`GROUP_BYTES_MAX`], and everything else in it is bounded as well, so it is never longer than a record of the journal may be.
const ITEM_BYTES_MAX: usize = 384 * 1024 * 1024;
/// Acks of a group; more are written as groups of their own before it.
const ACK_BYTES_MAX: usize = bound!(1024 * 1024, 256);
/// Ranges of acks in one note: each takes up to 20 bytes.
const NOTE_RANGES_MAX: usize = bound!(16 * 1024, 8);
/// Entries of what came back in one note: each takes up to 40 bytes, and a reason of 1,024 beside that.
const NOTE_RETURNS_MAX: usize = bound!(512, 4);
/// What a block takes in a record beside its entries, and its part of the padding.
pub(super) const BLOCK_HEAD_BYTES: usize = 56;
/// What an event takes in a block beside its own bytes, at most.
pub(super) const ENTRY_HEAD_BYTES: usize = 6;
/// Entries of a batch that are this long make a block of their own, which shares the memory they were received in. Shorter
/// ones are copied together: a block costs an entry in the index, and a slice keeps the whole buffer it lies in.
const SHARED_BLOCK_BYTES_MIN: usize = bound!(32 * 1024, 1024);
/// Memory for notes that is kept for the next group.
const NOTES_KEPT_BYTES: usize = 1024 * 1024;
/// Topics of a group that the memory for the next one has room for.
const TOPICS_KEPT: usize = 4_096;
/// Answers, likewise.
const ANSWERS_KEPT: usize = 4_096;

/// What is about to be written. One after the other uses the same memory.
#[derive(Default)]
pub(super) struct OpenGroup {
    /// What its blocks bear as the time they were appended.
    time: Millis,
    /// Encoded.
    pub(super) notes: Vec<u8>,
    /// Encoded notes for which groups of their own are written before this one.
    pub(super) before: Vec<Vec<u8>>,
    /// Changes of the catalog that it makes, in order.
    pub(super) changes: Vec<Change>,
    /// Subscriptions that it creates or deletes.
    pub(super) turned_subscriptions: Vec<SubscriptionId>,
    /// Subscriptions that it lets stand still, and why, or go on.
    pub(super) pauses: Vec<(SubscriptionId, Option<Arc<str>>)>,
    topics: OpenTopics,
    /// Those that are whole. All are after [`finish_blocks`](Self::finish_blocks).
    pub(super) blocks: Vec<Block>,
    /// First position after its blocks.
    pub(super) next_position: Position,
    /// Whether somebody in it waits for it to be on disk.
    pub(super) needs_sync: bool,
    pub(super) owed: Owed,
    /// Events in it.
    pub(super) events: u64,
    /// Bytes of these events.
    pub(super) event_bytes: u64,
    // Bytes of the blocks in the record, or a little more.
    block_bytes: usize,
    // How long it gets before it takes nothing more.
    bytes_max: usize,
    pub(super) undo: Rollback,
}

/// The answers that wait for a group. Whoever drops them has died, and those who wait are told so.
#[derive(Default)]
pub(super) struct Owed {
    // Neighbours for the same stream together, so that it is woken once and answers once.
    replies: Vec<(PublishReplies, Vec<PublishReply>)>,
    /// Outputs that are in the group.
    pub(super) outputs: Vec<Outputs>,
    answers: Vec<Answer>,
}

/// Tells whoever asked for something what became of the group it is in.
type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

// The topics with events in the group, in the order in which the first event of each came, which is the order of their positions.
#[derive(Default)]
struct OpenTopics {
    all: Vec<OpenTopic>,
    index: FxHashMap<TopicId, usize>,
}

// A topic with events in the group.
struct OpenTopic {
    topic: Arc<Topic>,
    // Of one mark: dead letters never share a block with other events.
    builder: BlockBuilder,
    mark: BlockOrigin,
    first_sequence: Sequence,
    next_sequence: Sequence,
}

/// What is to be appended at once is more than fits into a group.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes are to be written at once, but at most {ITEM_BYTES_MAX} can be; publish smaller batches, or let a transform make less of an event"
)]
pub(super) struct TooLong {
    bytes: usize,
}

/// Refuses what alone would make a group too long to be written.
pub(super) fn check_item(bytes: usize) -> Result<(), TooLong> {
    if bytes <= ITEM_BYTES_MAX {
        return Ok(());
    }
    Err(TooLong { bytes })
}

impl OpenGroup {
    /// Begins an empty group. Its events get positions from `next_position` on, and it takes nothing more beyond `bytes_max`.
    pub(super) fn begin(&mut self, time: Millis, next_position: Position, bytes_max: usize) {
        self.clear();
        self.time = time;
        self.next_position = next_position;
        self.bytes_max = bytes_max;
    }

    /// Forgets everything but who waits for an answer. What is left is a place for the next group.
    pub(super) fn clear(&mut self) {
        self.notes.clear();
        self.notes.shrink_to(NOTES_KEPT_BYTES);
        self.before.clear();
        self.changes.clear();
        self.turned_subscriptions.clear();
        self.pauses.clear();
        self.topics.clear();
        self.blocks.clear();
        self.needs_sync = false;
        self.events = 0;
        self.event_bytes = 0;
        self.block_bytes = 0;
        self.undo.clear();
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.blocks.is_empty() && self.before.is_empty()
    }

    /// Whether it takes nothing more that can wait for the next one.
    pub(super) fn is_full(&self) -> bool {
        self.notes.len() + self.block_bytes >= self.bytes_max
    }

    pub(super) fn note(&mut self, note: &Note) {
        journal_note::push(note, &mut self.notes);
    }

    /// Notes acks. All are written before this group is synced, so whoever waits for theirs may wait for that. How many they are
    /// does not make the group any longer.
    pub(super) fn note_acks(&mut self, acks: &Acks) {
        let mut notes = Vec::new();
        for (&subscription, ranges) in acks {
            for ranges in ranges.chunks(NOTE_RANGES_MAX) {
                let ranges = journal_note::pack(ranges.iter().cloned());
                journal_note::push(
                    &Note::Acks {
                        subscription,
                        ranges,
                    },
                    &mut notes,
                );
                if notes.len() >= ACK_BYTES_MAX {
                    self.before.push(std::mem::take(&mut notes));
                }
            }
        }
        journal_note::join(&notes, &mut self.notes);
    }

    /// Notes what became of events that came back, as of the group's time on the wall, by which the clock of their moments is so
    /// many milliseconds behind. The same holds. Comes before everything else that is said of these events.
    pub(super) fn note_returns(&mut self, returns: Returns, wall_ahead_ms: i64) {
        let at = self.time;
        for (subscription, why) in returns.paused {
            self.note(&Note::Paused { subscription, why });
        }
        let mut notes = Vec::new();
        for (subscription, back) in returns.came_back {
            let mut back = back.into_iter().map(|one| one.shifted(wall_ahead_ms));
            loop {
                let events: Vec<_> = back.by_ref().take(NOTE_RETURNS_MAX).collect();
                if events.is_empty() {
                    break;
                }
                journal_note::push(
                    &Note::CameBack {
                        subscription,
                        at,
                        events,
                    },
                    &mut notes,
                );
                if notes.len() >= ACK_BYTES_MAX {
                    self.before.push(std::mem::take(&mut notes));
                }
            }
        }
        journal_note::join(&notes, &mut self.notes);
    }

    /// Appends entries to a topic, in order, and returns the sequence of the first.
    pub(super) fn append(&mut self, topic: &Arc<Topic>, entries: EncodedEvents) -> Sequence {
        self.count(entries.count(), entries.event_bytes());
        self.block_bytes += entries.bytes().len() + BLOCK_HEAD_BYTES;
        let open = self.topics.open(topic);
        let first = open.next_sequence;
        open.next_sequence.0 += u64::from(entries.count());
        let others = open.begin(BlockOrigin::Ordinary, &mut self.next_position, self.time);
        self.blocks.extend(others);
        let mut rest = entries;
        while rest.count() > 0 {
            let part = rest.split_front(BLOCK_BYTES_MAX, 0);
            self.block_bytes += BLOCK_HEAD_BYTES;
            let bytes = part.bytes().len();
            let shared = bytes >= SHARED_BLOCK_BYTES_MIN;
            if shared || !open.builder.fits_entries(bytes) {
                let closed = open.close(&mut self.next_position, self.time);
                self.blocks.extend(closed);
            }
            if shared {
                open.next_sequence.0 += u64::from(planted!(SequenceSkipped));
                let block = open.share(part, &mut self.next_position, self.time);
                self.blocks.push(block);
            } else {
                open.builder.push_all(&part);
            }
        }
        first
    }

    /// Appends one event with a mark to a topic.
    pub(super) fn append_event(&mut self, topic: &Arc<Topic>, mark: BlockOrigin, event: &[u8]) {
        self.count(1, event.len());
        self.block_bytes += event.len() + ENTRY_HEAD_BYTES + BLOCK_HEAD_BYTES;
        let open = self.topics.open(topic);
        open.next_sequence.0 += 1;
        let others = open.begin(mark, &mut self.next_position, self.time);
        self.blocks.extend(others);
        if !open.builder.fits(event.len()) {
            let closed = open.close(&mut self.next_position, self.time);
            self.blocks.extend(closed);
        }
        open.builder.push(event);
    }

    fn count(&mut self, events: u32, bytes: usize) {
        self.events += u64::from(events);
        self.event_bytes += bytes as u64;
    }

    /// Makes blocks of all events so far, so that what comes next has a position behind them.
    pub(super) fn finish_blocks(&mut self) {
        let mut place = self.next_position;
        for open in &mut self.topics.all {
            self.blocks.extend(open.close(&mut place, self.time));
        }
        self.next_position = place;
    }

    /// What its blocks bear as the time they were appended.
    pub(super) fn time(&self) -> Millis {
        self.time
    }

    /// The next sequence of a topic that has events in it.
    pub(super) fn next_sequence(&self, topic: TopicId) -> Option<Sequence> {
        let open = self.topics.index.get(&topic)?;
        Some(self.topics.all[*open].next_sequence)
    }

    /// Uses up the sequences that it gave: topics go on after them.
    pub(super) fn advance_topics(&self) {
        for open in &self.topics.all {
            if !planted!(TopicNotAdvanced) {
                open.topic.advance_to(open.next_sequence);
            }
        }
    }

    /// Owes an answer, which is `result` if the group becomes durable.
    pub(super) fn answer<T: Send + 'static, E: From<Unavailable> + Send + 'static>(
        &mut self,
        reply: Reply<T, E>,
        result: Result<T, E>,
    ) {
        self.owed.answers.push(Box::new(move |written| {
            let _ = reply.send(written.map_err(E::from).and(result));
        }));
    }
}

impl Owed {
    /// Owes a publish stream a reply.
    pub(super) fn reply(&mut self, stream: PublishReplies, reply: PublishReply) {
        match self.replies.last_mut() {
            Some((replies, together))
                if replies.same_channel(&stream) || planted!(AnswersMixed) =>
            {
                together.push(reply);
            }
            _ => self.replies.push((stream, vec![reply])),
        }
    }

    /// Tells publishers, and whoever asked for something, that the group is durable.
    pub(super) fn confirm(&mut self) {
        for (replies, together) in self.replies.drain(..) {
            // The stream may be gone; the events are there all the same.
            let _ = replies.send(together);
        }
        for answer in self.answers.drain(..) {
            answer(Ok(()));
        }
        self.replies.shrink_to(ANSWERS_KEPT);
        self.answers.shrink_to(ANSWERS_KEPT);
    }

    /// Tells everybody that nothing came of the group.
    pub(super) fn refuse(&mut self, error: &Unavailable) {
        for (replies, together) in self.replies.drain(..) {
            let refused = together.into_iter().map(|reply| PublishReply {
                result: Err(error.clone().into()),
                ..reply
            });
            let _ = replies.send(refused.collect());
        }
        for outputs in self.outputs.drain(..) {
            outputs.refuse(error.clone());
        }
        for answer in self.answers.drain(..) {
            answer(Err(error.clone()));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let is_answered =
            self.replies.is_empty() && self.outputs.is_empty() && self.answers.is_empty();
        if !is_answered {
            self.refuse(&Unavailable::committer_died());
        }
    }
}

impl OpenTopics {
    fn open(&mut self, topic: &Arc<Topic>) -> &mut OpenTopic {
        let index = *self.index.entry(topic.id).or_insert_with(|| {
            self.all.push(OpenTopic {
                topic: topic.clone(),
                builder: BlockBuilder::default(),
                mark: BlockOrigin::Ordinary,
                first_sequence: topic.next_sequence(),
                next_sequence: topic.next_sequence(),
            });
            self.all.len() - 1
        });
        &mut self.all[index]
    }

    fn clear(&mut self) {
        self.all.clear();
        self.all.shrink_to(TOPICS_KEPT);
        self.index.clear();
        self.index.shrink_to(TOPICS_KEPT);
    }
}

impl OpenTopic {
    // What comes next has this mark. Returns the block so far if its events have another one.
    fn begin(&mut self, mark: BlockOrigin, place: &mut Position, time: Millis) -> Option<Block> {
        if self.mark == mark {
            return None;
        }
        let others = self.close(place, time);
        self.mark = mark;
        others
    }

    // The block so far, placed at `place`, which moves on; the next one starts empty.
    fn close(&mut self, place: &mut Position, time: Millis) -> Option<Block> {
        let builder = std::mem::take(&mut self.builder);
        let count = builder.count();
        if count == 0 {
            return None;
        }
        let block = builder.finish(self.topic.id, *place, self.first_sequence, time);
        self.advance(count, place);
        Some(block.marked(self.mark))
    }

    // A block that shares the memory of `entries`, placed at `place`, which moves on.
    fn share(&mut self, entries: EncodedEvents, place: &mut Position, time: Millis) -> Block {
        let block = Block::of(entries, self.topic.id, *place, self.first_sequence, time);
        self.advance(block.count, place);
        block
    }

    fn advance(&mut self, count: u32, place: &mut Position) {
        place.0 += u64::from(count);
        self.first_sequence.0 += u64::from(count);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;
    use crate::domain::{Durability, TopicSpec};
    use crate::state::catalog::{Catalog, Json};
    use crate::store::RECORD_BYTES_MAX;

    #[test]
    fn the_longest_group_there_can_be_fits_a_record() {
        // What is held or asked for, then publishes, each with one item beyond the limit; notes of acks, and what rounding adds.
        let longest = 2 * (GROUP_BYTES_MAX + ITEM_BYTES_MAX) + 2 * ACK_BYTES_MAX + GROUP_BYTES_MAX;
        assert!((longest as u64) < RECORD_BYTES_MAX);
        assert!(check_item(ITEM_BYTES_MAX).is_ok());
        assert!(check_item(ITEM_BYTES_MAX + 1).is_err());
    }

    #[test]
    fn acks_that_are_too_many_for_a_group_go_before_it() {
        let single = |number: u64| Position(2 * number)..=Position(2 * number);
        let ranges: Vec<RangeInclusive<Position>> = (0..1_000_000).map(single).collect();
        let mut group = OpenGroup::default();
        let change = Note::Change(Change::DeleteSubscription(SubscriptionId(9)));
        group.note(&change);
        let acks = [
            (SubscriptionId(1), ranges.clone()),
            (SubscriptionId(2), vec![single(7)]),
        ];
        group.note_acks(&acks.into_iter().collect());
        assert!(group.before.len() > 1, "{} groups", group.before.len());
        let mut found = Vec::new();
        let mut changes = 0;
        for notes in group.before.iter().chain([&group.notes]) {
            assert!(notes.len() < 2 * ACK_BYTES_MAX);
            for note in journal_note::decode(notes).expect("readable") {
                match note {
                    Note::Acks {
                        subscription,
                        ranges,
                    } => {
                        found.extend(
                            journal_note::unpack(&ranges)
                                .into_iter()
                                .map(|r| (subscription, r)),
                        );
                    }
                    _ => changes += 1,
                }
            }
        }
        assert_eq!(changes, 1);
        let first = ranges.into_iter().map(|range| (SubscriptionId(1), range));
        let expected = first.chain([(SubscriptionId(2), single(7))]);
        found.sort_unstable_by_key(|(id, range)| (*id, *range.start()));
        assert!(found.into_iter().eq(expected));
    }

    #[test]
    fn a_group_counts_what_it_takes_on_disk() {
        let spec = TopicSpec {
            name: "t".parse().expect("a name"),
            durability: Durability::Sync,
            created_by: None,
        };
        let mut catalog = Catalog::default();
        let id = catalog.next_topic_id();
        catalog.apply(&Change::CreateTopic {
            id,
            spec: Json(spec),
        });
        let topic = catalog.topics_by_id[&id].clone();
        for (count, length) in [(1, 0), (4_096, 0), (4_096, 1), (100, 1_000), (3, 70_000)] {
            let mut group = OpenGroup::default();
            let event = vec![7; length];
            let events: Vec<&[u8]> = vec![&event; count];
            group.append(&topic, EncodedEvents::of(events.clone()));
            // By turns, so that each has to begin a block.
            let marks = [BlockOrigin::Letter, BlockOrigin::LastLetter];
            for (event, mark) in events.iter().zip(marks.into_iter().cycle()) {
                group.append_event(&topic, mark, event);
            }
            group.finish_blocks();
            let written: usize = group
                .blocks
                .iter()
                .map(|block| block.entries.len() + 48)
                .sum();
            assert!(group.block_bytes >= written, "{count} of {length}");
        }
    }

    fn dead_letters() -> Arc<Topic> {
        let spec = TopicSpec {
            name: "dead.s".parse().expect("valid name"),
            durability: Durability::Sync,
            created_by: None,
        };
        Arc::new(Topic::new(TopicId(1), spec, Sequence(5)))
    }

    #[test]
    fn topics_of_a_group_have_their_positions_in_the_order_in_which_they_came() {
        let topic = |id: u64| {
            let spec = TopicSpec {
                name: format!("t{id}").parse().expect("a name"),
                durability: Durability::Sync,
                created_by: None,
            };
            Arc::new(Topic::new(TopicId(id), spec, Sequence(1)))
        };
        let came = [40, 7, 1_000, 3, 41, 2, 500, 1];
        let mut group = OpenGroup::default();
        for id in came.into_iter().chain([3, 40]) {
            group.append(&topic(id), EncodedEvents::of([&b"event"[..]]));
        }
        group.finish_blocks();
        let order: Vec<u64> = group.blocks.iter().map(|block| block.topic.0).collect();
        assert_eq!(order, came);
    }

    #[test]
    fn dead_letters_share_no_block_with_other_events_and_keep_the_order() {
        let topic = dead_letters();
        let mut group = OpenGroup {
            next_position: Position(10),
            ..OpenGroup::default()
        };
        let published = || EncodedEvents::of([&b"published"[..], b"too"]);
        group.append_event(&topic, BlockOrigin::Letter, b"first");
        group.append_event(&topic, BlockOrigin::Letter, b"second");
        assert_eq!(group.append(&topic, published()), Sequence(7));
        group.append_event(&topic, BlockOrigin::Ordinary, b"a route's");
        group.append_event(&topic, BlockOrigin::LastLetter, b"last");
        // Large enough for a block of its own.
        let large = vec![7; SHARED_BLOCK_BYTES_MIN];
        let first = group.append(&topic, EncodedEvents::of([&large[..]]));
        assert_eq!(first, Sequence(11));
        group.append_event(&topic, BlockOrigin::Letter, b"third");
        group.finish_blocks();

        let blocks = group.blocks.iter();
        let found: Vec<_> = blocks
            .map(|block| {
                (
                    block.mark,
                    block.first_position.0,
                    block.first_sequence.0,
                    block.count,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (BlockOrigin::Letter, 10, 5, 2),
                (BlockOrigin::Ordinary, 12, 7, 3),
                (BlockOrigin::LastLetter, 15, 10, 1),
                (BlockOrigin::Ordinary, 16, 11, 1),
                (BlockOrigin::Letter, 17, 12, 1),
            ]
        );
        assert_eq!(group.next_position, Position(18));
        assert_eq!(group.topics.all[0].next_sequence, Sequence(13));
    }
}
