//! How the deliveries of one consumer are packed: as far as there is room for what is remembered of them, and so that others have their
//! turns in between. Which of them are packed is the packer's, in `tidegate_wire::compact`.

use bytes::Bytes;
use tidegate_wire::compact::{Compression, Packer};
use tidegate_wire::limits::COMPACT_BYTES_MAX;
use tidegate_wire::pb;
use tidegate_wire::stream::Connection;

use super::super::memory_account::Remembered;
use super::super::peer::Peer;
use super::super::turns::Turns;

/// The sender's end of a consumer's compact stream.
pub(super) struct Packing<'a, C> {
    peer: &'a Peer<C>,
    packer: Packer,
    turns: Turns,
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
            room,
        })
    }

    /// As [`Packer::pack_deliver`]; others have their turn first when it is time for that. Where there is no room for what would be
    /// remembered, a path is as good as a short one.
    pub(super) async fn pack(&mut self, head: &mut pb::Deliver, events: &[Bytes]) -> Option<Bytes> {
        if self.room.is_some() {
            let bytes = events.iter().map(Bytes::len).sum();
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
