//! Why nothing comes back from a broker by QUIC: the path is too narrow for its packets, UDP does not get through, or nobody is there.
//! Found out with datagrams of several sizes that every broker answers without a connection, and a connection by TCP. What is told
//! of it is not decided here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tidegate_client::{PATH_PROBE_ID, known_datagram_max};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout_at};

use crate::runtime::Random;

/// Bytes of UDP payload that a path has to carry for QUIC (RFC 9000, section 14).
pub(super) const QUIC_BYTES: usize = 1_200;

/// Bytes of UDP payload of the probes: what QUIC needs, what fits an IPv6 path at its least and an IPv4 path of 576 bytes, and
/// what fits anything.
const SIZES: [usize; 4] = [QUIC_BYTES, 900, 548, 64];

/// Bytes of a stateless reset at least.
const RESET_BYTES_MIN: usize = 21;

/// A broker answers so many probes in a second at most, over all who ask.
const BETWEEN_PROBES: Duration = Duration::from_millis(40);
/// An answer to the first of them may be lost, or come from far away.
const AGAIN_AFTER: Duration = Duration::from_millis(700);
const PROBES_WITHIN: Duration = Duration::from_millis(1_700);

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Answered,
    /// What came back is no broker's answer.
    Strange,
    /// The system says that there is no such port.
    Refused,
    /// The system says that it is larger than the path, or this machine's interface, takes.
    TooLarge,
    Silent,
}

/// What was seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Each size, in falling order, and what became of it.
    probes: Vec<(usize, Probe)>,
    /// Bytes of UDP payload that the system takes the path to carry, maybe by what a router said ten minutes ago.
    payload_max: Option<usize>,
    /// A TCP port at which the machine answered, if only with a refusal.
    tcp_port: Option<u16>,
}

/// What that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No process has the port.
    NothingListens,
    /// Datagrams of QUIC's size do not get through.
    Narrow {
        /// Bytes of UDP payload that do.
        carries: usize,
    },
    /// The broker answers probes of QUIC's size, and yet no connection came about.
    Unfinished,
    /// Something else has the port, and answers in its own way.
    NoBroker,
    /// The machine answers at this TCP port, and nothing by UDP.
    UdpBlocked { tcp_port: u16 },
    /// Nothing is heard of it.
    Silence,
}

/// Finds out about `address`, as far as that can be done `within` so long. Takes some two seconds at most.
pub(super) async fn look(address: SocketAddr, within: Duration) -> Verdict {
    let until = Instant::now() + within.min(PROBES_WITHIN);
    let probes = SIZES.iter().enumerate();
    let probes = probes.map(|(index, size)| async move {
        sleep(BETWEEN_PROBES * u32::try_from(index).unwrap_or_default()).await;
        let left = until.saturating_duration_since(Instant::now());
        let probed = probe(address, *size, left).await;
        (*size, probed.unwrap_or(Probe::Silent))
    });
    let tcp_port = answering_tcp_port(address, until);
    let (probes, tcp_port) = tokio::join!(join_all(probes), tcp_port);
    Seen {
        payload_max: known_datagram_max(address),
        probes,
        tcp_port,
    }
    .verdict()
}

impl Seen {
    fn verdict(&self) -> Verdict {
        let is = |probe| self.probes.iter().any(|(_, found)| *found == probe);
        let answered =
            |(size, probe): &(usize, Probe)| (*probe == Probe::Answered).then_some(*size);
        let largest = self.probes.iter().find_map(answered);
        let is_rejected = self.probes.contains(&(QUIC_BYTES, Probe::TooLarge));
        // A probe was sent in spite of what the system knew. When nothing was said against it, that is no proof.
        let known = self.payload_max.filter(|bytes| *bytes < QUIC_BYTES);
        match (largest, self.tcp_port) {
            _ if is(Probe::Refused) => Verdict::NothingListens,
            (Some(largest), _) if largest >= QUIC_BYTES => Verdict::Unfinished,
            (None, _) if is(Probe::Strange) => Verdict::NoBroker,
            // Whatever it carries, it is less.
            _ if is_rejected => Verdict::Narrow {
                carries: known.or(largest).unwrap_or(QUIC_BYTES - 1),
            },
            (Some(carries), _) => Verdict::Narrow { carries },
            (None, Some(tcp_port)) => Verdict::UdpBlocked { tcp_port },
            (None, None) => Verdict::Silence,
        }
    }
}

