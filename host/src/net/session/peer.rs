//! The peer: one client that is connected, as its streams see it. Who it is, what it may and may have under way, which frames it
//! takes, and the broker that it speaks to; and the one way in which the log says who something happened to. A peer reads and
//! writes nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_wire::compact::Compression;
use tidegate_wire::counters::ConnectionCounters;
use tidegate_wire::limits::{FRAME_BYTES_MAX, OPEN_FRAME_BYTES_MAX};
use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tracing::field::Empty;
use tracing::{Span, debug, error_span, info, warn};

use super::connection_slots::ConnectionSlot;
use super::counters_turn::CountersTurn;
use super::frames::{FrameRecv, FrameSend};
use super::known_client::KnownClient;
use super::link_tests::Tester;
use super::memory_account::MemoryAccount;
use super::receive_window::ReceiveWindow;
use super::service::Service;
use super::silence_watch::SilenceWatch;
use crate::auth::Policy;
use crate::broker::{Broker, Unavailable};
use crate::domain::{ConnectionId, Network, Principal};
use crate::locks::lock;
use crate::net::counters::NetCounters;

/// Refusals of one connection that are logged as warnings; the rest only at debug level, so that a client in
/// a loop cannot fill the disk.
const REFUSALS_LOGGED_MAX: u64 = 20;

/// Characters of a client's self-description that are logged.
const CLIENT_NAME_CHARS_MAX: usize = 64;

/// Bytes of what a stream is about that are logged: any name that is valid.
const VALUE_BYTES_MAX: usize = 256;

/// One client.
pub(super) struct Peer<C> {
    pub(super) service: Arc<Service>,
    /// Its connection, among all.
    pub(super) id: ConnectionId,
    pub(super) principal: Principal,
    /// Largest frame this client accepts.
    pub(super) frame_bytes_max: usize,
    /// Whether events are compressed on the way to and from it.
    pub(super) compression: Compression,
    /// What its connection takes memory from.
    pub(super) account: Arc<MemoryAccount>,
    /// How much it may have under way.
    pub(super) window: Arc<ReceiveWindow<C>>,
    /// For how long nothing was heard of it.
    pub(super) silence: SilenceWatch<C>,
    /// Its measure streams take turns.
    pub(super) counters_turn: CountersTurn,
    /// Where it was when it connected, and at the last look.
    network: Network,
    address: Mutex<SocketAddr>,
    /// Says in the log which connection it is.
    span: Span,
    /// Its place among all connections.
    _slot: ConnectionSlot,
    connection: C,
    /// What it proved itself with has lapsed, and its connection is closed for that.
    has_lapsed: AtomicBool,
    refusals: AtomicU64,
}

impl<C: Connection> Peer<C> {
    /// The `client` at the other end of `connection`, who takes up `slot`.
    pub(super) fn new(
        service: Arc<Service>,
        connection: C,
        client: KnownClient,
        slot: ConnectionSlot,
    ) -> Self {
        let KnownClient {
            principal,
            remote,
            compression,
            ..
        } = client;
        let id = service.next_id();
        // Of the highest level, so that it is there whichever lines are written.
        let span = error_span!("session", connection = %id, peer = %remote, %principal);
        let window = Arc::new(ReceiveWindow::new(connection.clone()));
        Self {
            service,
            id,
            principal,
            frame_bytes_max: FRAME_BYTES_MAX,
            compression,
            account: slot.account.clone(),
            silence: SilenceWatch::new(Arc::clone(&window)),
            window,
            counters_turn: CountersTurn::default(),
            network: remote.ip().into(),
            address: Mutex::new(remote),
            span,
            _slot: slot,
            connection,
            has_lapsed: AtomicBool::new(false),
            refusals: AtomicU64::new(0),
        }
    }

    /// How long a message to the client and its answer take at present.
    pub(super) fn round_trip(&self) -> Duration {
        self.connection.round_trip()
    }

    /// Whether the path to the client is a long one at present.
    pub(super) fn is_long(&self) -> bool {
        self.connection.is_long()
    }

    /// Bytes that are worth having ready for the client, as the path to it is now.
    pub(super) fn send_window(&self) -> usize {
        self.connection.send_window()
    }

    /// What this end has counted of the connection to the client.
    pub(super) fn counters(&self) -> ConnectionCounters {
        self.connection.counters()
    }

    /// Whose tests of links count together.
    pub(super) fn tester(&self) -> Tester {
        Tester::new(&self.principal, self.network)
    }

    /// The rights of all.
    pub(super) fn policy(&self) -> &Policy {
        &self.service.policy
    }

    /// The broker.
    ///
    /// # Errors
    ///
    /// A test has none.
    pub(super) fn broker(&self) -> Result<&Broker, Unavailable> {
        self.service.broker()
    }

    pub(super) fn stats(&self) -> &Arc<NetCounters> {
        &self.service.stats
    }

