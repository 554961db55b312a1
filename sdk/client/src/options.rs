//! What a user can choose, with every default and its reason; those of the waits between attempts to reconnect are in
//! `backoff`. No option is read anywhere but from these structs.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_wire::compact::Compression;
use tidegate_wire::stream::quic::congestion::Congestion;

use crate::backoff;
use crate::error::ConfigError;
use crate::spawn::Spawner;

/// How to reach a broker, and as whom.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// `host:port` of the broker. All addresses the host resolves to are tried.
    pub addr: String,
    /// Name that the broker's certificate must bear. Default: the host in `addr`.
    pub server_name: String,
    /// Certificate authorities that may have signed the broker's certificate. At least one.
    pub roots: Vec<CertificateDer<'static>>,
    /// Who this client is. Default: nobody, which most brokers refuse. It is shown for as long as the client lives; one that is renewed
    /// meanwhile takes [`identity_from`](Self::identity_from).
    pub identity: Option<Identity>,
    /// Where a newer identity is looked for.
    pub(crate) identity_source: Option<IdentitySource>,
    /// How long [`Client::connect`](crate::Client::connect) tries. Default 10 s.
    pub connect_timeout: Duration,
    /// Make a new connection when one is lost, or beside one on which the broker is silent or packets come late; and look twice a second
    /// from which address of this machine the broker is reached, to tell it at once of another. Default true.
    pub reconnect: bool,
    /// Whether a new connection is tried again after one side has not accepted the other's certificate. Default true: certificates are
    /// renewed on the other side, and brokers come back with the right one. A program that somebody watches had better end.
    pub retry_objections: bool,
    /// Wait before the second attempt to reconnect; doubled for each further one, and jittered. Default 50 ms.
    pub backoff_min: Duration,
    /// Longest wait between two attempts to reconnect. Default 5 s.
    pub backoff_max: Duration,
    /// A connection on which nothing was heard for this long is given up. Default 30 s. A broker that has not answered for 6 to
    /// 8 s is looked for by a connection beside this one, so that one that is dead is noticed soon, and an outage survived.
    pub idle_timeout: Duration,
    /// A ping goes out after this much silence, and at a third of the idle timeout at the latest. Default 10 s; costs two packets of
    /// some 60 bytes with all headers. To a broker on the same machine after 2 s at the latest.
    pub keep_alive: Duration,
    /// What decides how much may be under way to the broker. Default [`Congestion::Auto`]. The broker decides for the other way.
    pub congestion: Congestion,
    /// Whether events are compressed on the way to the broker, and taken compressed from it. Default [`Compression::Auto`]: to the
    /// broker on long paths, where it pays; what comes from it as the broker chooses. [`Compression::Off`] is for events whose
    /// contents must not show in the size of packets: somebody who can publish beside them to the same consumer, or makes this program
    /// publish what he chose, could guess at them.
    pub compression: Compression,
    /// Largest frame that this client accepts. Default 1 GiB, the largest for which a broker may be configured: a consumer gets whatever
    /// a publisher may send, and what a dead letter adds to it. A smaller one leaves larger events to other consumers, and is for
    /// programs whose memory is scarce: each consumer holds one frame at least.
    pub frame_bytes_max: usize,
    /// How long a delivery may wait in this client for the application to take it. Default 5 min. Until then the client extends its ack
    /// deadline as often as need be, however slow the application is; then it goes back to the broker, nothing counts as an
    /// attempt, and its consumer gets nothing in its place before the application takes something again. Longer, and others wait
    /// for what a busy application has not come to; less, and what it would soon have come to travels twice.
    pub buffered_max: Duration,
    /// What the broker's log and connection list show. Default `tidegate-client/<version>`.
    pub client_name: String,
    /// Where the randomness of back-offs and producer ids begins: the same seed and the same course of things give the same run.
    /// Default `None`: nobody foresees it. Two clients with one seed take the same producer ids, and fence each other.
    pub seed: Option<u64>,
    /// Who runs the tasks of this client.
    pub(crate) spawner: Spawner,
}

impl ClientOptions {
    /// Options for the broker at `addr` (`host:port`), with every default.
    pub fn new(addr: impl Into<String>) -> Self {
        let addr = addr.into();
        Self {
            server_name: host_of(&addr).to_owned(),
            addr,
            roots: Vec::new(),
            identity: None,
            identity_source: None,
            connect_timeout: Duration::from_secs(10),
            reconnect: true,
            retry_objections: true,
            backoff_min: backoff::WAIT_MIN_DEFAULT,
            backoff_max: backoff::WAIT_MAX_DEFAULT,
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            congestion: Congestion::Auto,
            compression: Compression::Auto,
            frame_bytes_max: 1 << 30,
            buffered_max: Duration::from_secs(300),
            client_name: concat!("tidegate-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            seed: None,
            spawner: Spawner::default(),
        }
    }

    /// Sets the name that the broker's certificate must bear.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = name.into();
        self
    }

