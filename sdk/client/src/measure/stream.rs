//! The measure stream of a meter or a test: commands, and their answers in the same order. What the numbers are for is not known here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
use tidegate_wire::counters::{ConnectionCounters, LinkReport};
use tidegate_wire::frame::decode;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, measure_opened, stream_open};
use tidegate_wire::stream::{Connection, SendError, TransportSettings};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Transfer;
use crate::error::{MeasureError, StreamError};
use crate::frames::{FrameStream, Moved};
use crate::hello::Established;
use crate::link::Link;

/// Payload of one filler: small enough that no broker makes it wait for room.
const FILLER_BYTES: usize = 8 * 1024;
static FILLER: [u8; FILLER_BYTES] = [0x5a; FILLER_BYTES];

/// What is queued ahead of the connection.
const QUEUED_BYTES_MAX: usize = 4 * FILLER_BYTES;

/// How long it is waited for what a broker says that ends the stream.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A measure stream over any transport.
pub(super) trait AnyMeasureStream: Send {
    fn report(&mut self) -> BoxFuture<'_, Result<LinkReport, MeasureError>>;

    fn echo(&mut self) -> BoxFuture<'_, Result<Duration, MeasureError>>;

    fn send(
        &mut self,
        bytes_max: u64,
        within: Duration,
    ) -> BoxFuture<'_, Result<Transfer, MeasureError>>;

    fn receive(
        &mut self,
        bytes_max: u64,
        within: Duration,
    ) -> BoxFuture<'_, Result<Transfer, MeasureError>>;

    fn rebind(&self) -> io::Result<()>;

    /// The round trip, and bytes that may wait to be sent.
    fn path(&self) -> (Duration, usize);

    fn settings(&self) -> TransportSettings;

    fn takes_compressed(&self) -> bool;

    fn counted_here(&self) -> Arc<dyn Fn() -> ConnectionCounters + Send + Sync>;
}

pub(super) struct MeasureStream<C: Connection> {
    frames: FrameStream<C>,
    connection: C,
    takes_compressed: bool,
    /// Echoes are told apart by their number.
    echoes: u64,
    _runs: TaskTrackerToken,
    /// The application measures by this.
    _measures: Option<TaskTrackerToken>,
}

impl<C: Connection> MeasureStream<C> {
    pub(super) async fn open(
        link: &Link<C>,
        test: bool,
    ) -> Result<(Self, pb::MeasureReady), MeasureError> {
        let established = link.established().await.map_err(MeasureError::Connection)?;
        let measures = established.meters.token();
        let (mut stream, ready) = Self::open_on(&established, test).await?;
        stream._measures = Some(measures);
        Ok((stream, ready))
    }

    /// One of which the application knows nothing, so that it keeps no connection from being replaced.
    pub(super) async fn open_on(
        established: &Established<C>,
        test: bool,
    ) -> Result<(Self, pb::MeasureReady), MeasureError> {
        if !established.takes_measure {
            return Err(MeasureError::Unsupported);
        }
        let connection = established.connection.clone();
        let kind = stream_open::Kind::Measure(pb::MeasureOpen { test });
        let frames = FrameStream::open(&connection, kind).await;
        let mut stream = Self {
            frames: frames.map_err(lost)?,
            connection,
            takes_compressed: established.takes_compact,
            echoes: 0,
            _runs: established.streams.token(),
            _measures: None,
        };
        let opened: pb::MeasureOpened = stream.next().await?;
        match opened.result {
            Some(measure_opened::Result::Ready(ready)) => Ok((stream, ready)),
            Some(measure_opened::Result::Error(error)) => Err(MeasureError::Refused(error.into())),
            None => Err(protocol("the answer is empty")),
        }
    }

    fn push(&mut self, command: Command) {
        self.frames.queue().push(&pb::MeasureCommand {
            command: Some(command),
        });
    }

    async fn answer(&mut self) -> Result<Answer, MeasureError> {
        let answer: pb::MeasureAnswer = self.next().await?;
        match answer.answer {
            Some(Answer::Error(error)) => Err(MeasureError::Refused(error.into())),
            Some(answer) => Ok(answer),
            None => Err(protocol("an answer is empty")),
        }
    }

    // The next message, sending what is queued meanwhile.
    async fn next<M: Message + Default>(&mut self) -> Result<M, MeasureError> {
        loop {
            if let Some(frame) = self.moved().await? {
                return decode(frame).map_err(|error| lost(error.into()));
            }
        }
    }

    // A frame that came; `None` when something was sent.
    async fn moved(&mut self) -> Result<Option<Bytes>, MeasureError> {
        match self.frames.moved().await {
            Moved::Frame(Ok(Some(frame))) => Ok(Some(frame)),
            Moved::Frame(Ok(None)) => {
                Err(protocol("the broker ended the stream without an answer"))
            }
            Moved::Frame(Err(error)) => Err(lost(error)),
            Moved::Written(Ok(())) => Ok(None),
            Moved::Written(Err(error)) => self.last_words(error).await.map(Some),
        }
    }

