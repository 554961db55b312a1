//! Connections of quinn's protocol state machines over one emulated link, in virtual time: what a controller does with a path can
//! be tried without one, in a moment, and comes out the same each time. Chance is drawn from a seed. The way back has delay and loss
//! as the way there, but no limit.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, ServerConfig, Side, StreamId, TransportConfig, VarInt,
};
use rustls::pki_types::PrivateKeyDer;

use super::super::overtaken;

/// A link that both ways share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// One way.
    pub(super) delay: Duration,
    /// Delays differ by up to this, either way; no packet overtakes another.
    pub(super) jitter: Duration,
    /// Packets with less jitter than those before them overtake them.
    pub(super) reorders: bool,
    /// Share of packets lost by chance.
    pub(super) loss: f64,
    /// Bytes a second.
    pub(super) rate: f64,
    /// A packet that would have to wait longer for its turn is dropped.
    pub(super) queue: Duration,
}

/// What became of one sender that had always something to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Bytes a second that reached the reader, in the second half.
    pub(super) goodput: f64,
    /// Bytes that left, headers included, for each that reached the reader.
    pub(super) bytes_per_byte: f64,
    /// Round trip at the end, in seconds.
    pub(super) round_trip: f64,
    /// Packets that the sender's controller has seen acknowledged after later ones.
    pub(super) overtaken: u64,
}

/// What a packet has beside what QUIC makes of it: IPv4 and UDP.
const HEADERS: usize = 28;
/// Stream windows as large as a publisher's.
const STREAM_WINDOW: u32 = 8 << 20;

/// How the connection of a sender is set up.
pub(super) type SetUp = fn(&mut TransportConfig);

/// Lets one sender for each of `senders` send over `link` for `length`, each beginning a second after the one before.
pub(super) fn run(link: Link, senders: Vec<SetUp>, length: Duration) -> Vec<Outcome> {
    let began = Instant::now();
    let (client_tls, server_tls) = tls();
    let mut network = Network::new(link, began);
    let mut flows = Vec::new();
    for (flow, set_up) in senders.into_iter().enumerate() {
        let at = began + Duration::from_secs(flow as u64);
        let (client, server) = (Arc::clone(&client_tls), Arc::clone(&server_tls));
        flows.push(Flow::new(at, flow, set_up, client, server));
        network.happens(at, Happening::Timer { flow, side: 0 });
    }
    while let Some((now, happening)) = network.next() {
        if now > began + length {
            break;
        }
        let flow = happening.flow();
        flows[flow].step(now, flow, happening, &mut network);
        if now < began + length / 2 {
            flows[flow].read_before = flows[flow].read;
        }
    }
    let outcome = |flow: &Flow| Outcome {
        goodput: (flow.read - flow.read_before) as f64 / (length / 2).as_secs_f64(),
        bytes_per_byte: flow.left as f64 / flow.read as f64,
        round_trip: flow.ends[0]
            .connection()
            .map_or(0.0, |one| one.rtt().as_secs_f64()),
        overtaken: flow.ends[0]
            .connection()
            .map_or(0, |one| overtaken(one.congestion_state().clone_box())),
    };
    flows.iter().map(outcome).collect()
}

enum Happening {
    Arrival {
        flow: usize,
        side: usize,
        packet: Vec<u8>,
    },
    Timer {
        flow: usize,
        side: usize,
    },
}

impl Happening {
    fn flow(&self) -> usize {
        match self {
            Self::Arrival { flow, .. } | Self::Timer { flow, .. } => *flow,
        }
    }
}

/// What is going to happen when, and the link.
struct Network {
    order: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: HashMap<u64, Happening>,
    numbered: u64,
    ways: [Way; 2],
    chance: u64,
}

struct Way {
    link: Link,
    free_at: Instant,
    last_arrival: Instant,
}

impl Network {
    fn new(link: Link, began: Instant) -> Self {
        let back = Link {
            rate: f64::INFINITY,
            ..link
        };
        Self {
            order: BinaryHeap::new(),
            happenings: HashMap::new(),
            numbered: 0,
            ways: [link, back].map(|link| Way {
                link,
                free_at: began,
                last_arrival: began,
            }),
            chance: 0x9E37_79B9_7F4A_7C15,
        }
    }

    fn happens(&mut self, at: Instant, happening: Happening) {
        self.numbered += 1;
        self.order.push(Reverse((at, self.numbered)));
        self.happenings.insert(self.numbered, happening);
    }

    fn next(&mut self) -> Option<(Instant, Happening)> {
        let Reverse((at, number)) = self.order.pop()?;
        Some((at, self.happenings.remove(&number)?))
    }

    fn carry(&mut self, now: Instant, flow: usize, from: usize, packet: Vec<u8>) {
        let (lost, late) = (self.draw(), self.draw());
        let way = &mut self.ways[from];
        let start = way.free_at.max(now);
        if start - now > way.link.queue {
            return;
        }
        let bytes = (packet.len() + HEADERS) as f64;
        way.free_at = start + Duration::from_secs_f64(bytes / way.link.rate);
        if lost < way.link.loss {
            return;
        }
        let delay =
            way.link.delay.as_secs_f64() + (2.0 * late - 1.0) * way.link.jitter.as_secs_f64();
        let at = way.free_at + Duration::from_secs_f64(delay);
        let at = match way.link.reorders {
            true => at,
            false => at.max(way.last_arrival),
        };
        way.last_arrival = at;
        let side = 1 - from;
        self.happens(at, Happening::Arrival { flow, side, packet });
    }

