//! What an operator can set about the network, with every default and its arithmetic, and how that becomes
//! quinn's transport settings. No other file of `net` has a number of its own that an operator might miss.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig};
use tidegate_wire::limits::{Limits, OPEN_FRAME_BYTES_MAX};

use super::account::Share;
use super::slots::SlotLimits;
use super::window::{FIRST_WINDOW_BYTES, var_int};

/// Streams a client may have open beyond its cap before QUIC itself holds it back. They exist so that going
/// over the cap is answered with a typed refusal instead of silence.
const REFUSABLE_STREAMS: u32 = 16;

/// Handshakes under way at most, as a multiple of where Retry begins.
const HANDSHAKES_MAX_FACTOR: usize = 8;

/// Part of the credit of all that comes on top for messages larger than what their stream was granted.
const LARGE_PART: usize = 4;

/// Smallest datagram QUIC allows a path to carry, and the largest that fits every Ethernet.
const MTU_MIN: u16 = 1_200;
const MTU_ETHERNET: u16 = 1_472;

/// Whether a listener asks for a client certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate signed by one of the client CAs, or no connection.
    #[default]
    Required,
    /// No certificate is asked for; every client is the principal `anonymous`.
    Anonymous,
}

/// One UDP address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Where. Port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Who may connect.
    pub client_auth: ClientAuth,
}

/// Everything that can be set about the network.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Where to listen. Default: none; a broker without a listener is an error.
    pub listeners: Vec<ListenerOptions>,
    /// What is accepted of clients, announced in the hello.
    pub limits: Limits,
    /// What one publish stream may have outstanding (sent, not answered), in bytes of cost: its events, 16 bytes more for
    /// each, and 1 KiB for each batch. Default 8 MiB: at 400 MB/s that is 20 ms of waiting for a sync. Costs that much memory
    /// per stream that uses it.
    pub publish_credit_bytes: usize,
    /// Batches that one publish stream may have outstanding. Default 256.
    pub publish_credit_batches: u32,
    /// The same over all streams, beyond the 32 KiB that each has. Default 256 MiB. One principal may have half of it, one
    /// connection a quarter, and a stream an eighth of what is left of each. A quarter of it comes on top for messages that are
    /// larger than what their stream was granted, which wait for room there. So with the default limits memory for what clients
    /// send stays below 320 MiB + 32 KiB × publish streams.
    pub publish_credit_total_bytes: usize,
    /// Time for a TLS handshake, for the hello after it, and for the first message of a stream. Default 5 s: QUIC sends again
    /// what was lost after 1 and after 3 s, as long as it knows nothing of the path.
    pub handshake_timeout: Duration,
    /// Time for a message from its first byte to its last. Default 30 s, so a megabyte may come at 300 kbit/s. Time in which
    /// nothing comes between two messages does not count.
    pub frame_timeout: Duration,
    /// A connection on which nothing at all is heard for this long is given up. Default 30 s; the broker
    /// sends keep-alives at a third of it, so only a dead peer or path is quiet that long.
    pub idle_timeout: Duration,
    /// Open connections over all listeners; more are refused. Default 10,000. An idle one costs about 30 KiB. The last
    /// sixteenth, 64 at most, is for principals that hold an admin right.
    pub connections_max: usize,
    /// Of those, how many one principal may have. Default 0: half of them. Clients without a certificate are one principal,
    /// and those of one network among them may have a quarter of what that may.
    pub principal_connections_max: usize,
    /// Handshakes under way before new clients must prove their address (a Retry: one more round trip, no
    /// state). Default 128; 0 asks everybody. At eight times this (at least 8), the one that has stalled longest gives way;
    /// and so it does when a quarter of them is from one network (an address, or 64 bits of an IPv6 address).
    pub handshakes_before_retry: usize,
    /// Publish and subscribe streams on one connection; more are refused. Default 256.
    pub streams_max: u32,
    /// Time from the start of a shutdown until connections are closed whatever they still do. Default 10 s.
    pub shutdown_grace: Duration,
    /// Time a subscriber gets at shutdown to ack what it has, after deliveries stopped. Default 1 s.
    pub shutdown_acks: Duration,
    /// Largest datagram that path MTU discovery tries, in bytes. Default 6,500, twice as fast on loopback as
    /// 1,472. Not more: quinn sends ten datagrams in one call, which must stay below 64 KiB. On the internet
    /// discovery ends at 1,452 by itself. Costs 2,048 × this in receive buffer per listener.
    pub mtu_upper_bound: u16,
    /// Secret from which connection ids and reset tokens are made. Kept over restarts, it lets a broker that
    /// was killed tell clients of its former life at once that their connections are gone; otherwise they
    /// wait for their idle timeout. `None` makes up one.
    pub reset_key: Option<[u8; 64]>,
    /// Asked of the kernel for a socket's receive and send buffer, in bytes. Default 4 MiB each: at 1 GB/s
    /// that is 4 ms in which the process need not run. The kernel may cap it (`net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
    /// Bytes one connection may have sent without being acknowledged. Default 4 MiB: full speed at 1 Gbit/s
    /// over 32 ms. Costs that much memory per connection whose peer is stuck.
    pub send_window_bytes: u64,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            limits: Limits::default(),
            publish_credit_bytes: 8 << 20,
            publish_credit_batches: 256,
            publish_credit_total_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            connections_max: 10_000,
            principal_connections_max: 0,
            handshakes_before_retry: 128,
            streams_max: 256,
            shutdown_grace: Duration::from_secs(10),
            shutdown_acks: Duration::from_secs(1),
            mtu_upper_bound: 6_500,
            reset_key: None,
            socket_buffer_bytes: 4 << 20,
            send_window_bytes: 4 << 20,
        }
    }
}

