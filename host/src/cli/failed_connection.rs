//! Why a command does not get to its broker, and what one can do about it: nothing listens, nobody answers, one side objects to the
//! other's certificate, the path does not carry QUIC's packets, something else answers. Told for both doors in the same words. What
//! can be found out with a datagram is found out here and in [`path_probe`]; nothing is decided.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use tidegate_client::ConnectError;

use super::door::{CertificateFiles, Door};
use super::path_probe::{self, QUIC_BYTES, Verdict};

/// How long a machine that has no such port may take to say so.
const PORT_ANSWERS_WITHIN: Duration = Duration::from_millis(300);
/// How long that, and what else is found out of it, may take in all, with the name that is resolved for it, where there is time for that.
const FOUND_OUT_WITHIN: Duration = Duration::from_millis(2_500);

/// A door that stays shut.
#[derive(Debug)]
pub(super) struct FailedConnection {
    pub(super) door: Door,
    pub(super) why: Why,
    /// Of this side. The plain admin API has none.
    pub(super) files: Option<CertificateFiles>,
}

/// Why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The machine answers, and has no process at that port.
    NothingListens,
    /// Silence.
    NoAnswer { within: Duration },
    /// The path carries datagrams of so many bytes, and none as large as QUIC's.
    NarrowPath { carries: usize },
    /// The machine answers at this TCP port, and nothing by UDP.
    UdpBlocked { tcp_port: u16 },
    /// A broker is there, and did not finish to make a connection.
    Unfinished { within: Duration },
    /// It answers, and takes no connection at present.
    Busy,
    /// There is no such name.
    Unresolved(String),
    /// One side objects to the other's certificate.
    Objection {
        by_broker: bool,
        objection: Objection,
        said: String,
    },
    /// Something answers, but not as a broker does.
    NoBroker(String),
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    Expired,
    NotYetValid,
    Authority,
    Name,
    Missing,
    Purpose,
    /// They share no protocol, or the other side speaks none of these.
    NoTls,
    Other,
}

impl FailedConnection {
    /// Of a connection by QUIC. `silence` says why nothing came, if that is what was wrong.
    pub(super) async fn of(
        door: Door,
        error: &ConnectError,
        files: Option<CertificateFiles>,
        silence: impl Future<Output = Why>,
    ) -> Option<Self> {
        let mut error = error;
        while let ConnectError::TimedOut {
            source: Some(source),
            ..
        } = error
            && !matches!(
                **source,
                ConnectError::TimedOut { .. } | ConnectError::Lost(_)
            )
        {
            error = source;
        }
        let why = match error {
            ConnectError::TimedOut { .. } => silence.await,
            ConnectError::Busy { .. } => Why::Busy,
            ConnectError::Resolve { source, .. } => Why::Unresolved(source.to_string()),
            ConnectError::Handshake { reason, .. } => {
                Why::objection(reason.starts_with("the broker objects"), reason)
            }
            ConnectError::Lost(_) | ConnectError::Protocol(_) => Why::NoBroker(error.to_string()),
            _ => return None,
        };
        Some(Self { door, why, files })
    }

    /// What one can do.
    pub(super) fn hint(&self) -> String {
        let files = |of: fn(&CertificateFiles) -> &PathBuf| {
            self.files
                .as_ref()
                .map_or_else(String::new, |files| of(files).display().to_string())
        };
        let (ca, cert) = (files(|files| &files.ca), files(|files| &files.cert));
        let another = "name another broker with --context, --data-dir, or --addr and --admin";
        match &self.why {
            Why::NothingListens => format!("start the broker with `tidegate serve`, or {another}; `tidegate context show` says which one is meant, and why"),
            Why::NoAnswer { .. } => format!("check the address, that the broker runs, and that nothing between drops its packets ({}); or {another}", self.door.port()),
            Why::NarrowPath { .. } => format!(
                "raise the MTU of the link, tunnel or VPN between to 1,280 or more (of this machine's interfaces, `ip link` shows it): QUIC needs datagrams of {QUIC_BYTES} bytes, and this path drops them"
            ),
            Why::UdpBlocked { .. } => "let UDP to this port pass in both directions, in firewalls and security groups between; if it does, look whether the broker runs and is not held up".to_owned(),
            Why::Unfinished { .. } => "try again, with a longer --timeout where there is one; if it never works, look at the broker's log, whether it is overloaded, and at the MTU of the way back".to_owned(),
            Why::Busy => "it is well and comes to everybody in turn: try again in some seconds, or let a command wait for longer with --timeout; when it lasts, see `tidegate_handshakes_refused_total` and `tidegate_connections_open` of its metrics, and raise limits.connections_max if that is reached".to_owned(),
            Why::Unresolved(_) => format!("check the host's name, written HOST:PORT; or {another}"),
            Why::Objection { by_broker, objection, .. } => objection.hint(*by_broker, &ca, &cert),
            Why::NoBroker(_) => "check the port: --addr is the broker's QUIC port (UDP), --admin its admin API (http:// or https://, TCP)".to_owned(),
        }
    }
}

