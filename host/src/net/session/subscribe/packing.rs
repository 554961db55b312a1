//! How the deliveries of one consumer are packed: as far as there is room for what is remembered of them, as far as it is worth the
//! work, which is done for each consumer anew, and so that others have their turns in between. Which of those are packed is the packer's,
//! in `tidegate_wire::compact`.

use bytes::Bytes;
use tidegate_wire::compact::{Compression, Packer};
use tidegate_wire::limits::{COMPACT_BYTES_MAX, REMEMBERED_BYTES_MAX};
use tidegate_wire::pb;
use tidegate_wire::stream::Connection;

use super::super::memory_account::Remembered;
use super::super::peer::Peer;
use super::super::turns::{BYTES_OF_A_TURN, Turns};
use super::framing::FRAME_BYTES_TARGET;

/// With `auto`, messages with more than this are packed only where bytes are what holds the stream up; others cost little. It is what
/// both ends remember, so nothing is lost for those that come after.
const SMALL_BYTES: usize = REMEMBERED_BYTES_MAX;

/// So many of the larger ones after the stream has waited for the path: when they are packed it waits less often.
const LARGE_AFTER_WAIT: u32 = 16;

/// The sender's end of a consumer's compact stream.
pub(super) struct Packing<'a, C> {
    peer: &'a Peer<C>,
    packer: Packer,
    turns: Turns,
    /// So many large messages more are worth being packed.
    large_left: u32,
    /// For what the packer remembers, once it does.
    room: Option<Remembered>,
}

impl<'a, C: Connection> Packing<'a, C> {
    /// That of a consumer of `peer`, who reads compact streams. `None` where nothing will be packed: it is not wanted, or is wanted at
    /// once and there is no room for what would be remembered.
    pub(super) fn of(peer: &'a Peer<C>) -> Option<Self> {
        let room = match peer.compression {
            Compression::Off => return None,
            Compression::Auto => None,
            Compression::Always => Some(peer.account.remember(COMPACT_BYTES_MAX)?),
        };
        Some(Self {
            peer,
            packer: Packer::new(peer.compression),
            turns: Turns::default(),
            large_left: 0,
            room,
        })
    }

    /// How large messages are to be, of which the stream `has_waited` for the path or not since this was asked last. Packed ones are
    /// small, so that none takes longer than a turn.
    pub(super) fn bytes_target(&mut self, has_waited: bool) -> usize {
        if has_waited {
            self.large_left = LARGE_AFTER_WAIT;
        }
        // Also before anything is remembered: the first may be a large one.
        match self.packs_large() && (self.room.is_some() || self.peer.is_long()) {
            true => BYTES_OF_A_TURN,
            false => FRAME_BYTES_TARGET,
        }
    }

    fn packs_large(&self) -> bool {
        self.peer.compression == Compression::Always || self.large_left > 0
    }

    /// As [`Packer::pack_deliver`]; others have their turn first when it is time for that. Where there is no room for what would be
    /// remembered, a path is as good as a short one.
    pub(super) async fn pack(&mut self, head: &mut pb::Deliver, events: &[Bytes]) -> Option<Bytes> {
        let bytes: usize = events.iter().map(Bytes::len).sum();
        let is_large = bytes > SMALL_BYTES;
        if is_large {
            if !self.packs_large() {
                return None;
            }
            self.large_left = self.large_left.saturating_sub(1);
        }
        if self.room.is_some() || (is_large && self.peer.is_long()) {
            self.turns.packed(bytes).await;
        }
        let Self { peer, room, .. } = self;
        self.packer.pack_deliver(head, events, || {
            if !peer.is_long() {
                return false;
            }
            if room.is_none() {
                *room = peer.account.remember(COMPACT_BYTES_MAX);
            }
            room.is_some()
        })
    }
}
