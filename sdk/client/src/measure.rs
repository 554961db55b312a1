//! Measuring the connection to the broker: a stream of its own, on which the broker says what it has counted of it, and answers the
//! traffic of a test. It lives as long as its connection, and is not made anew on another, since its numbers are about this one.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::counters::{ConnectionCounters, LinkReport};
use tidegate_wire::stream::{Connection, LONG_PATH};

use self::stream::{AnyMeasureStream, MeasureStream};
use crate::error::MeasureError;
use crate::hello::Established;
use crate::link::Link;
use crate::options::PublisherOptions;
use crate::publisher::path_bounds::{batch_bytes_max, small_batches_max};

mod stream;

/// What both ends have counted of the connection of `established`. Takes two round trips.
///
/// # Errors
/// As for [`Client::link_report`](crate::Client::link_report).
pub(crate) async fn report_on<C: Connection>(
    established: &Established<C>,
) -> Result<LinkReport, MeasureError> {
    let (mut stream, _) = MeasureStream::open_on(established, false).await?;
    stream.report().await
}

/// Measures the connection that was there when it was [opened](crate::Client::meter), for as long as that lasts.
pub struct Meter {
    stream: Box<dyn AnyMeasureStream>,
}

/// Tests the connection that was there when it was [opened](crate::Client::link_test), with traffic of its own. The broker serves one
/// test of a principal at a time and few of all clients, and ends one after a minute or 256 MiB. The next may begin when as
/// much time is over as it was busy. One in which nothing happens for 6 s gives way to another. None of its methods is cancel-safe: one that was dropped half-way leaves the test of no more use.
pub struct LinkTest {
    stream: Box<dyn AnyMeasureStream>,
    publish_credit: (u64, u32),
}

/// What this end has counted of the connection of a [test](LinkTest), to be looked at while the test goes on.
#[derive(Clone)]
pub struct CountedHere(Arc<dyn Fn() -> ConnectionCounters + Send + Sync>);

/// What went in one direction during a [test](LinkTest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// How long they took.
    pub took: Duration,
}

/// What this client and the broker choose by themselves on a path, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathSettings {
    /// From this shortest round trip on, `Congestion::Auto` goes by a model of the path rather than by cubic.
    pub long_path: Duration,
    /// Bytes that the broker lets a publish stream have unanswered.
    pub publish_credit_bytes: u64,
    /// Batches that it lets a publish stream have unanswered.
    pub publish_credit_batches: u32,
    /// Bytes of a publisher's batches at most, with the default of `PublisherOptions::batch_bytes_max`.
    pub batch_bytes_max: usize,
    /// Small batches of one topic that a publisher has under way at once.
    pub small_batches_max: usize,
    /// Bytes that may wait at either end to be sent or acknowledged, if its path carries so much: without a share of what all
    /// connections of a broker have together, and with it.
    pub send_window_bytes_free: u64,
    /// The most that may wait.
    pub send_window_bytes_max: u64,
    /// Whether the broker takes events that are compressed. One that takes none sends none.
    pub takes_compressed: bool,
}

impl Meter {
    /// Opens one on the connection of `link`.
    ///
    /// # Errors
    /// As for [`Client::meter`](crate::Client::meter).
    pub(crate) async fn open<C: Connection>(link: &Link<C>) -> Result<Self, MeasureError> {
        let (stream, _) = MeasureStream::open(link, false).await?;
        Ok(Self {
            stream: Box::new(stream),
        })
    }

    /// What both ends have counted of the connection since it began. Takes one round trip. What this end has sent is counted before
    /// the broker counts what came, and what this end received after the broker counts what it sent: only what is under way longer
    /// than the question and its answer seems lost.
    ///
    /// # Errors
    /// When the connection is lost, or the broker ends the stream.
    pub async fn report(&mut self) -> Result<LinkReport, MeasureError> {
        self.stream.report().await
    }
}

impl LinkTest {
    /// Opens one on the connection of `link`.
    ///
    /// # Errors
    /// As for [`Client::link_test`](crate::Client::link_test).
    pub(crate) async fn open<C: Connection>(link: &Link<C>) -> Result<Self, MeasureError> {
        let (stream, ready) = MeasureStream::open(link, true).await?;
        Ok(Self {
            stream: Box::new(stream),
            publish_credit: (ready.publish_credit_bytes, ready.publish_credit_batches),
        })
    }

    /// As [`Meter::report`].
    ///
    /// # Errors
    /// As there.
    pub async fn report(&mut self) -> Result<LinkReport, MeasureError> {
        self.stream.report().await
    }

    /// Sends a few bytes to the broker and back, and returns how long that took.
    ///
    /// # Errors
    /// When the connection is lost, or the broker ends the test.
    pub async fn echo(&mut self) -> Result<Duration, MeasureError> {
        self.stream.echo().await
    }

    /// Sends to the broker for `within`, or `bytes_max` bytes if that is less. What was handed to the connection until then arrives
    /// before this returns, which may take a while on a slow path.
    ///
    /// # Errors
    /// As for [`echo`](Self::echo).
    pub async fn send(
        &mut self,
        bytes_max: u64,
        within: Duration,
    ) -> Result<Transfer, MeasureError> {
        self.stream.send(bytes_max, within).await
    }

    /// The same from the broker.
    ///
    /// # Errors
    /// As for [`echo`](Self::echo).
    pub async fn receive(
        &mut self,
        bytes_max: u64,
        within: Duration,
    ) -> Result<Transfer, MeasureError> {
        self.stream.receive(bytes_max, within).await
    }

    /// What this end has counted, for who looks after the connection meanwhile.
    #[must_use]
    pub fn counted_here(&self) -> CountedHere {
        CountedHere(self.stream.counted_here())
    }

    /// Goes on over another port of this machine, as if its address had changed. Whether the broker is heard of again, the next
    /// [`echo`](Self::echo) tells.
    ///
    /// # Errors
    /// There is no other socket to be had, or the transport knows no such thing.
    pub fn rebind(&self) -> io::Result<()> {
        self.stream.rebind()
    }

    /// What is chosen on this path, as it is now.
    #[must_use]
    pub fn settings(&self) -> PathSettings {
        let (round_trip, send_window) = self.stream.path();
        let transport = self.stream.settings();
        let (publish_credit_bytes, publish_credit_batches) = self.publish_credit;
        PathSettings {
            long_path: LONG_PATH,
            publish_credit_bytes,
            publish_credit_batches,
            batch_bytes_max: batch_bytes_max(round_trip, send_window)
                .min(PublisherOptions::default().batch_bytes_max),
            small_batches_max: small_batches_max(round_trip),
            send_window_bytes_free: transport.send_window_bytes_free,
            send_window_bytes_max: transport.send_window_bytes_max,
            takes_compressed: self.stream.takes_compressed(),
        }
    }
}

impl CountedHere {
    /// As it is now.
    #[must_use]
    pub fn now(&self) -> ConnectionCounters {
        (self.0)()
    }
}

impl fmt::Debug for CountedHere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CountedHere")
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl fmt::Debug for LinkTest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LinkTest").finish_non_exhaustive()
    }
}