impl fmt::Display for FailedConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Door { address, from } = &self.door;
        match &self.why {
            Why::NothingListens => write!(formatter, "nothing listens at {address} (from {from})"),
            Why::NoAnswer { within } => write!(
                formatter,
                "no answer from {address} (from {from}) within {within:?}"
            ),
            Why::NarrowPath { carries } => write!(
                formatter,
                "the path to {address} (from {from}) is too narrow for QUIC: it carries datagrams of {carries} bytes, and not of {QUIC_BYTES}"
            ),
            Why::UdpBlocked { tcp_port } => write!(
                formatter,
                "UDP to {address} (from {from}) is probably blocked: the machine answers by TCP (port {tcp_port}), and nothing comes back by UDP"
            ),
            Why::Unfinished { within } => write!(
                formatter,
                "a broker answers at {address} (from {from}), but no connection came about within {within:?}"
            ),
            Why::Busy => write!(
                formatter,
                "the broker at {address} (from {from}) takes no further connection at present: too many clients connect at once, or it has as many as it may"
            ),
            Why::Unresolved(said) => {
                write!(formatter, "cannot resolve {address} (from {from}): {said}")
            }
            Why::Objection {
                by_broker,
                objection,
                said,
            } => {
                let what = objection.words(*by_broker);
                write!(formatter, "{what} at {address} (from {from}): {said}")
            }
            Why::NoBroker(said) => write!(
                formatter,
                "what answers at {address} (from {from}) is no broker, or another version of one: {said}"
            ),
        }
    }
}

impl std::error::Error for FailedConnection {}

impl Why {
    /// Where somebody else was told that nothing listens, and nothing was heard since, that is why. A machine says so only now and then
    /// (Linux a few times at first and once a second after that, `net.ipv4.icmp_ratelimit`), so who asks last may hear nothing.
    pub(super) fn or_closed(self, was_closed: bool) -> Self {
        match self {
            Self::NoAnswer { .. } | Self::UdpBlocked { .. } if was_closed => Self::NothingListens,
            why => why,
        }
    }

    /// Of what TLS says.
    pub(super) fn objection(by_broker: bool, said: &str) -> Self {
        Self::Objection {
            by_broker,
            objection: Objection::of(said),
            said: said.to_owned(),
        }
    }

    /// Of what the system says of a connection that did not come about.
    pub(super) fn of_io(error: &io::Error, within: Duration) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::NothingListens,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::NoAnswer { within },
            _ => Self::NoBroker(error.to_string()),
        }
    }
}

impl Objection {
    // TLS libraries have words for it, and alerts on the wire have numbers (RFC 8446, section 6).
    fn of(said: &str) -> Self {
        let said = said.to_lowercase().replace([' ', '_'], "");
        let alert = said.split_once("error").map(|(_, rest)| {
            rest.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
        });
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let alert = alert.unwrap_or_default();
        if has(&["notvalidforname", "notvalidforthename"]) {
            Self::Name
        } else if has(&["notvalidyet", "notyetvalid"]) {
            Self::NotYetValid
        } else if has(&["expired", "notvalidafter"]) || alert == "45" {
            Self::Expired
        } else if has(&["certificaterequired", "nocertificate"]) || alert == "116" {
            Self::Missing
        } else if has(&[
            "invalidpurpose",
            "extendedkeyusage",
            "unsupportedcertificate",
        ]) || alert == "43"
        {
            Self::Purpose
        } else if has(&["unknownissuer", "unknownca", "badsignature", "decrypterror"])
            || alert == "48"
            || alert == "51"
        {
            Self::Authority
        } else if has(&[
            "corruptmessage",
            "invalidcontenttype",
            "noapplicationprotocol",
            "protocolversion",
        ]) || alert == "120"
            || alert == "70"
        {
            Self::NoTls
        } else {
            Self::Other
        }
    }