    /// Adds the certificate authorities in `pem` to those trusted.
    ///
    /// # Errors
    /// When `pem` is not valid or has no certificate in it.
    pub fn roots_pem(mut self, pem: &[u8]) -> Result<Self, ConfigError> {
        self.roots.extend(certificates("CA file", pem)?);
        Ok(self)
    }

    /// Sets the client certificate (itself first, then those that lead to the CA) and its private key.
    ///
    /// # Errors
    /// When either is not valid PEM or holds nothing of its kind.
    pub fn identity_pem(
        mut self,
        cert_chain_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, ConfigError> {
        self.identity = Some(Identity::from_pem(cert_chain_pem, key_pem)?);
        Ok(self)
    }

    /// Sets where the client certificate and its private key come from, such as files that are renewed while the program runs. `source`
    /// is asked now and again for each connection, and what it gives is shown to the broker from that one on. When it fails later, the
    /// log says so, and what it gave before is shown once more. It is called on a task of the runtime, and should be through soon.
    ///
    /// # Errors
    /// It fails now.
    pub fn identity_from<E>(
        mut self,
        source: impl Fn() -> Result<Identity, E> + Send + Sync + 'static,
    ) -> Result<Self, E>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.identity = Some(source()?);
        let source = move || source().map_err(Into::into);
        self.identity_source = Some(IdentitySource(Arc::new(source)));
        Ok(self)
    }

    /// Sets whether a lost connection is made anew.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Sets [`retry_objections`](Self::retry_objections).
    #[must_use]
    pub fn retry_objections(mut self, retry: bool) -> Self {
        self.retry_objections = retry;
        self
    }

    /// Sets how long [`Client::connect`](crate::Client::connect) tries.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the shortest and the longest wait between attempts to reconnect.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff_min = min;
        self.backoff_max = max;
        self
    }

    /// Sets what decides how much may be under way to the broker.
    #[must_use]
    pub fn congestion(mut self, congestion: Congestion) -> Self {
        self.congestion = congestion;
        self
    }

    /// Sets whether events are compressed.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets the largest frame that is accepted: at least 4 KiB.
    #[must_use]
    pub fn frame_bytes_max(mut self, bytes: usize) -> Self {
        self.frame_bytes_max = bytes;
        self
    }

    /// Sets how long a delivery may wait for the application.
    #[must_use]
    pub fn buffered_max(mut self, time: Duration) -> Self {
        self.buffered_max = time;
        self
    }

    /// Sets the seed, for a run that is to be repeated exactly.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets who runs the tasks of this client, such as one that decides in which order they go on, so that a run can be repeated exactly.
    /// `spawn` gets each of them as it begins, and returns at once. Default: the runtime that the client is used on, whose timers they
    /// need all the same. A task that is dropped before its end takes what it serves with it.
    #[must_use]
    pub fn spawner(
        mut self,
        spawn: impl Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static,
    ) -> Self {
        self.spawner = Spawner::by(spawn);
        self
    }
}

/// A client's certificate chain and private key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// An identity from its parts: the client's own certificate first.
    #[must_use]
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// An identity from PEM text.
    ///
    /// # Errors
    /// When either is not valid PEM or holds nothing of its kind.
    pub fn from_pem(cert_chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, ConfigError> {
        let chain = certificates("client certificate", cert_chain_pem)?;
        // Both forms that there are. The first has a label that the parser passes over, the second has one that it takes.
        let says = |words: &[u8]| key_pem.windows(words.len()).any(|at| at == words);
        if says(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || says(b"Proc-Type: 4,ENCRYPTED") {
            return Err(ConfigError::EncryptedKey);
        }
        let what = "private key";
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => ConfigError::Missing { what },
            error => ConfigError::Pem {
                what,
                reason: error.to_string(),
            },
        })?;
        Ok(Self { chain, key })
    }
}

/// Where a newer identity is looked for.
#[derive(Clone)]
pub(crate) struct IdentitySource(Arc<AskForIdentity>);

type AskForIdentity = dyn Fn() -> Result<Identity, Box<dyn Error + Send + Sync>> + Send + Sync;

impl IdentitySource {
    pub(crate) fn ask(&self) -> Result<Identity, Box<dyn Error + Send + Sync>> {
        (self.0)()
    }
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("IdentitySource")
            .finish_non_exhaustive()
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Never shows the key.
impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Identity({} certificates)", self.chain.len())
    }
}

