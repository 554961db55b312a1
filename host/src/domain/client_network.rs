//! What counts as one address when something is shared out by it.

use std::net::{IpAddr, Ipv6Addr};

/// An address as far as it says who somebody is: networks hand out 64 bits of an IPv6 address to a single host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_can_choose_by_itself_is_one() {
        let check = |one: &str, other: &str, same: bool| {
            let network = |text: &str| Network::from(text.parse::<IpAddr>().expect("an address"));
            assert_eq!(network(one) == network(other), same, "{one} {other}");
        };
        check("10.0.0.1", "10.0.0.2", false);
        check("::ffff:10.0.0.1", "10.0.0.1", true);
        check("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true);
        check("2001:db8:0:1::1", "2001:db8:0:2::1", false);
    }
}