// What becomes of a datagram of so many bytes.
async fn probe(address: SocketAddr, size: usize, within: Duration) -> io::Result<Probe> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    path_mtu::forbid_fragments(&socket)?;
    socket.connect(address).await?;
    let begun = Instant::now();
    let packet = packet(size);
    let mut found = Probe::Silent;
    for after in [AGAIN_AFTER.min(within), within] {
        let exchange = async {
            socket.send(&packet).await?;
            let mut answer = [0; QUIC_BYTES];
            let length = socket.recv(&mut answer).await?;
            Ok::<_, io::Error>(match is_reset(&answer[..length], size) {
                true => Probe::Answered,
                false => Probe::Strange,
            })
        };
        found = match timeout_at(begun + after, exchange).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Probe::Refused,
            Ok(Err(error)) if path_mtu::is_too_large(&error) => Probe::TooLarge,
            Ok(Err(error)) => return Err(error),
            Err(_) => continue,
        };
        break;
    }
    Ok(found)
}

// Whether it may be what a broker answers to a packet of so many bytes of a connection that it does not know (RFC 9000, section 10.3).
// Whatever else has the port answers something else.
fn is_reset(answer: &[u8], size: usize) -> bool {
    let first = answer.first().is_some_and(|byte| byte & 0xc0 == 0x40);
    first && (RESET_BYTES_MIN..size).contains(&answer.len())
}

// Looks like a packet of a connection that the broker does not know.
fn packet(size: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = Vec::with_capacity(size);
    packet.push(0x40);
    packet.extend_from_slice(&PATH_PROBE_ID);
    let random = Random::of_system().bytes::<QUIC_BYTES>();
    packet.extend_from_slice(&random[..size.saturating_sub(packet.len()).min(QUIC_BYTES)]);
    packet
}

// Nothing stands between a program and another one on the same machine.
async fn answering_tcp_port(address: SocketAddr, until: Instant) -> Option<u16> {
    if address.ip().is_loopback() {
        return None;
    }
    let ports = [address.port(), ADMIN_PORT].map(|port| async move {
        let address = SocketAddr::new(address.ip(), port);
        match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Some(port),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Some(port),
            _ => None,
        }
    });
    join_all(ports).await.into_iter().flatten().next()
}

/// The admin API's port unless a configuration says otherwise.
const ADMIN_PORT: u16 = 4480;

/// What Linux says of datagrams that do not fit. Other systems are asked nothing.
#[cfg(target_os = "linux")]
mod path_mtu {
    use std::io;
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd;

    use tokio::net::UdpSocket;

    /// Has datagrams that do not fit dropped rather than cut up, as QUIC's are.
    pub(super) fn forbid_fragments(socket: &UdpSocket) -> io::Result<()> {
        let (level, option, value) = match socket.local_addr()? {
            SocketAddr::V4(_) => (
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
            ),
            SocketAddr::V6(_) => (
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_PROBE,
            ),
        };
        let length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the descriptor is the socket's, which lives, and the option is an integer of this length.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(&value).cast(),
                length,
            )
        };
        match set {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn is_too_large(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EMSGSIZE)
    }
}

#[cfg(not(target_os = "linux"))]
mod path_mtu {
    use std::io;

    use tokio::net::UdpSocket;

    pub(super) fn forbid_fragments(_: &UdpSocket) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn is_too_large(_: &io::Error) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Probe::{Answered, Refused, Silent, Strange, TooLarge};
    use super::*;

