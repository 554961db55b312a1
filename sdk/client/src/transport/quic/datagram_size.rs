//! How large a datagram to a peer may be as far as this machine knows, which is what the interface carries that leads there. Discovery
//! tries each size that does not fit three times, and waits for a time-out each time: some fifty packets and, by satellite, a minute
//! for sizes that cannot even leave this machine. What the rest of the way carries is discovery's business: what the system remembers of
//! it for ten minutes may be over by now, and a connection would keep to it for as long as it lives.

use std::net::SocketAddr;

/// Datagrams that every path of QUIC carries (RFC 9000, section 14).
const LEAST: u16 = 1_200;

/// The largest datagram, without the headers of IP and UDP, that the interface to `peer` carries, of at most `most` bytes; `most` where
/// the system does not say. Nothing is sent.
pub(super) fn largest_datagram(peer: SocketAddr, most: u16) -> u16 {
    let carried = system::known(peer).and_then(Known::carried);
    let carried = carried.map_or(most, |mtu| {
        u16::try_from(mtu.saturating_sub(headers(peer))).unwrap_or(u16::MAX)
    });
    carried.min(most).max(LEAST)
}

/// The largest datagram, without the headers of IP and UDP, that the path to `peer` carries as far as the system knows: by the interface,
/// by its routes, and by what routers have said in the last ten minutes. Nothing is sent.
#[doc(hidden)]
#[must_use]
pub fn known_datagram_max(peer: SocketAddr) -> Option<usize> {
    let path = system::known(peer)?.path?;
    Some(path.saturating_sub(headers(peer)))
}

/// Bytes of the headers of IP and UDP.
fn headers(peer: SocketAddr) -> usize {
    match peer {
        SocketAddr::V4(_) => 28,
        SocketAddr::V6(_) => 48,
    }
}

/// What the system says of the way to a peer.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// MTU of the path: that of the interface, unless a route or a router said less.
    path: Option<usize>,
    /// MTU of the interface whose address this machine has towards the peer.
    interface: Option<usize>,
}

impl Known {
    /// MTU of the interface that leads there.
    fn carried(self) -> Option<usize> {
        // What leads to this machine itself is another interface than that with the address, and carries more.
        self.path.max(self.interface)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::CStr;
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::ptr;

    use super::Known;

    type Name = [libc::c_char; libc::IFNAMSIZ];

    pub(super) fn known(peer: SocketAddr) -> Option<Known> {
        let socket = connected(peer).ok()?;
        Some(Known {
            path: path_mtu(&socket, peer),
            interface: interface_mtu(&socket),
        })
    }

    // For questions only: nothing goes over it.
    fn connected(peer: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(peer)?;
        Ok(socket)
    }

    fn path_mtu(socket: &UdpSocket, peer: SocketAddr) -> Option<usize> {
        let (level, option) = match peer {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let mut mtu: libc::c_int = 0;
        let mut length = size_of_val(&mtu) as libc::socklen_t;
        // SAFETY: the descriptor is the socket's, which lives, and the option is an integer, for which there is room of this length.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                option,
                ptr::from_mut(&mut mtu).cast(),
                &raw mut length,
            )
        };
        (got == 0).then(|| usize::try_from(mtu).ok()).flatten()
    }

    fn interface_mtu(socket: &UdpSocket) -> Option<usize> {
        let local = socket.local_addr().ok()?.ip();
        // SAFETY: all of it is numbers and addresses, for which zeros stand for nothing.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = interface_with(local)?;
        // SAFETY: the descriptor is the socket's, which lives; the request has a name with an end, and room for the answer.
        let got =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
        // SAFETY: this request is answered with this number.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        (got == 0).then(|| usize::try_from(mtu).ok()).flatten()
    }

    // The name of the interface with this address. An address of the loopback interface may be used towards anybody.
    fn interface_with(address: IpAddr) -> Option<Name> {
        let mut first: *mut libc::ifaddrs = ptr::null_mut();
        // SAFETY: it writes the list's first entry, or fails.
        if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
            return None;
        }
        let mut found = None;
        let mut next = first;
        // SAFETY: each entry is followed by another or by null, and lives until the list is freed.
        while let Some(entry) = unsafe { next.as_ref() } {
            let is_loopback = entry.ifa_flags & libc::IFF_LOOPBACK.cast_unsigned() != 0;
            // SAFETY: the address is that of an entry, so it is null or as long as its family says.
            if !is_loopback && unsafe { ip_of(entry.ifa_addr) } == Some(address) {
                // SAFETY: each entry has a name with an end, which lives as long as the entry.
                found = name_of(unsafe { CStr::from_ptr(entry.ifa_name) });
                break;
            }
            next = entry.ifa_next;
        }
        // SAFETY: the list is the one that was got, nothing of it is used any more, and it is freed once.
        unsafe { libc::freeifaddrs(first) };
        found
    }

    fn name_of(name: &CStr) -> Option<Name> {
        let mut copied: Name = [0; libc::IFNAMSIZ];
        let bytes = name.to_bytes();
        if bytes.len() >= copied.len() {
            return None;
        }
        for (to, from) in copied.iter_mut().zip(bytes) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        Some(copied)
    }

    // # Safety
    // `address` is null, or an address of the length that its family has.
    unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
        // SAFETY: as promised, and every address begins with its family.
        let family = i32::from(unsafe { address.as_ref() }?.sa_family);
        match family {
            libc::AF_INET => {
                // SAFETY: an address of this family has this form. It need not be aligned as such.
                let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
                Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let address = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
                Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::net::SocketAddr;

    pub(super) fn known(_peer: SocketAddr) -> Option<super::Known> {
        None
    }
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
        if let Some(known) = known_datagram_max(here) {
            let expected = known.clamp(LEAST.into(), u16::MAX.into());
            assert_eq!(usize::from(carried), expected);
        }
    }

    #[test]
    fn a_path_that_was_narrow_bounds_nothing_and_this_machine_carries_what_it_carries() {
        let carried = |path, interface| Known { path, interface }.carried();
        assert_eq!(carried(Some(1_300), Some(1_500)), Some(1_500));
        assert_eq!(carried(Some(1_500), Some(1_500)), Some(1_500));
        assert_eq!(carried(Some(65_536), Some(1_500)), Some(65_536));
        assert_eq!(carried(Some(1_400), None), Some(1_400));
        assert_eq!(carried(None, None), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_interface_is_found_by_its_address() {
        let peer = "192.0.2.1:9".parse().expect("an address");
        let Some(known) = system::known(peer) else {
            eprintln!("no route leads out of this machine, so there is no interface to look at");
            return;
        };
        // Whichever it is, QUIC could use it, and no route carries more.
        let Some(interface) = known.interface else {
            eprintln!("the address towards others is that of the loopback interface");
            return;
        };
        assert!(interface >= 576, "{known:?}");
        assert!(
            known.path.is_some_and(|path| path <= interface),
            "{known:?}"
        );
    }
}
