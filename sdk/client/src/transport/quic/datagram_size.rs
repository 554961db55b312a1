//! How large a datagram to a peer may be as far as this machine knows, which is what the interface carries that leads there. Discovery
//! tries each size that does not fit three times, and waits for a time-out each time: some fifty packets and, by satellite, a minute
//! for sizes that cannot even leave this machine. What the rest of the way carries is discovery's business.

use std::net::SocketAddr;

/// Datagrams that every path of QUIC carries (RFC 9000, section 14).
const LEAST: u16 = 1_200;

/// The largest datagram, without the headers of IP and UDP, that the interface to `peer` carries, of at most `most` bytes; `most` where
/// the system does not say. Nothing is sent.
pub(super) fn largest_datagram(peer: SocketAddr, most: u16) -> u16 {
    let headers = match peer {
        SocketAddr::V4(_) => 28,
        SocketAddr::V6(_) => 48,
    };
    let carried = interface_mtu(peer).map_or(most, |mtu| {
        u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
    });
    carried.min(most).max(LEAST)
}

#[cfg(target_os = "linux")]
fn interface_mtu(peer: SocketAddr) -> Option<usize> {
    use std::os::fd::AsRawFd;

    let (level, option) = match peer {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let socket = super::open_socket(peer).ok()?;
    socket.connect(&peer.into()).ok()?;
    let mut mtu: libc::c_int = 0;
    let mut length = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the descriptor is the socket's, which lives, and the option is an integer, for which there is room of this length.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_mut(&mut mtu).cast(),
            &raw mut length,
        )
    };
    (got == 0).then(|| usize::try_from(mtu).ok()).flatten()
}

#[cfg(not(target_os = "linux"))]
fn interface_mtu(_peer: SocketAddr) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_as_large_as_the_interface_carries_and_at_most_what_is_wanted() {
        let here: SocketAddr = "127.0.0.1:4433".parse().expect("an address");
        let carried = largest_datagram(here, u16::MAX);
        assert!(carried >= LEAST);
        assert_eq!(
            largest_datagram(here, 1_300.min(carried)),
            1_300.min(carried)
        );
        assert_eq!(largest_datagram(here, 100), LEAST);
        if let Some(mtu) = interface_mtu(here) {
            let expected = (mtu - 28).clamp(LEAST.into(), u16::MAX.into());
            assert_eq!(usize::from(carried), expected);
        }
    }
}
