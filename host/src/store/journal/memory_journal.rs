//! A journal in memory, for tests of whoever writes to or reads from one: it keeps what [`JournalWriter`] and [`JournalReader`]
//! promise, syncs at once, and fails exactly when a test says so. What is durable of it can be opened again, as after a crash.

use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{
    BlockMeta, BlockSource, JournalBlock, JournalReader, JournalSegment, JournalSize, JournalUsage,
    JournalWriter, Replay, Replayed, ReplayedGroup,
};
use crate::domain::{Block, CommitNumber, Position};
use crate::store::block_format::BlockHead;
use crate::store::error::{JournalFailure, ReadError, WriteDelay, WriteError, WriteRefusal};

/// What a writer is asked for, and a [`Fault`] can answer instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// [`JournalWriter::make_room`].
    MakeRoom,
    /// [`JournalWriter::append`].
    Append,
    /// [`JournalWriter::sync`], and whatever syncs: a mark, the end.
    Sync,
    /// [`JournalWriter::mark`].
    Mark,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It can never be done.
    Refuse,
    /// It cannot be done now, as when files have run out.
    Retry,
    /// It cannot be done now, since there is no room.
    Full,
    /// The journal fails for good, and with it every call after this one.
    Final,
}

/// The journal, as a test holds it: what its halves are made of, what it has by now, and what is to fail. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct MemoryJournal {
    state: Arc<Mutex<State>>,
}

/// A group as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenGroup {
    pub(crate) number: CommitNumber,
    pub(crate) notes: Bytes,
    pub(crate) blocks: Vec<Block>,
}

struct State {
    groups: VecDeque<WrittenGroup>,
    next: CommitNumber,
    next_position: Position,
    /// Groups before this one are durable.
    durable_before: CommitNumber,
    /// Blocks of groups before this one are readable.
    readable_before: CommitNumber,
    marked: CommitNumber,
    bytes_max: u64,
    group_bytes_max: u64,
    is_short: bool,
    displaced: Option<String>,
    is_closed: bool,
    has_failed: bool,
    /// Calls that fail, each once, in the order in which they are made.
    planned: Vec<(Call, Fault)>,
    /// Positions whose blocks cannot be read.
    unreadable: Vec<RangeInclusive<Position>>,
    syncs: u64,
}

impl Default for State {
    fn default() -> Self {
        let first = CommitNumber(1);
        Self {
            groups: VecDeque::new(),
            next: first,
            next_position: Position(1),
            durable_before: first,
            readable_before: first,
            marked: first,
            bytes_max: u64::MAX,
            group_bytes_max: super::RECORD_BYTES_MAX,
            is_short: false,
            displaced: None,
            is_closed: false,
            has_failed: false,
            planned: Vec::new(),
            unreadable: Vec::new(),
            syncs: 0,
        }
    }
}

impl MemoryJournal {
    /// Its writing half, of which there is to be one.
    pub(crate) fn writer(&self) -> Box<dyn JournalWriter> {
        Box::new(self.clone())
    }

    /// Its reading half.
    pub(in crate::store) fn reader(&self) -> Arc<dyn JournalReader> {
        Arc::new(self.clone())
    }

    /// The next such call fails like this. Several are answered in this order.
    pub(crate) fn fail_next(&self, call: Call, fault: Fault) {
        self.lock().planned.push((call, fault));
    }

    /// Blocks with these positions cannot be read from now on, since they are damaged.
    pub(crate) fn damage(&self, positions: RangeInclusive<Position>) {
        self.lock().unreadable.push(positions);
    }

    /// It is full beyond so many bytes.
    pub(crate) fn set_bytes_max(&self, bytes: u64) {
        self.lock().bytes_max = bytes;
    }

    /// The largest group may have so many bytes.
    pub(crate) fn set_group_bytes_max(&self, bytes: u64) {
        self.lock().group_bytes_max = bytes;
    }

    /// Whether there is no room but for acks and marks.
    pub(crate) fn set_short(&self, is_short: bool) {
        self.lock().is_short = is_short;
    }

    /// Why nothing should be written, if anything.
    pub(crate) fn set_displaced(&self, why: Option<&str>) {
        self.lock().displaced = why.map(str::to_owned);
    }

    /// The groups that it has, durable or not.
    pub(crate) fn groups(&self) -> Vec<WrittenGroup> {
        self.lock().groups.iter().cloned().collect()
    }

