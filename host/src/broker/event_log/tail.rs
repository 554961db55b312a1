//! The log as readers see it: a bounded tail of recent blocks in memory, and behind it the store. The
//! committer appends; everybody else reads by position and keeps a cursor of its own, so a slow reader pins
//! nothing and nobody waits for it. What is about to leave the store is out of sight already for whoever looks for
//! events ([`Log::blocks_from`]), though not for those that have found one ([`Log::block_at`]).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::domain::{Block, Position};
use crate::locks::{read, write};
use crate::runtime::executor;
use crate::runtime::unfinished::Unfinished;
use crate::state::release::Release;
use crate::store::{ReadError, StoreReader};

/// Committed blocks, readable by position. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    tail: RwLock<Tail>,
    tail_bytes_max: usize,
    reader: StoreReader,
    // First position that is not readable yet.
    end: watch::Sender<Position>,
    release: RwLock<Option<Arc<Release>>>,
}

/// A release that is under way. While this exists, what leaves is out of sight. Its owner ends it with [`done`](Self::done) when
/// the store has let go of the events; dropped without that, they stay after all.
#[must_use]
pub(crate) struct Releasing {
    log: Log,
    release: Arc<Release>,
}

#[derive(Default)]
struct Tail {
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
}

impl Log {
    /// A log whose next event gets position `end`.
    pub(crate) fn new(reader: StoreReader, tail_bytes_max: usize, end: Position) -> Self {
        Self {
            shared: Arc::new(Shared {
                tail: RwLock::default(),
                tail_bytes_max,
                reader,
                end: watch::Sender::new(end),
                release: RwLock::default(),
            }),
        }
    }

    /// Makes blocks readable. They are durable as their topics promise, and in rising order.
    pub(crate) fn append(&self, blocks: Vec<Block>, end: Position) {
        // Memory is asked for and given back outside the lock that every reader takes.
        let bytes: usize = blocks.iter().map(Block::weight).sum();
        let blocks: Vec<_> = blocks.into_iter().map(Arc::new).collect();
        let mut forgotten = Vec::new();
        {
            let mut tail = self.tail_mut();
            tail.bytes += bytes;
            tail.blocks.extend(blocks);
            while tail.bytes > self.shared.tail_bytes_max && tail.blocks.len() > 1 {
                if let Some(block) = tail.blocks.pop_front() {
                    tail.bytes -= block.weight();
                    forgotten.push(block);
                }
            }
        }
        self.shared.end.send_replace(end);
    }

    /// First position that is not readable yet.
    pub(crate) fn end(&self) -> Position {
        *self.shared.end.borrow()
    }

    /// Follows [`end`](Self::end).
    pub(crate) fn watch_end(&self) -> watch::Receiver<Position> {
        self.shared.end.subscribe()
    }

    /// The block that holds `position`, when it is in memory.
    pub(crate) fn block_in_memory(&self, position: Position) -> Option<Arc<Block>> {
        let tail = self.tail();
        let index = tail
            .blocks
            .partition_point(|block| block.last_position() < position);
        let block = tail.blocks.get(index)?;
        (block.first_position <= position).then(|| block.clone())
    }

    /// The block that holds `position`: from memory, else from the store on a blocking thread.
    pub(crate) async fn block_at(
        &self,
        position: Position,
    ) -> Result<Option<Arc<Block>>, ReadError> {
        if let Some(block) = self.block_in_memory(position) {
            return Ok(Some(block));
        }
        let reader = self.shared.reader.clone();
        run_blocking(move || reader.block_at(position)).await
    }

    /// Blocks from the one that holds `from`, or the next after it, in order, until about `bytes_max` bytes;
    /// none when nothing at or after `from` is readable. Without what is about to leave.
    pub(crate) async fn blocks_from(
        &self,
        mut from: Position,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Block>>, ReadError> {
        loop {
            // Before reading: what is decided to leave only after that is decided with the reader's subscriptions in mind.
            let release = self.release_under_way();
            let blocks = self.all_blocks_from(from, bytes_max).await?;
            let (Some(release), Some(last)) = (release, blocks.last()) else {
                return Ok(blocks);
            };
            if from > release.last() {
                return Ok(blocks);
            }
            from = last.last_position().next();
            let staying = blocks.iter().map(|block| what_stays(&release, block));
            let staying: Vec<_> = staying
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?;
            if !staying.is_empty() {
                return Ok(staying);
            }
        }
    }

    /// Takes out of sight what `decide` says leaves. That is decided for the subscriptions there are, and done some time after it;
    /// one that is created in between and starts in the past must not count on an event that is gone before it is delivered.
    /// Nobody begins to read between the decision's last look at who needs what and this, so whoever reads without it was there
    /// to be looked at; events that were found before are needed, and stay. One owner, the checkpointer, releases one thing at a
    /// time.
    pub(crate) fn release(&self, decide: impl FnOnce() -> Option<Release>) -> Option<Releasing> {
        let mut slot = write(&self.shared.release);
        let release = Arc::new(decide()?);
        *slot = Some(release.clone());
        Some(Releasing {
            log: self.clone(),
            release,
        })
    }

    fn release_under_way(&self) -> Option<Arc<Release>> {
        read(&self.shared.release).clone()
    }

    fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        read(&self.shared.tail)
    }