    async fn last_words(&mut self, error: SendError) -> Result<Bytes, MeasureError> {
        let frame = self.frames.last_words(LAST_WORDS_TIMEOUT).await;
        frame.ok().flatten().ok_or_else(|| lost(error.into()))
    }

    async fn echoed(&mut self) -> Result<(), MeasureError> {
        self.echoes += 1;
        let payload = Bytes::copy_from_slice(&self.echoes.to_be_bytes());
        self.push(Command::Echo(pb::Echo {
            payload: payload.clone(),
        }));
        match self.answer().await? {
            Answer::Echo(echo) if echo.payload == payload => Ok(()),
            _ => Err(unasked()),
        }
    }

    async fn filled(&mut self, bytes_max: u64, within: Duration) -> Result<u64, MeasureError> {
        let until = Instant::now() + within;
        let mut sent = 0;
        while sent < bytes_max && Instant::now() < until {
            while sent < bytes_max && self.frames.queue().bytes() < QUEUED_BYTES_MAX {
                let left = usize::try_from(bytes_max - sent).unwrap_or(usize::MAX);
                let payload = Bytes::from_static(&FILLER[..left.min(FILLER_BYTES)]);
                sent += payload.len() as u64;
                self.push(Command::Filler(pb::Filler { payload }));
            }
            // Nothing is answered but an error.
            if let Some(frame) = self.moved().await? {
                let answer: pb::MeasureAnswer =
                    decode(frame).map_err(|error| lost(error.into()))?;
                return Err(match answer.answer {
                    Some(Answer::Error(error)) => MeasureError::Refused(error.into()),
                    _ => unasked(),
                });
            }
        }
        Ok(sent)
    }

    fn transfer(&self, bytes: u64, begun: Instant) -> Transfer {
        // The last byte's way, and that of the answer or the question, is no part of it.
        let took = begun.elapsed().saturating_sub(self.connection.round_trip());
        Transfer {
            bytes,
            took: took.max(Duration::from_micros(1)),
        }
    }
}

impl<C: Connection> AnyMeasureStream for MeasureStream<C> {
    fn report(&mut self) -> BoxFuture<'_, Result<LinkReport, MeasureError>> {
        async {
            let before = self.connection.counters();
            self.push(Command::Counters(pb::CountersWanted {}));
            let Answer::Counters(theirs) = self.answer().await? else {
                return Err(unasked());
            };
            let mut here = self.connection.counters();
            here.datagrams_sent = before.datagrams_sent;
            here.bytes_sent = before.bytes_sent;
            here.packets_sent = before.packets_sent;
            Ok(LinkReport::new(here, theirs.into()))
        }
        .boxed()
    }

    fn echo(&mut self) -> BoxFuture<'_, Result<Duration, MeasureError>> {
        async {
            let begun = Instant::now();
            self.echoed().await?;
            Ok(begun.elapsed())
        }
        .boxed()
    }

    fn send(
        &mut self,
        bytes_max: u64,
        within: Duration,
    ) -> BoxFuture<'_, Result<Transfer, MeasureError>> {
        async move {
            let begun = Instant::now();
            let bytes = self.filled(bytes_max, within).await?;
            self.echoed().await?;
            Ok(self.transfer(bytes, begun))
        }
        .boxed()
    }

    fn receive(
        &mut self,
        bytes_max: u64,
        within: Duration,
    ) -> BoxFuture<'_, Result<Transfer, MeasureError>> {
        async move {
            let begun = Instant::now();
            self.push(Command::FillerWanted(pb::FillerWanted {
                bytes: bytes_max,
                within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            }));
            let mut bytes = 0;
            loop {
                match self.answer().await? {
                    Answer::Filler(filler) => bytes += filler.payload.len() as u64,
                    Answer::FillerEnd(_) => return Ok(self.transfer(bytes, begun)),
                    _ => return Err(unasked()),
                }
            }
        }
        .boxed()
    }

    fn rebind(&self) -> io::Result<()> {
        self.connection.rebind()
    }

    fn path(&self) -> (Duration, usize) {
        (self.connection.round_trip(), self.connection.send_window())
    }

    fn settings(&self) -> TransportSettings {
        self.connection.settings()
    }

    fn takes_compressed(&self) -> bool {
        self.takes_compressed
    }

    fn counted_here(&self) -> Arc<dyn Fn() -> ConnectionCounters + Send + Sync> {
        let connection = self.connection.clone();
        Arc::new(move || connection.counters())
    }
}

fn lost(error: StreamError) -> MeasureError {
    match error {
        StreamError::Frame(error) => MeasureError::Protocol(error.to_string()),
        error => MeasureError::Lost(Arc::from(error.to_string())),
    }
}

fn protocol(what: &str) -> MeasureError {
    MeasureError::Protocol(what.to_owned())
}

fn unasked() -> MeasureError {
    protocol("it answers what it was not asked")
}