    fn words(self, by_broker: bool) -> &'static str {
        match (self, by_broker) {
            (Self::Expired, true) => "our certificate has expired, says the broker",
            (Self::Expired, false) => "the broker's certificate has expired",
            (Self::NotYetValid, true) => "our certificate is not valid yet, says the broker",
            (Self::NotYetValid, false) => "the broker's certificate is not valid yet",
            (Self::Authority, true) => {
                "the broker does not know the authority that signed our certificate"
            }
            (Self::Authority, false) => {
                "the broker's certificate is signed by another authority than ours"
            }
            (Self::Name, _) => {
                "the broker's certificate is for another name than it was reached by"
            }
            (Self::Missing, _) => "the broker wants a certificate",
            (Self::Purpose, true) => "our certificate is none for clients, says the broker",
            (Self::Purpose, false) => "the broker's certificate is none for servers",
            (Self::NoTls, _) => "no broker, or not this door of one, answers",
            (Self::Other, true) => "the broker objects to our certificate",
            (Self::Other, false) => "this client objects to the broker's certificate",
        }
    }

    fn hint(self, by_broker: bool, ca: &str, cert: &str) -> String {
        match (self, by_broker) {
            (Self::Expired | Self::NotYetValid, true) => format!(
                "{cert} has to be valid now: look at the clocks of both machines, and make a new one with `tidegate cert client`"
            ),
            (Self::Expired | Self::NotYetValid, false) => {
                "whoever runs the broker has to renew its certificate (`tidegate cert server`); if it is valid, this machine's clock is wrong"
                    .to_owned()
            }
            (Self::Authority, true) => format!(
                "{cert} has to be signed by an authority that the broker accepts (client_ca of its [tls]); show another with --cert and \
                 --cert-key, or see with `tidegate context show` whether it is the broker you mean"
            ),
            (Self::Authority, false) => format!(
                "{ca} has to be the authority that signed the broker's certificate; name another with --ca, or see with `tidegate context \
                 show` whether it is the broker you mean"
            ),
            (Self::Name, _) => {
                "reach it by a name that its certificate has, or say that name with --server-name".to_owned()
            }
            (Self::Missing, _) => "show one with --cert and --cert-key".to_owned(),
            (Self::Purpose, true) => format!("{cert} is for something else; make one with `tidegate cert client`"),
            (Self::Purpose, false) => "its certificate is for something else; make one with `tidegate cert server`".to_owned(),
            (Self::NoTls, _) => {
                "check the address: --addr is the broker's QUIC port, --admin its admin API, http:// for the plain one and https:// for the other"
                    .to_owned()
            }
            (Self::Other, _) => format!("check --ca ({ca}), --cert and --cert-key ({cert}), and --server-name"),
        }
    }
}

/// Why nothing comes back within `waited`, which begins now. It is found out in the last part of that, so that who has waited does not
/// wait for the reason too.
pub(super) async fn why_silent_for(address: &str, waited: Duration) -> Why {
    let within = FOUND_OUT_WITHIN.min(waited / 2);
    tokio::time::sleep(waited - within).await;
    why_silent(address, waited, within).await
}

