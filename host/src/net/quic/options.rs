//! QUIC options: what an operator can set about listeners and transport, with every default and its arithmetic, and how that becomes
//! quinn's transport settings. What cannot be set stands where it is
//! used: for how long somebody waits for a handshake in `waiting_room`, how long connections have at a shutdown in `listeners`.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig};
use tidegate_wire::compact::Compression;
use tidegate_wire::stream::quic::congestion::Congestion;
use tidegate_wire::stream::quic::var_int;

use crate::net::session::options::SessionOptions;
use crate::net::session::receive_window::FIRST_WINDOW_BYTES;
use crate::runtime::Random;
use crate::tls::ClientAuth;

/// Streams a client may have open beyond its cap before QUIC itself holds it back. They exist so that going
/// over the cap is answered with a typed refusal instead of silence.
const REFUSABLE_STREAMS: u32 = 16;

/// Handshakes under way at most, as a multiple of where Retry begins.
const HANDSHAKES_MAX_FACTOR: usize = 8;

/// Smallest datagram QUIC allows a path to carry, and the largest that fits every Ethernet.
const MTU_MIN: u16 = 1_200;
const MTU_ETHERNET: u16 = 1_472;

/// One UDP address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Where. Port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Who may connect.
    pub client_auth: ClientAuth,
    /// What decides how much may be under way to its clients.
    pub congestion: Congestion,
    /// Whether events are compressed on the way to and from its clients.
    pub compression: Compression,
}

/// Everything that can be set about QUIC.
#[derive(Clone, Debug)]
pub struct QuicOptions {
    /// Where to listen. Default: none; a broker without a listener is an error.
    pub listeners: Vec<ListenerOptions>,
    /// A connection on which nothing at all is heard for this long is given up. Default 30 s; the broker
    /// sends a keep-alive at half of it, when clients have not sent theirs.
    pub idle_timeout: Duration,
    /// Handshakes under way before new clients must prove their address (a Retry: one more round trip, no
    /// state). Default 128; 0 asks everybody. At eight times this (at least 8), the one that has stalled longest gives way;
    /// and so it does when a quarter of them is from one network (an address, or 64 bits of an IPv6 address).
    pub handshakes_before_retry: usize,
    /// Largest datagram that path MTU discovery tries, in bytes. Default 6,500, twice as fast on loopback as
    /// 1,472. Not more: quinn sends ten datagrams in one call, which must stay below 64 KiB. On the internet
    /// discovery ends at 1,452 by itself. Costs 2,048 × this in receive buffer per listener.
    pub mtu_upper_bound: u16,
    /// Secret from which connection ids and reset tokens are made. Kept over restarts, it lets a broker that
    /// was killed tell clients of its former life at once that their connections are gone; otherwise they
    /// wait for their idle timeout. `None` makes up one.
    pub reset_key: Option<[u8; 64]>,
    /// Where everything else comes from that nobody may guess: the keys of retry tokens, and what quinn draws. Default: the system.
    pub random: Random,
    /// Asked of the kernel for a socket's receive and send buffer, in bytes. Default 4 MiB each: at 1 GB/s
    /// that is 4 ms in which the process need not run. The kernel may cap it (`net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
    /// Bytes that all connections together may have waiting to be sent or acknowledged, beyond 4 MiB for each, which is full speed
    /// at 1 Gbit/s over 16 ms. Default 256 MiB. A connection has at most 32 MiB in all, and only what its path carries, twice.
    pub send_window_total_bytes: u64,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            idle_timeout: Duration::from_secs(30),
            handshakes_before_retry: 128,
            mtu_upper_bound: 6_500,
            reset_key: None,
            random: Random::of_system(),
            socket_buffer_bytes: 4 << 20,
            send_window_total_bytes: 256 << 20,
        }
    }
}

impl QuicOptions {
    /// Handshakes under way at which the oldest gives way.
    pub(super) fn handshakes_max(&self) -> usize {
        self.handshakes_before_retry
            .max(1)
            .saturating_mul(HANDSHAKES_MAX_FACTOR)
    }

    /// Largest datagram a peer may send us. Quinn's default would cap what the peer's discovery can find.
    #[must_use]
    pub fn datagram_bytes_max(&self) -> u16 {
        self.mtu_upper_bound.max(MTU_ETHERNET)
    }

    /// quinn's settings for a connection that carries one of `sessions`.
    pub(super) fn transport(
        &self,
        sessions: &SessionOptions,
        congestion: Congestion,
    ) -> TransportConfig {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu_upper_bound.max(MTU_MIN));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(concurrent_streams(sessions).into())
            .max_concurrent_uni_streams(0u32.into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window(var_int(sessions.stream_window_bytes()))
            // Grows with what the connection's streams are granted.
            .receive_window(var_int(FIRST_WINDOW_BYTES))
            .congestion_controller_factory(congestion.factory())
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.idle_timeout / 2))
            .mtu_discovery_config(Some(mtu));
        transport
    }
}

// The hello stream, those that are served, and a few that are only there to be refused.
fn concurrent_streams(sessions: &SessionOptions) -> u32 {
    sessions.streams_max.saturating_add(1 + REFUSABLE_STREAMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_datagrams_of_the_default_size_fit_one_send() {
        assert!(10 * usize::from(QuicOptions::default().mtu_upper_bound) < 64 * 1024);
    }
}