    /// The messages of one of its streams, which begins with a first message.
    pub(super) fn frames(
        &self,
        (send, recv): (C::Send, C::Receive),
    ) -> (FrameSend<C::Send>, FrameRecv<C::Receive>) {
        let recv = FrameRecv::new(
            recv,
            OPEN_FRAME_BYTES_MAX,
            self.service.options.frame_timeout,
            self.account.clone(),
            self.stats().clone(),
        );
        (FrameSend::new(send, self.stats().clone()), recv)
    }

    /// Its connection is about to be closed, since what it proved itself with has lapsed: through no fault of what it has in hand.
    pub(super) fn lapse(&self) {
        self.has_lapsed.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was lost, or closed from here because the client breaks the protocol, rather than ended in order by one
    /// side that said so. A client's process that dies may still close it, with nothing to say.
    pub(super) fn is_cut(&self) -> bool {
        match self.connection.end() {
            None => false,
            _ if self.service.shutdown.is_cancelled() => false,
            Some(ConnectionEnd::Here) => !self.has_lapsed.load(Ordering::Relaxed),
            Some(ConnectionEnd::Peer { reason, .. }) => reason.is_empty(),
            Some(_) => true,
        }
    }

    /// What says in the log which stream a line is about: the `kind` of it, and `subscription` or `producer` once they are recorded,
    /// see [`tell_apart`]. There is one for each stream, and only the lines that are written look at it.
    pub(super) fn stream_span(&self, kind: &'static str) -> Span {
        error_span!(parent: &self.span, "stream", kind, subscription = Empty, producer = Empty)
    }

    /// Logs that the session is open, with what the client calls itself. This line alone says beside that who it is, though its span
    /// does too: whoever looks who came wants one pattern, whatever the span has before and after.
    pub(super) fn log_open(&self, client: &str) {
        let client: String = client.chars().take(CLIENT_NAME_CHARS_MAX).collect();
        let principal = &self.principal;
        info!(parent: &self.span, %principal, ?client, "connected");
    }

    /// Looks whether the client has another address than at the last look, and counts and logs it. A connection goes on with that.
    pub(super) fn look_at_address(&self) {
        let Some(address) = self.connection.peer_address() else {
            return;
        };
        if std::mem::replace(&mut *lock(&self.address), address) != address {
            self.stats().address_changed();
            debug!(parent: &self.span, addr = %address, "the client's address has changed");
        }
    }

    /// Counts and logs that the client was gone before its hello was answered: clients make several attempts at a time, and need one.
    pub(super) fn log_no_hello(&self) {
        let Some(end) = self.connection.end() else {
            return;
        };
        if matches!(end, ConnectionEnd::Peer { .. }) {
            self.stats().attempt_withdrawn();
        }
        debug!(parent: &self.span, reason = %end, "an attempt to connect is over");
    }

    /// Logs why the session is over.
    pub(super) fn log_closed(&self, reason: &str) {
        info!(parent: &self.span, reason, "disconnected");
    }

    /// Counts and logs the refusal of the hello, which is the session's.
    pub(super) fn log_hello_refusal(&self, error: &pb::Error) {
        self.log_refusal(&self.stream_span("hello"), error);
    }

    /// Counts and logs the refusal of something on the stream of `span`.
    pub(super) fn log_refusal(&self, span: &Span, error: &pb::Error) {
        self.log_refusal_of(span, None, error);
    }

    /// The same of something that was meant for `topic`.
    pub(super) fn log_refusal_of(&self, span: &Span, topic: Option<&str>, error: &pb::Error) {
        self.stats().refused(error.code());
        let earlier = self.refusals.fetch_add(1, Ordering::Relaxed);
        let (code, reason) = (error.code(), &error.message);
        if earlier < REFUSALS_LOGGED_MAX {
            warn!(parent: span, topic, %code, reason, "refused");
        } else {
            debug!(parent: span, topic, %code, reason, "refused");
        }
        if earlier + 1 == REFUSALS_LOGGED_MAX {
            warn!(parent: span, "further refusals of this connection are logged at debug level");
        }
    }

    /// Logs that others get what the consumer of a stream holds, since its client has answered nothing for so long.
    pub(super) fn log_silent(&self, span: &Span, waited: Duration) {
        let reason = format!("it has answered nothing for {waited:?}");
        info!(parent: span, reason, "the client is silent; others get what this consumer holds");
    }

    /// Logs what went wrong on the stream of `span` without a refusal.
    pub(super) fn log_fault(&self, span: &Span, reason: &str) {
        warn!(parent: span, reason, "fault");
    }
}

/// Says in the log lines of a stream what it is about. Values of peers may be long, so the rest of those is left out.
pub(super) fn tell_apart(span: &Span, field: &'static str, value: &str) {
    span.record(field, &value[..value.floor_char_boundary(VALUE_BYTES_MAX)]);
}
