//! What an operator can set about the network, with every default and its arithmetic, and how that becomes
//! quinn's transport settings. No other file of `net` has a number of its own that an operator might miss.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use tidegate_wire::limits::{ENVELOPE_BYTES_MAX, Limits, OPEN_FRAME_BYTES_MAX};

/// Streams a client may have open beyond its cap before QUIC itself holds it back. They exist so that going
/// over the cap is answered with a typed refusal instead of silence.
const REFUSABLE_STREAMS: u32 = 16;

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
    /// Bytes of events that one publish stream may have outstanding (sent, not answered). Default 8 MiB: at
    /// 400 MB/s that is 20 ms of waiting for a sync. Costs that much memory per stream that uses it.
    pub publish_credit_bytes: usize,
    /// Batches that one publish stream may have outstanding. Default 256.
    pub publish_credit_batches: u32,
    /// Bytes of publish credit over all streams. Default 256 MiB: 28 streams get all they ask for, later ones
    /// less and less, but never less than one frame, so with the default limits memory for publishes
    /// stays below 256 MiB + 1 MiB × publish streams.
    pub publish_credit_total_bytes: usize,
    /// Time for a TLS handshake, for the hello after it, and for the first message of a stream. Default 10 s.
    pub handshake_timeout: Duration,
    /// A connection on which nothing at all is heard for this long is given up. Default 30 s; the broker
    /// sends keep-alives at a third of it, so only a dead peer or path is quiet that long.
    pub idle_timeout: Duration,
    /// Open connections over all listeners; more are refused. Default 10,000. An idle one costs about 30 KiB.
    pub connections_max: usize,
    /// Handshakes under way before new clients must prove their address (a Retry: one more round trip, no
    /// state). Default 128; 0 asks everybody. At eight times this (at least 8), attempts are refused.
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
    /// Bytes one connection may send that the broker has not read yet. Default 32 MiB. Every stream is always
    /// read, so this is room for a burst, not memory that is normally held.
    pub receive_window_bytes: u32,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            limits: Limits::default(),
            publish_credit_bytes: 8 << 20,
            publish_credit_batches: 256,
            publish_credit_total_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            connections_max: 10_000,
            handshakes_before_retry: 128,
            streams_max: 256,
            shutdown_grace: Duration::from_secs(10),
            shutdown_acks: Duration::from_secs(1),
            mtu_upper_bound: 6_500,
            reset_key: None,
            socket_buffer_bytes: 4 << 20,
            send_window_bytes: 4 << 20,
            receive_window_bytes: 32 << 20,
        }
    }
}

impl NetOptions {
    /// Bytes a client can have sent on a publish stream without exceeding its credit: the events, the head of
    /// every batch, and tag and length of every event where they weigh most, which is with tiny events (two
    /// bytes each). With the defaults 8 MiB + 256 × (1 KiB + 2 × 4,096) = 10.25 MiB. As a stream's receive
    /// window it never stops a client that keeps to its credit.
    #[must_use]
    pub fn stream_window_bytes(&self) -> usize {
        let per_batch = ENVELOPE_BYTES_MAX + 2 * self.limits.batch_events_max;
        self.publish_credit_bytes
            .saturating_add(per_batch.saturating_mul(self.publish_credit_batches as usize))
            .max(self.limits.frame_bytes_max.saturating_mul(2))
            .max(OPEN_FRAME_BYTES_MAX)
    }

    /// The connection's window: what is configured, but at least one stream's.
    fn connection_window_bytes(&self) -> usize {
        self.stream_window_bytes()
            .max(self.receive_window_bytes as usize)
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
            .receive_window(var_int(self.connection_window_bytes()))
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

fn var_int(bytes: usize) -> VarInt {
    u64::try_from(bytes)
        .ok()
        .and_then(|bytes| VarInt::from_u64(bytes).ok())
        .unwrap_or(VarInt::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_credit_allows() {
        let options = NetOptions::default();
        assert_eq!(
            options.stream_window_bytes(),
            (8 << 20) + 256 * (1024 + 8192)
        );
        assert!(options.connection_window_bytes() >= options.stream_window_bytes());
        let tight = NetOptions {
            publish_credit_bytes: 0,
            publish_credit_batches: 1,
            receive_window_bytes: 0,
            ..options
        };
        assert!(tight.stream_window_bytes() >= tight.limits.frame_bytes_max);
        assert!(tight.connection_window_bytes() >= tight.stream_window_bytes());
    }

    #[test]
    fn ten_datagrams_of_the_default_size_fit_one_send() {
        assert!(10 * usize::from(NetOptions::default().mtu_upper_bound) < 64 * 1024);
    }
}
