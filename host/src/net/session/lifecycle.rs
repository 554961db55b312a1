//! The life of a session: the hello, a task for every stream that the client opens, and its end, whoever wants it. It knows nothing of
//! topics or events; what a stream carries is the business of [`stream_dispatch`], how it ends with the broker that of [`shutdown`].

use std::sync::Arc;

use tidegate_wire::pb::{self, ErrorCode};
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::{Instant, sleep_until};

use super::connection_slots::ConnectionSlot;
use super::error_codes::{StreamEnd, close, shutting_down};
use super::hello::{self, HelloStream, NoSession};
use super::known_client::KnownClient;
use super::peer::Peer;
use super::service::Service;
use super::{shutdown, stream_dispatch};
use crate::domain::Millis;
use crate::runtime::Clock;
use crate::runtime::task_set::TaskSet;

/// Serves a client until its connection is over.
pub(in crate::net) async fn serve<C: Connection>(
    service: Arc<Service>,
    connection: C,
    client: KnownClient,
    slot: ConnectionSlot,
) {
    let _counted = service.stats.connection();
    let lapses = client.lapses;
    let mut peer = Peer::new(service, connection.clone(), client, slot);
    let hello = match hello::exchange(&mut peer, &connection).await {
        Ok(hello) => hello,
        Err(NoSession::Gone) => return peer.log_no_hello(),
        Err(NoSession::Refused) => return,
    };
    let session = Session {
        streams: TaskSet::new(&peer.service.spawner(), "stream"),
        peer: Arc::new(peer),
        connection,
        hello,
        lapses,
    };
    session.run().await;
}

async fn lapsed(clock: Clock, lapses: Option<Millis>) {
    match lapses {
        Some(at) => clock.passed(at).await,
        None => std::future::pending().await,
    }
}

/// A session past its hello. The one owner of its streams' tasks: dropping it ends them.
struct Session<C: Connection> {
    peer: Arc<Peer<C>>,
    connection: C,
    hello: HelloStream<C>,
    lapses: Option<Millis>,
    streams: TaskSet<Result<(), StreamEnd>>,
}

/// What can happen to a session.
enum Woken<C: Connection> {
    Opened(C::Send, C::Receive),
    Gone(ConnectionEnd),
    /// `None`: by a fault of its own.
    StreamEnded(Option<Result<(), StreamEnd>>),
    /// Of the hello stream, on which the client has nothing more to say.
    Hello(Result<Option<pb::StreamOpen>, StreamEnd>),
    Shutdown,
    Deadline,
    Lapsed,
}

impl<C: Connection> Session<C> {
    async fn run(mut self) {
        let mut hello_open = true;
        let mut deadline = None;
        let mut lapsed = std::pin::pin!(lapsed(self.peer.service.clock.clone(), self.lapses));
        let peer = Arc::clone(&self.peer);
        let mut watches = std::pin::pin!(peer.silence.run(|| peer.look_at_address()));
        let closing = loop {
            let woken = tokio::select! {
                biased;
                () = lapsed.as_mut() => Woken::Lapsed,
                never = watches.as_mut() => match never {},
                woken = self.next(hello_open, deadline) => woken,
            };
            match woken {
                Woken::Opened(send, recv) => self.spawn(send, recv, deadline.is_some()),
                Woken::Gone(end) => {
                    self.peer.look_at_address();
                    return self.peer.log_closed(&end.to_string());
                }
                Woken::StreamEnded(ended) => {
                    if let Some(error) = self.violation(ended) {
                        break error;
                    }
                }
                Woken::Hello(Ok(None) | Err(StreamEnd::Lost)) => hello_open = false,
                Woken::Hello(Ok(Some(_))) => {
                    break self.hello_violation(StreamEnd::malformed(
                        "nothing may follow the hello on its stream",
                    ));
                }
                Woken::Hello(Err(end)) => break self.hello_violation(end),
                Woken::Shutdown => {
                    deadline = Some(shutdown::deadline(&self.peer));
                    shutdown::say_goodbye(&self.peer, &mut self.hello.send).await;
                }
                Woken::Deadline => break shutting_down(),
                Woken::Lapsed => {
                    self.peer.lapse();
                    break pb::Error::new(
                        ErrorCode::PermissionDenied,
                        "the client's certificate has expired; connect again with a renewed one",
                    );
                }
            }
            if deadline.is_some() && self.streams.is_empty() {
                break shutting_down();
            }
        };
        self.hello.send.finish().await;
        close(&self.connection, &closing);
        self.connection.closed().await;
        self.peer.log_closed(&closing.message);
    }

    // What ends the session comes first. Streams that ended come before new ones, so that their places are free; there are only as
    // many of them as were let in, so a client that opens one after the other keeps nothing from being looked at.
    async fn next(&mut self, hello_open: bool, deadline: Option<Instant>) -> Woken<C> {
        let overdue = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = overdue => Woken::Deadline,
            () = self.peer.service.shutdown.cancelled(), if deadline.is_none() => Woken::Shutdown,
            Some(ended) = self.streams.next() => Woken::StreamEnded(ended),
            said = self.hello.recv.next(), if hello_open => Woken::Hello(said),
            accepted = self.connection.accept() => match accepted {
                Ok((send, recv)) => Woken::Opened(send, recv),
                Err(end) => Woken::Gone(end),
            },
        }
    }

    fn spawn(&mut self, send: C::Send, recv: C::Receive, draining: bool) {
        self.peer.look_at_address();
        let streams_max = self.peer.service.options.streams_max as usize;
        let refusal = if draining {
            Some(shutting_down())
        } else if self.streams.len() >= streams_max {
            let message = format!(
                "{streams_max} streams are open on this connection; close one or open another connection"
            );
            Some(pb::Error::new(ErrorCode::Overloaded, message))
        } else {
            None
        };
        let stream = stream_dispatch::serve(self.peer.clone(), send, recv, refusal);
        self.streams.spawn(stream);
    }

    // Why the connection must be closed, if a stream's end demands it.
    fn violation(&self, ended: Option<Result<(), StreamEnd>>) -> Option<pb::Error> {
        match ended {
            Some(Err(StreamEnd::Violation(error))) => Some(error),
            Some(_) => None,
            None => {
                let span = self.peer.stream_span("stream");
                self.peer.log_fault(&span, "its task panicked");
                None
            }
        }
    }

    fn hello_violation(&self, end: StreamEnd) -> pb::Error {
        let error = end.error().cloned().unwrap_or_else(shutting_down);
        self.peer.log_hello_refusal(&error);
        error
    }
}