impl NetOptions {
    /// Bytes a client can have sent on a publish stream without exceeding its credit: a batch costs at least the bytes of its
    /// frame. As a stream's receive window it never stops a client that keeps to its credit.
    #[must_use]
    pub fn stream_window_bytes(&self) -> usize {
        self.publish_credit_bytes
            .max(self.limits.frame_bytes_max.saturating_mul(2))
            .max(OPEN_FRAME_BYTES_MAX)
    }

    /// Handshakes under way at which the oldest gives way.
    pub(super) fn handshakes_max(&self) -> usize {
        self.handshakes_before_retry
            .max(1)
            .saturating_mul(HANDSHAKES_MAX_FACTOR)
    }

    pub(super) fn slot_limits(&self) -> SlotLimits {
        let principal = match self.principal_connections_max {
            0 => self.connections_max.div_ceil(2),
            max => max,
        };
        SlotLimits {
            all: self.connections_max,
            principal,
            streams: self.streams_max as usize,
        }
    }

    /// Memory for what all clients send.
    pub(super) fn memory_share(&self) -> Share {
        Share {
            streams: self.connections_max.max(self.streams_max as usize),
            credit_bytes: self.publish_credit_total_bytes,
            large_bytes: self.publish_credit_total_bytes / LARGE_PART,
        }
    }

    /// Largest datagram a peer may send us. Quinn's default would cap what the peer's discovery can find.
    #[must_use]
    pub fn datagram_bytes_max(&self) -> u16 {
        self.mtu_upper_bound.max(MTU_ETHERNET)
    }

    /// quinn's settings for a connection.
    pub(super) fn transport(&self) -> TransportConfig {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.mtu_upper_bound.max(MTU_MIN));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(self.concurrent_streams().into())
            .max_concurrent_uni_streams(0u32.into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window(var_int(self.stream_window_bytes()))
            // Grows with what the connection's streams are granted.
            .receive_window(var_int(FIRST_WINDOW_BYTES))
            .send_window(self.send_window_bytes)
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.idle_timeout / 3))
            .mtu_discovery_config(Some(mtu));
        transport
    }

    // The hello stream, those that are served, and a few that are only there to be refused.
    fn concurrent_streams(&self) -> u32 {
        self.streams_max.saturating_add(1 + REFUSABLE_STREAMS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_credit_allows() {
        let options = NetOptions::default();
        assert_eq!(options.stream_window_bytes(), 8 << 20);
        let tight = NetOptions {
            publish_credit_bytes: 0,
            publish_credit_batches: 1,
            ..options
        };
        assert!(tight.stream_window_bytes() >= tight.limits.frame_bytes_max);
    }

    #[test]
    fn a_principal_has_half_of_the_connections_unless_it_is_said_otherwise() {
        let principal = |connections_max, principal_connections_max| {
            let options = NetOptions {
                connections_max,
                principal_connections_max,
                ..NetOptions::default()
            };
            options.slot_limits().principal
        };
        assert_eq!(principal(10_000, 0), 5_000);
        assert_eq!(principal(1, 0), 1);
        assert_eq!(principal(100, 7), 7);
    }

    #[test]
    fn ten_datagrams_of_the_default_size_fit_one_send() {
        assert!(10 * usize::from(NetOptions::default().mtu_upper_bound) < 64 * 1024);
    }
}
