//! Paths on which packets overtake each other, as radio links and bundled ones have them. quinn takes a packet for lost when three
//! later ones have arrived, or it is an eighth of a round trip late; on such a path that is most of them. How long it waits cannot be
//! changed while a connection lives, and to wait costs time wherever packets are really lost. So connections are made as usual, and
//! a client that finds out from both ends' [counters](crate::counters) that packets only came late makes another one, on which both
//! ends expect reordering. How it finds out is its business; what it means, and how the broker is asked for it, stands here.
//!
//! The broker has to know when it accepts, before it can read anything. So the client says it in the first connection id, which it
//! chooses, and which everybody on the way can read. Who made it up would gain, or take, nothing but waiting for late packets.

use std::sync::Arc;

use quinn::{ClientConfig, ConnectionId, TransportConfig};
use quinn_proto::{ConnectionIdGenerator, RandomConnectionIdGenerator};

use super::congestion::Congestion;

/// By number no packet is lost: time alone tells.
const PACKET_THRESHOLD: u32 = 1 << 20;

/// A packet is late for this part of a round trip before it is lost. quinn takes the round trip from the packets that were fastest,
/// since of those that an acknowledgement names it looks at the last one sent; the slowest are not behind them by more than as much
/// again on the paths that were tried.
const TIME_THRESHOLD: f32 = 2.25;

/// What the first connection id begins with. Twelve bytes of chance follow; RFC 9000 wants eight (section 7.2).
const MARK: [u8; 8] = *b"\x9etg-ooo\x01";
const ID_BYTES: usize = 20;

/// Expects packets out of order on connections with these settings.
pub fn expect(transport: &mut TransportConfig, congestion: Congestion) {
    transport
        .packet_threshold(PACKET_THRESHOLD)
        .time_threshold(TIME_THRESHOLD)
        .congestion_controller_factory(congestion.factory_for_reordering());
}

/// Asks the broker to expect them, on connections that are made with these settings.
pub fn ask(config: &mut ClientConfig) {
    config.initial_dst_cid_provider(Arc::new(|| {
        let random = RandomConnectionIdGenerator::new(ID_BYTES).generate_cid();
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&random);
        id[..MARK.len()].copy_from_slice(&MARK);
        ConnectionId::new(&id)
    }));
}

/// Whether that was asked with a first connection id.
#[must_use]
pub fn is_asked(first_id: &[u8]) -> bool {
    first_id.len() == ID_BYTES && first_id.starts_with(&MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_without_the_mark_asks_for_nothing() {
        let mut id = [7; ID_BYTES];
        assert!(!is_asked(&id));
        id[..MARK.len()].copy_from_slice(&MARK);
        assert!(is_asked(&id));
        for length in 0..ID_BYTES {
            assert!(!is_asked(&id[..length]));
        }
    }
}