    fn tail_mut(&self) -> RwLockWriteGuard<'_, Tail> {
        write(&self.shared.tail)
    }

    async fn all_blocks_from(
        &self,
        from: Position,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Block>>, ReadError> {
        if from >= self.end() {
            return Ok(Vec::new());
        }
        if let Some(blocks) = self.tail_from(from, bytes_max) {
            return Ok(blocks);
        }
        let reader = self.shared.reader.clone();
        let end = self.end();
        run_blocking(move || {
            let mut blocks = Vec::new();
            let (mut at, mut bytes) = (from, 0);
            while bytes < bytes_max && at < end {
                let block = match reader.next_block(at) {
                    Ok(Some(block)) => block,
                    Ok(None) => break,
                    // What comes before it can be looked at.
                    Err(_) if !blocks.is_empty() => break,
                    Err(error) => return Err(error),
                };
                if block.first_position >= end {
                    break;
                }
                at = block.last_position().next();
                bytes += block.weight();
                blocks.push(block);
            }
            Ok(blocks)
        })
        .await
    }

    // `None` when the tail does not reach back to `from`.
    fn tail_from(&self, from: Position, bytes_max: usize) -> Option<Vec<Arc<Block>>> {
        let tail = self.tail();
        if tail.blocks.front()?.first_position > from {
            return None;
        }
        let index = tail
            .blocks
            .partition_point(|block| block.last_position() < from);
        if planted!(TailPassesOver) && index > 0 {
            let next = tail.blocks.iter().skip(index + 1).take(1);
            return Some(next.cloned().collect());
        }
        let mut bytes = 0;
        let blocks = tail.blocks.range(index..).take_while(|block| {
            let take = bytes < bytes_max;
            bytes += block.weight();
            take
        });
        Some(blocks.cloned().collect())
    }
}

/// The block with only the events that stay; `None` when none does.
///
/// # Errors
///
/// Its events cannot be told apart.
pub(crate) fn what_stays(
    release: &Release,
    block: &Arc<Block>,
) -> Result<Option<Arc<Block>>, ReadError> {
    let staying = release.what_stays(block);
    staying.map_err(|error| {
        let what = format!("{error}, block at position {}", block.first_position);
        ReadError::damaged(Path::new("journal"), what)
    })
}

impl Releasing {
    /// What leaves.
    pub(crate) fn release(&self) -> &Release {
        &self.release
    }

    /// The store has let go: the tail, which could show what the store has no more, follows it.
    pub(crate) fn done(self) {
        let last = self.release.last();
        let _forgotten: Vec<_> = {
            let mut tail = self.log.tail_mut();
            let count = tail
                .blocks
                .partition_point(|block| block.first_position <= last);
            let forgotten: Vec<_> = tail.blocks.drain(..count).collect();
            tail.bytes -= forgotten.iter().map(|block| block.weight()).sum::<usize>();
            forgotten
        };
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        *write(&self.log.shared.release) = None;
    }
}

async fn run_blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match executor::blocking(read).await {
        Ok(result) => result,
        Err(Unfinished::Panicked(panic)) => std::panic::resume_unwind(panic),
        // The runtime is shutting down and drops its blocking tasks; so is whoever waits for this.
        Err(Unfinished::Stopped) => std::future::pending().await,
    }
}

#[cfg(test)]
impl Log {
    /// One that holds nothing, before an empty store in `dir`, and keeps a mebibyte in memory.
    pub(crate) fn empty(dir: &Path) -> Self {
        use crate::disk::RealFileSystem;
        use crate::store::{StoreOptions, open};
        let opened = open(dir, StoreOptions::default(), Arc::new(RealFileSystem));
        let reader = opened.expect("store opens").reader;
        Self::new(reader, 1 << 20, Position(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BlockBuilder, Millis, Sequence, TopicId};

    fn block(position: u64) -> Block {
        let mut builder = BlockBuilder::default();
        builder.push(b"event");
        let (at, sequence) = (Position(position), Sequence(position));
        builder.finish(TopicId(1), at, sequence, Millis(0))
    }

    async fn positions(log: &Log, from: u64) -> Vec<u64> {
        let blocks = log.blocks_from(Position(from), 1).await.expect("readable");
        blocks.iter().map(|block| block.first_position.0).collect()
    }

    #[tokio::test]
    async fn what_leaves_is_out_of_sight_until_it_is_gone_or_stays_after_all() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = Log::empty(dir.path());
        log.append((1..=9).map(block).collect(), Position(10));
        let leaving = || Some(Release::new(Some(Position(1)..=Position(5))));
        assert!(log.release(|| None).is_none());
        assert_eq!(positions(&log, 1).await, [1], "one at a time is read");

        let releasing = log.release(leaving).expect("something leaves");
        assert_eq!(positions(&log, 1).await, [6]);
        assert_eq!(positions(&log, 7).await, [7]);
        let found = log.block_at(Position(3)).await.expect("readable");
        assert!(found.is_some(), "for who has found it before");
        drop(releasing);
        assert_eq!(positions(&log, 1).await, [1], "it stays after all");

        let releasing = log.release(leaving).expect("something leaves");
        releasing.done();
        assert!(log.block_in_memory(Position(5)).is_none());
        assert_eq!(positions(&log, 6).await, [6]);
        log.append(vec![block(10)], Position(11));
        assert_eq!(positions(&log, 10).await, [10]);
    }
}