/// Why nothing came back within `waited`, as far as that is found out `within` so long: a resolver may be silent for long.
async fn why_silent(address: &str, waited: Duration, within: Duration) -> Why {
    // The port is asked twice, and a part is left for the resolver.
    let port_within = PORT_ANSWERS_WITHIN.min(within / 5);
    let probes_within = (within - 2 * port_within) * 3 / 4;
    let address = address.to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        let addresses: Vec<SocketAddr> = address.to_socket_addrs().ok()?.collect();
        Some((nothing_listens(&addresses, port_within), addresses))
    });
    let verdict = async {
        let Ok(Some((is_closed, addresses))) = looking.await else {
            return Verdict::Silence;
        };
        let verdict = match addresses.first() {
            _ if is_closed => Verdict::NothingListens,
            Some(first) => path_probe::look(*first, probes_within).await,
            None => Verdict::Silence,
        };
        // A machine that was asked much has said nothing more, and may have rested since.
        match verdict {
            Verdict::UdpBlocked { .. } => {
                let again =
                    tokio::task::spawn_blocking(move || nothing_listens(&addresses, port_within));
                match again.await {
                    Ok(true) => Verdict::NothingListens,
                    _ => verdict,
                }
            }
            verdict => verdict,
        }
    };
    let verdict = tokio::time::timeout(within, verdict).await;
    match verdict.unwrap_or(Verdict::Silence) {
        Verdict::NothingListens => Why::NothingListens,
        Verdict::Narrow { carries } => Why::NarrowPath { carries },
        Verdict::Unfinished => Why::Unfinished { within: waited },
        Verdict::NoBroker => Why::NoBroker("it sends back what no broker sends".to_owned()),
        Verdict::UdpBlocked { tcp_port } => Why::UdpBlocked { tcp_port },
        Verdict::Silence => Why::NoAnswer { within: waited },
    }
}

/// If one of them says nothing, there may be a broker. Blocks.
fn nothing_listens(addresses: &[SocketAddr], within: Duration) -> bool {
    !addresses.is_empty() && addresses.iter().all(|address| is_closed(*address, within))
}

fn is_closed(address: SocketAddr, within: Duration) -> bool {
    let Ok(probe) = PortProbe::new(address) else {
        return false;
    };
    // None at all would be taken for no end.
    let within = within.max(Duration::from_millis(1));
    let _ = probe.socket.set_nonblocking(false);
    let _ = probe.socket.set_read_timeout(Some(within));
    let mut answer = [0; 1];
    is_refused(probe.socket.send(&[0])) || is_refused(probe.socket.recv(&mut answer))
}