    /// How often something was synced.
    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Whether everything in it is durable and its end was written down.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// What a crash now would leave of it: the groups that are durable. This one goes on.
    pub(crate) fn after_crash(&self) -> Self {
        let state = self.lock();
        let durable = |group: &&WrittenGroup| group.number < state.durable_before;
        let groups: VecDeque<_> = state.groups.iter().filter(durable).cloned().collect();
        let last = groups.iter().rev().find_map(|group| group.blocks.last());
        let before = state.groups.iter().find_map(|group| group.blocks.first());
        let next_position = match (last, before) {
            (Some(last), _) => last.last_position().next(),
            (None, Some(first)) => first.first_position,
            (None, None) => state.next_position,
        };
        let next = state.durable_before;
        Self {
            state: Arc::new(Mutex::new(State {
                groups,
                next,
                next_position,
                durable_before: next,
                readable_before: next,
                bytes_max: state.bytes_max,
                group_bytes_max: state.group_bytes_max,
                is_closed: state.is_closed,
                ..State::default()
            })),
        }
    }

    /// Its groups from `mark` on, once more.
    pub(crate) fn replay(&self, mark: CommitNumber) -> Replay {
        let groups = self.groups().into_iter();
        let from_mark = groups.filter(move |group| group.number >= mark);
        Box::new(from_mark.map(|group| {
            Ok(Replayed::Group(ReplayedGroup {
                number: group.number,
                notes: group.notes,
                blocks: group.blocks.iter().map(meta).collect(),
            }))
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics within it")
    }
}

impl State {
    fn answer(&mut self, call: Call) -> Result<(), WriteError> {
        let path = PathBuf::from("memory");
        let source = || Arc::new(io::Error::other("injected"));
        if self.has_failed {
            let source = source();
            return Err(JournalFailure::Earlier { path, source }.into());
        }
        let planned = self
            .planned
            .iter()
            .position(|(planned, _)| *planned == call);
        let Some(planned) = planned else {
            return Ok(());
        };
        Err(match self.planned.remove(planned).1 {
            Fault::Refuse => WriteRefusal::Order(self.next_position).into(),
            Fault::Retry => WriteDelay {
                path,
                source: source(),
            }
            .into(),
            Fault::Full => WriteDelay {
                path,
                source: Arc::new(io::ErrorKind::StorageFull.into()),
            }
            .into(),
            Fault::Final => {
                self.has_failed = true;
                // What was not synced never becomes readable, and is not there after a start.
                let durable = self.durable_before;
                self.groups.retain(|group| group.number < durable);
                let source = source();
                JournalFailure::Now { path, source }.into()
            }
        })
    }

    fn size_from(&self, number: CommitNumber) -> JournalSize {
        let mut size = JournalSize::default();
        for group in self.groups.iter().filter(|group| group.number >= number) {
            size.bytes += super::record::group_bytes(&group.notes, &group.blocks).unwrap_or(0);
            size.blocks += group.blocks.len();
        }
        size
    }

    fn readable(&self) -> impl DoubleEndedIterator<Item = &Block> {
        let readable = self
            .groups
            .iter()
            .filter(|group| group.number < self.readable_before);
        readable.flat_map(|group| &group.blocks)
    }

    fn sync(&mut self) -> Result<(), WriteError> {
        self.answer(Call::Sync)?;
        if self.durable_before < self.next {
            self.syncs += 1;
        }
        self.durable_before = self.next;
        self.readable_before = self.next;
        Ok(())
    }
}

impl JournalWriter for MemoryJournal {
    fn group_bytes_max(&self) -> u64 {
        self.lock().group_bytes_max
    }

    fn make_room(&mut self, _: u64) -> Result<(), WriteError> {
        self.lock().answer(Call::MakeRoom)
    }

    fn append(&mut self, notes: &[u8], blocks: &[Block]) -> Result<CommitNumber, WriteError> {
        self.group_bytes(notes, blocks)?;
        let mut state = self.lock();
        state.answer(Call::Append)?;
        let mut next_position = state.next_position;
        for block in blocks {
            if block.first_position < next_position || block.count == 0 {
                return Err(WriteRefusal::Order(block.first_position).into());
            }
            next_position = block.last_position().next();
        }
        let number = state.next;
        state.groups.push_back(WrittenGroup {
            number,
            notes: Bytes::copy_from_slice(notes),
            blocks: blocks.to_vec(),
        });
        state.next_position = next_position;
        state.next = CommitNumber(number.0 + 1);
        Ok(number)
    }

    fn sync(&mut self) -> Result<(), WriteError> {
        self.lock().sync()
    }

    fn make_readable(&mut self) {
        let mut state = self.lock();
        state.readable_before = state.next;
    }

    fn mark(&mut self) -> Result<CommitNumber, WriteError> {
        let mut state = self.lock();
        state.answer(Call::Mark)?;
        state.sync()?;
        state.marked = state.next;
        Ok(state.next)
    }

    fn next_number(&self) -> CommitNumber {
        self.lock().next
    }

    fn next_position(&self) -> Position {
        self.lock().next_position
    }

    fn usage(&self) -> JournalUsage {
        let state = self.lock();
        let all = state.size_from(CommitNumber(0));
        JournalUsage {
            all,
            unmarked: state.size_from(state.marked),
            is_full: all.bytes > state.bytes_max,
        }
    }

    fn displaced(&self) -> Option<String> {
        self.lock().displaced.clone()
    }

    fn is_short(&self) -> bool {
        self.lock().is_short
    }

    fn spare_bytes(&self) -> u64 {
        u64::MAX
    }

    fn close(self: Box<Self>) -> Result<(), JournalFailure> {
        let mut state = self.lock();
        let synced = state.sync();
        synced.map_err(|error| JournalFailure::closing(error, Path::new("memory")))?;
        state.is_closed = true;
        Ok(())
    }
}

impl JournalReader for MemoryJournal {
    fn at_or_after(&self, from: Position) -> Option<JournalBlock> {
        let state = self.lock();
        let block = state
            .readable()
            .find(|block| block.last_position() >= from)?;
        let head = BlockHead::of(block).expect("a block of a test is short");
        Some(JournalBlock {
            head,
            at: 0,
            source: Arc::new(FoundBlock {
                journal: self.clone(),
                block: block.clone(),
            }),
        })
    }

    fn blocks_before(&self, mark: CommitNumber) -> Vec<BlockMeta> {
        let state = self.lock();
        let groups = state.groups.iter().filter(|group| group.number < mark);
        groups.flat_map(|group| &group.blocks).map(meta).collect()
    }

    fn positions_before(&self, mark: CommitNumber) -> Option<RangeInclusive<Position>> {
        let blocks = self.blocks_before(mark);
        let (first, last) = blocks.first().zip(blocks.last())?;
        Some(first.first_position..=last.last_position)
    }

    // Each group can go by itself.
    fn segments_before(&self, mark: CommitNumber) -> Vec<JournalSegment> {
        let state = self.lock();
        let groups = state.groups.iter().filter(|group| group.number < mark);
        let segment = |group: &WrittenGroup| {
            let (first, last) = group.blocks.first().zip(group.blocks.last()).unzip();
            let positions = first.zip(last);
            JournalSegment {
                end: CommitNumber(group.number.0 + 1),
                bytes: super::record::group_bytes(&group.notes, &group.blocks).unwrap_or(0),
                events: group
                    .blocks
                    .iter()
                    .map(|block| u64::from(block.count))
                    .sum(),
                positions: positions
                    .map(|(first, last)| first.first_position..=last.last_position()),
            }
        };
        groups.map(segment).collect()
    }

    fn release(&self, mark: CommitNumber) {
        self.lock().groups.retain(|group| group.number >= mark);
    }

    fn size(&self) -> JournalSize {
        self.lock().size_from(CommitNumber(0))
    }

    fn next_number(&self) -> CommitNumber {
        self.lock().next
    }
}

struct FoundBlock {
    journal: MemoryJournal,
    block: Block,
}

impl BlockSource for FoundBlock {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn read(&self, head: &BlockHead, _: u64) -> Result<Block, ReadError> {
        let state = self.journal.lock();
        let first = head.first_position;
        if state.unreadable.iter().any(|range| range.contains(&first)) {
            return Err(ReadError::damaged(self.path(), "a block"));
        }
        Ok(self.block.clone())
    }
}

fn meta(block: &Block) -> BlockMeta {
    let head = BlockHead::of(block).expect("a block of a test is short");
    (&head).into()
}