    #[test]
    fn what_was_seen_has_one_meaning() {
        #[track_caller]
        fn check(
            probes: [Probe; 4],
            payload_max: Option<usize>,
            tcp_port: Option<u16>,
            expected: Verdict,
        ) {
            let seen = Seen {
                probes: SIZES.into_iter().zip(probes).collect(),
                payload_max,
                tcp_port,
            };
            assert_eq!(seen.verdict(), expected, "{seen:?}");
        }
        let narrow = |carries| Verdict::Narrow { carries };
        check([Silent; 4], None, None, Verdict::Silence);
        check([Silent; 4], Some(1_472), None, Verdict::Silence);
        let blocked = Verdict::UdpBlocked { tcp_port: 4_480 };
        check([Silent; 4], Some(1_472), Some(4_480), blocked);
        check([Refused; 4], None, Some(4_480), Verdict::NothingListens);
        check(
            [Silent, Silent, Refused, Silent],
            None,
            None,
            Verdict::NothingListens,
        );
        check([Answered; 4], Some(1_472), None, Verdict::Unfinished);
        check(
            [Answered, Silent, Silent, Silent],
            None,
            Some(1),
            Verdict::Unfinished,
        );
        check([Strange; 4], None, Some(4_480), Verdict::NoBroker);
        check(
            [TooLarge, Silent, Strange, Silent],
            None,
            None,
            Verdict::NoBroker,
        );
        // A broker has come to the port meanwhile.
        check(
            [Answered, Strange, Strange, Strange],
            None,
            None,
            Verdict::Unfinished,
        );
        // What comes through, and what the system knows, which is exact.
        check(
            [Silent, Silent, Answered, Answered],
            Some(1_472),
            Some(1),
            narrow(548),
        );
        check(
            [TooLarge, Silent, Answered, Answered],
            Some(548),
            None,
            narrow(548),
        );
        check([Silent, Silent, Silent, Answered], None, None, narrow(64));
        // What the system remembers may be over, and the broker away.
        check([Silent; 4], Some(972), None, Verdict::Silence);
        check([Silent; 4], Some(972), Some(4_480), blocked);
        check([Answered; 4], Some(972), None, Verdict::Unfinished);
        check(
            [Silent, Silent, Answered, Answered],
            Some(972),
            None,
            narrow(548),
        );
        check([TooLarge; 4], Some(972), None, narrow(972));
        check(
            [TooLarge, Answered, Answered, Answered],
            Some(1_472),
            None,
            narrow(900),
        );
        check(
            [TooLarge, Silent, Silent, Silent],
            None,
            Some(1),
            narrow(1_199),
        );
    }

    #[test]
    fn a_probe_has_its_size_and_its_id() {
        for size in SIZES {
            let packet = packet(size);
            assert_eq!((packet.len(), packet[0] & 0xc0), (size, 0x40));
            assert_eq!(packet[1..9], PATH_PROBE_ID);
        }
    }

    #[test]
    fn only_a_reset_is_an_answer() {
        let packet = packet(64);
        assert!(is_reset(&packet[..63], 64));
        assert!(is_reset(&packet[..21], 64));
        assert!(!is_reset(&packet[..20], 64), "too short");
        assert!(!is_reset(&packet, 64), "an echo");
        assert!(!is_reset(&[0xc0; 40], 64), "a long header");
        assert!(!is_reset(&[], 64));
    }

    #[tokio::test]
    async fn an_answer_a_closed_port_and_silence_are_told_apart() {
        const LONG: Duration = Duration::from_secs(60);
        let there = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = there.local_addr().expect("bound");
        let probed = async |size, within| probe(address, size, within).await.expect("a socket");
        // Nobody reads it.
        assert_eq!(probed(64, Duration::ZERO).await, Silent);
        // The first of each probe comes back shorter, as from a broker, and the second as it is.
        let answering = tokio::spawn(async move {
            let mut datagram = [0; 2 * QUIC_BYTES];
            for less in [1, 0].into_iter().cycle() {
                let Ok((length, from)) = there.recv_from(&mut datagram).await else {
                    return;
                };
                let _ = there.send_to(&datagram[..length - less], from).await;
            }
        });
        for size in SIZES {
            assert_eq!(probed(size, LONG).await, Answered);
            assert_eq!(probed(size, LONG).await, Strange);
        }
        answering.abort();
        assert!(answering.await.is_err(), "it is over, and its port closed");
        assert_eq!(probed(64, LONG).await, Refused);
    }
}