fn is_refused(result: io::Result<usize>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Asks now and then whether there is still a process at a UDP port. It sends a byte, which no broker takes for anything; the system
/// of a machine without such a process says so.
pub(super) struct PortProbe {
    socket: UdpSocket,
}

impl PortProbe {
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Asks, and says what is known since it was asked last.
    pub(super) fn is_closed(&mut self) -> bool {
        // What the system heard comes with the next call, whichever that is, and once; and a call that tells it sends nothing.
        let was_closed = is_refused(self.socket.send(&[0]));
        if was_closed {
            let _ = self.socket.send(&[0]);
        }
        // On the same machine the answer is there already.
        is_refused(self.socket.recv(&mut [0; 1])) || was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_once_that_nothing_listens_looks_for_no_other_reason_of_a_silence() {
        let blocked = || Why::UdpBlocked { tcp_port: 4433 };
        assert_eq!(blocked().or_closed(true), Why::NothingListens);
        assert_eq!(blocked().or_closed(false), blocked());
        let within = Duration::from_secs(1);
        let silent = Why::NoAnswer { within };
        assert_eq!(silent.or_closed(true), Why::NothingListens);
        // A broker that came meanwhile, and a path that was found to be narrow, are known better.
        let unfinished = || Why::Unfinished { within };
        assert_eq!(unfinished().or_closed(true), unfinished());
        let narrow = || Why::NarrowPath { carries: 1_200 };
        assert_eq!(narrow().or_closed(true), narrow());
    }

    #[test]
    fn what_tls_says_is_told_apart() {
        use Objection::*;
        for (said, expected) in [
            ("invalid peer certificate: UnknownIssuer", Authority),
            (
                "the broker objects: aborted by peer: the cryptographic handshake failed: error 48",
                Authority,
            ),
            ("received fatal alert: UnknownCA", Authority),
            ("invalid peer certificate: Expired", Expired),
            (
                "certificate expired: verification time 5 (UNIX), but certificate is not valid after 4",
                Expired,
            ),
            ("received fatal alert: CertificateExpired", Expired),
            ("error 45: certificate_expired", Expired),
            (
                "invalid peer certificate: certificate not valid yet",
                NotYetValid,
            ),
            (
                "certificate not valid for name \"x\"; certificate is only valid for DnsName(\"y\")",
                Name,
            ),
            ("received fatal alert: CertificateRequired", Missing),
            (
                "aborted by peer: the cryptographic handshake failed: error 116",
                Missing,
            ),
            ("received corrupt message of type InvalidContentType", NoTls),
            ("error 120: peer doesn't support any known protocol", NoTls),
            ("invalid peer certificate: BadEncoding", Other),
        ] {
            assert_eq!(Objection::of(said), expected, "{said}");
        }
    }

    #[test]
    fn a_closed_port_is_told_from_a_silent_one() {
        let there = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = there.local_addr().expect("bound");
        let within = PORT_ANSWERS_WITHIN;
        assert!(!nothing_listens(&[address], Duration::ZERO));
        drop(there);
        assert!(nothing_listens(&[address], within));
        assert!(!nothing_listens(&[], within));
    }

    #[test]
    fn who_has_waited_does_not_wait_for_the_reason() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        let there = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let door = Door {
            address: there.local_addr().expect("bound").to_string(),
            from: "here".to_owned(),
        };
        drop(there);
        let waited = Duration::from_secs(1);
        let error = ConnectError::TimedOut {
            addr: door.address.clone(),
            waited,
            source: None,
        };
        let why = || {
            let silence = why_silent(&door.address, waited, FOUND_OUT_WITHIN);
            let failed = FailedConnection::of(door.clone(), &error, None, silence);
            runtime.block_on(failed).expect("a reason").why
        };
        assert_eq!(why(), Why::NothingListens);
        // As if the resolver did not answer: the thread that asks it is never through.
        let (release, released) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || released.recv());
        assert_eq!(why(), Why::NoAnswer { within: waited });
        drop(release);
    }

    // The clock stands still but for time limits.
    #[tokio::test(start_paused = true)]
    async fn nor_for_all_that_can_be_tried() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("bound").to_string();
        for ms in [0, 40, 500, 5_000, 20_000] {
            let begun = tokio::time::Instant::now();
            let within = Duration::from_millis(ms);
            let why = why_silent_for(&address, within).await;
            assert_eq!(why, Why::NoAnswer { within });
            // Time limits end with a tick of the clock.
            let ticks = Duration::from_millis(2);
            assert!(begun.elapsed() <= within + ticks, "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn who_gets_no_answer_looks_for_what_the_port_is_reached_by() {
        let hint = |address: &str| {
            let failed = FailedConnection {
                door: Door {
                    address: address.to_owned(),
                    from: "here".to_owned(),
                },
                why: Why::NoAnswer {
                    within: Duration::ZERO,
                },
                files: None,
            };
            failed.hint()
        };
        assert!(hint("h:1").contains("its QUIC port is UDP"));
        for admin in ["https://h:1", "http://h:1"] {
            let hint = hint(admin);
            assert!(hint.contains("TCP") && !hint.contains("UDP"), "{hint}");
        }
    }

    #[test]
    fn every_reason_says_where_the_address_is_from_and_what_to_do() {
        let door = Door {
            address: "h:1".to_owned(),
            from: "context `a`".to_owned(),
        };
        let files = Some(CertificateFiles {
            ca: "ca.pem".into(),
            cert: "cert.pem".into(),
            key: "key.pem".into(),
        });
        let mut told = std::collections::BTreeSet::new();
        let within = Duration::from_secs(5);
        for why in [
            Why::NothingListens,
            Why::NoAnswer { within },
            Why::NarrowPath { carries: 548 },
            Why::UdpBlocked { tcp_port: 4_480 },
            Why::Unfinished { within },
            Why::Unresolved("no such host".to_owned()),
            Why::NoBroker("reset".to_owned()),
            Why::objection(true, "error 45"),
            Why::objection(true, "error 48"),
            Why::objection(true, "error 116"),
            Why::objection(false, "UnknownIssuer"),
            Why::objection(false, "expired"),
            Why::objection(false, "not valid for name"),
        ] {
            let failed = FailedConnection {
                door: door.clone(),
                why,
                files: files.clone(),
            };
            let text = failed.to_string();
            assert!(text.contains("h:1 (from context `a`)"), "{text}");
            assert!(failed.hint().len() > 10);
            assert!(told.insert((text, failed.hint())), "{failed}");
        }
    }
}
