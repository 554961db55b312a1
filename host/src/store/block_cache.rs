//! The cache of blocks that were read from disk, one for the journal and the generations together, bounded by their bytes.

use std::sync::Arc;

use quick_cache::sync::DefaultLifecycle;
use rustc_hash::FxBuildHasher;

use crate::domain::{Block, Position};

/// Blocks that were read, by what was asked for.
pub(super) type BlockCache =
    quick_cache::sync::Cache<CacheKey, Arc<Block>, BlockWeight, FxBuildHasher>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CacheKey {
    /// First position of a block of the journal.
    Journal(Position),
    /// What generations answer for this position, after so many of them were deleted. It stays true until the next is deleted:
    /// positions below are never added later.
    Generations { from: Position, deleted: u64 },
}

#[derive(Clone)]
pub(super) struct BlockWeight;

impl quick_cache::Weighter<CacheKey, Arc<Block>> for BlockWeight {
    fn weight(&self, _: &CacheKey, block: &Arc<Block>) -> u64 {
        block.weight() as u64
    }
}

/// A cache of this many bytes.
pub(super) fn new_cache(bytes: u64) -> BlockCache {
    let blocks = usize::try_from(bytes / (16 * 1024))
        .unwrap_or(usize::MAX)
        .clamp(16, 1 << 20);
    BlockCache::with(
        blocks,
        bytes,
        BlockWeight,
        FxBuildHasher,
        DefaultLifecycle::default(),
    )
}