/// How a [`Publisher`](crate::Publisher) works.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// What the broker knows this producer by. Default: 16 random bytes. A producer that survives its own restarts
    /// keeps its id and raises `epoch`.
    pub producer_id: Option<[u8; 16]>,
    /// Which life of the producer this is; a newer one fences the older. Default 0.
    pub epoch: u32,
    /// Let the broker recognise what is sent again after a reconnect, so that nothing is appended twice. Default
    /// true; without it, a lost connection may double events.
    pub idempotent: bool,
    /// How long a batch waits for company. Default 0: whatever is queued goes out at once.
    pub linger: Duration,
    /// Bytes of encoded events that may be queued or unanswered; above, [`send`](crate::Publisher::send) waits. Those that are given
    /// here are a bound that never grows. Default 0: by the path. That is 8 MiB, which at 1 GB/s are 8 ms, and as much as the
    /// broker lets be unanswered where that is more, as it is where round trips are long: up to 32 MiB, when it keeps its default.
    pub outstanding_bytes_max: usize,
    /// Events that may be queued or unanswered. Default 65,536: the bytes bound those of 128 bytes and more first.
    pub outstanding_events_max: usize,
    /// Bytes of one batch. Default 256 KiB: four blocks of the broker's store. The broker's frame limit holds too.
    pub batch_bytes_max: usize,
    /// How long an event may stay unanswered before it fails. Default `None`: tried for as long as the client lives.
    pub delivery_timeout: Option<Duration>,
}

/// What a publisher may have outstanding on any path, when the application says nothing of it.
pub(crate) const OUTSTANDING_BYTES: usize = 8 * 1024 * 1024;

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            producer_id: None,
            epoch: 0,
            idempotent: true,
            linger: Duration::ZERO,
            outstanding_bytes_max: 0,
            outstanding_events_max: 65_536,
            batch_bytes_max: 256 * 1024,
            delivery_timeout: None,
        }
    }
}

/// How a [`Consumer`](crate::Consumer) works.
///
/// What is given here is a bound that never grows. Where it is 0, each number begins as below, and grows with what the application takes
/// in the time of two round trips: enough for a path of 1 Gbit/s and 100 ms.
#[derive(Clone, Debug, Default)]
pub struct ConsumerOptions {
    /// Deliveries that the broker may send ahead of the application. Default 0: by the path, from 4,096 to 65,536.
    pub credit_events: u64,
    /// Bytes of events that the broker may send ahead of the application. Default 0: by the path, from 8 MiB to 32 MiB.
    pub credit_bytes: u64,
    /// Deliveries that the consumer takes in all: the broker never sends more that are its own, so that others get the rest. What came and
    /// was lost with a connection, or was given back before the application took it, is sent again, or another in its place. Then no more
    /// come, and [`next`](crate::Consumer::next) waits until the consumer ends. Default 0: any number.
    pub events_max: u64,
}

/// Credit on any path, and to where it grows by itself.
pub(crate) const CREDIT_EVENTS: u64 = 4_096;
pub(crate) const CREDIT_BYTES: u64 = 8 * 1024 * 1024;
pub(crate) const CREDIT_EVENTS_GROWN: u64 = 65_536;
pub(crate) const CREDIT_BYTES_GROWN: u64 = 32 * 1024 * 1024;

/// The certificates in `pem`: at least one.
fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::Pem {
            what,
            reason: error.to_string(),
        })?;
    if certificates.is_empty() {
        return Err(ConfigError::Missing {
            what: "certificate",
        });
    }
    Ok(certificates)
}

/// The host in `host:port`, without the brackets of an IPv6 address; `localhost` when there is none.
fn host_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() { "localhost" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_name_comes_from_the_address() {
        for (addr, expected) in [
            ("broker.example:4433", "broker.example"),
            ("127.0.0.1:4433", "127.0.0.1"),
            ("[::1]:4433", "::1"),
            ("broker", "broker"),
            (":4433", "localhost"),
        ] {
            assert_eq!(ClientOptions::new(addr).server_name, expected, "{addr}");
        }
    }

    #[test]
    fn pem_without_a_certificate_or_key_is_refused() {
        let none = ClientOptions::new("a:1").roots_pem(b"nothing here");
        assert!(matches!(none, Err(ConfigError::Missing { .. })), "{none:?}");
        let encrypted =
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let cert = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let refused = Identity::from_pem(cert, encrypted).map(|_| ());
        assert!(
            matches!(refused, Err(ConfigError::EncryptedKey)),
            "{refused:?}"
        );
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let broken = ClientOptions::new("a:1").roots_pem(broken);
        assert!(matches!(broken, Err(ConfigError::Pem { .. })), "{broken:?}");
    }
}
