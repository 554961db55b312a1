//! The log as readers see it: a bounded tail of recent blocks in memory, and behind it the store. The
//! committer appends; everybody else reads by position and keeps a cursor of its own, so a slow reader pins
//! nothing and nobody waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::domain::{Block, Position};
use crate::store::{ReadError, StoreReader};

/// Committed blocks, readable by position. Cheap to clone.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    tail: RwLock<Tail>,
    tail_bytes_max: usize,
    reader: StoreReader,
    // First position that is not readable yet.
    end: watch::Sender<Position>,
}

#[derive(Default)]
struct Tail {
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
}

impl Log {
    /// A log whose next event gets position `end`.
    pub(super) fn new(reader: StoreReader, tail_bytes_max: usize, end: Position) -> Self {
        Self {
            shared: Arc::new(Shared {
                tail: RwLock::default(),
                tail_bytes_max,
                reader,
                end: watch::Sender::new(end),
            }),
        }
    }

    /// Makes blocks readable. They are durable as their topics promise, and in rising order.
    pub(super) fn append(&self, blocks: Vec<Block>, end: Position) {
        // Memory is asked for and given back outside the lock that every reader takes.
        let bytes: usize = blocks.iter().map(Block::weight).sum();
        let blocks: Vec<_> = blocks.into_iter().map(Arc::new).collect();
        let mut forgotten = Vec::new();
        {
            let mut tail = self
                .shared
                .tail
                .write()
                .unwrap_or_else(PoisonError::into_inner);
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
    pub(super) fn end(&self) -> Position {
        *self.shared.end.borrow()
    }

    /// Follows [`end`](Self::end).
    pub(super) fn watch_end(&self) -> watch::Receiver<Position> {
        self.shared.end.subscribe()
    }

    /// The block that holds `position`, when it is in memory.
    pub(super) fn block_in_memory(&self, position: Position) -> Option<Arc<Block>> {
        let tail = self
            .shared
            .tail
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let index = tail
            .blocks
            .partition_point(|block| block.last_position() < position);
        let block = tail.blocks.get(index)?;
        (block.first_position <= position).then(|| block.clone())
    }

    /// The block that holds `position`: from memory, else from the store on a blocking thread.
    pub(super) async fn block_at(
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
    /// none when nothing at or after `from` is readable.
    pub(super) async fn blocks_from(
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
                let Some(block) = reader.next_block(at)? else {
                    break;
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
        let tail = self
            .shared
            .tail
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if tail.blocks.front()?.first_position > from {
            return None;
        }
        let index = tail
            .blocks
            .partition_point(|block| block.last_position() < from);
        let mut bytes = 0;
        let blocks = tail.blocks.range(index..).take_while(|block| {
            let take = bytes < bytes_max;
            bytes += block.weight();
            take
        });
        Some(blocks.cloned().collect())
    }
}

async fn run_blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and drops its blocking tasks; so is whoever waits for this.
            Err(_) => std::future::pending().await,
        },
    }
}