    // From 0 to 1 (xorshift).
    fn draw(&mut self) -> f64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A sender and its reader.
struct Flow {
    ends: [End; 2],
    stream: Option<StreamId>,
    read: u64,
    read_before: u64,
    left: u64,
}

struct End {
    peer: SocketAddr,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    timer: Option<Instant>,
}

impl Flow {
    fn new(
        now: Instant,
        number: usize,
        set_up: SetUp,
        client_tls: Arc<QuicClientConfig>,
        server_tls: Arc<QuicServerConfig>,
    ) -> Self {
        let seed = [number as u8 + 1; 32];
        let config = Arc::new(EndpointConfig::default());
        let mut server = ServerConfig::with_crypto(server_tls);
        server.transport_config(transport(|_| {}));
        let mut client = ClientConfig::new(client_tls);
        client.transport_config(transport(set_up));
        let address = |side| SocketAddr::from((Ipv4Addr::new(10, 0, number as u8, side), 4433));
        let mut sender = End::new(
            address(2),
            Endpoint::new(Arc::clone(&config), None, true, Some(seed)),
        );
        let reader = End::new(
            address(1),
            Endpoint::new(config, Some(Arc::new(server)), true, Some(seed)),
        );
        let begun = sender.endpoint.connect(now, client, address(2), "emulated");
        sender.connection = Some(begun.expect("the configuration fits"));
        Self {
            ends: [sender, reader],
            stream: None,
            read: 0,
            read_before: 0,
            left: 0,
        }
    }

    fn step(&mut self, now: Instant, number: usize, happening: Happening, network: &mut Network) {
        match happening {
            Happening::Arrival { side, packet, .. } => {
                if let Some(answer) = self.ends[side].arrive(now, &packet) {
                    network.carry(now, number, side, answer);
                }
            }
            Happening::Timer { side, .. } => self.ends[side].time_out(now),
        }
        for side in 0..2 {
            self.ends[side].events();
            if side == 0 {
                self.write();
            } else {
                self.read();
            }
            for packet in self.ends[side].transmit(now) {
                self.left += if side == 0 {
                    (packet.len() + HEADERS) as u64
                } else {
                    0
                };
                network.carry(now, number, side, packet);
            }
            if let Some(at) = self.ends[side].new_timer() {
                network.happens(at.max(now), Happening::Timer { flow: number, side });
            }
        }
    }

    fn write(&mut self) {
        let Some((_, connection)) = &mut self.ends[0].connection else {
            return;
        };
        if connection.is_handshaking() {
            return;
        }
        if self.stream.is_none() {
            self.stream = connection.streams().open(Dir::Uni);
        }
        if let Some(stream) = self.stream {
            while connection.send_stream(stream).write(&[7; 65_536]).is_ok() {}
        }
    }

    fn read(&mut self) {
        let Some((_, connection)) = &mut self.ends[1].connection else {
            return;
        };
        while connection.streams().accept(Dir::Uni).is_some() {}
        let stream = StreamId::new(Side::Client, Dir::Uni, 0);
        let mut stream = connection.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.read += chunk.bytes.len() as u64;
        }
        let _ = chunks.finalize();
    }
}

impl End {
    fn new(peer: SocketAddr, endpoint: Endpoint) -> Self {
        Self {
            peer,
            endpoint,
            connection: None,
            timer: None,
        }
    }

    fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref().map(|(_, connection)| connection)
    }

    // What is to be answered at once, by no connection.
    fn arrive(&mut self, now: Instant, packet: &[u8]) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        let packet = BytesMut::from(packet);
        match self
            .endpoint
            .handle(now, self.peer, None, None, packet, &mut answer)?
        {
            DatagramEvent::ConnectionEvent(_, event) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
                None
            }
            DatagramEvent::NewConnection(incoming) => {
                self.connection = self.endpoint.accept(incoming, now, &mut answer, None).ok();
                None
            }
            DatagramEvent::Response(_) => Some(answer),
        }
    }

    fn time_out(&mut self, now: Instant) {
        if self.timer.is_some_and(|at| at <= now) {
            self.timer = None;
            if let Some((_, connection)) = &mut self.connection {
                connection.handle_timeout(now);
            }
        }
    }

    fn events(&mut self) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            assert!(!matches!(event, Event::ConnectionLost { .. }), "{event:?}");
        }
    }

    fn transmit(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let Some((_, connection)) = &mut self.connection else {
            return packets;
        };
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 10, &mut buffer) {
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            packets.extend(buffer[..transmit.size].chunks(segment).map(<[u8]>::to_vec));
            buffer.clear();
        }
        packets
    }

    // When there is another one than before.
    fn new_timer(&mut self) -> Option<Instant> {
        let (_, connection) = self.connection.as_mut()?;
        let timer = connection.poll_timeout();
        if timer == self.timer {
            return None;
        }
        self.timer = timer;
        timer
    }
}

fn transport(set_up: SetUp) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .send_window(STREAM_WINDOW.into())
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STREAM_WINDOW));
    set_up(&mut transport);
    Arc::new(transport)
}

fn tls() -> (Arc<QuicClientConfig>, Arc<QuicServerConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["emulated".to_owned()]);
    let made = made.expect("the name is one");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("it is well formed");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    let client = QuicClientConfig::try_from(client).expect("it has QUIC's cipher suite");
    let server = QuicServerConfig::try_from(server).expect("it has QUIC's cipher suite");
    (Arc::new(client), Arc::new(server))
}
