//! Measuring the connection to the broker: a stream of its own, on which the broker says what it has counted of it. It lives as long
//! as its connection, and is not made anew on another, since its numbers are about this one.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
use tidegate_wire::counters::LinkReport;
use tidegate_wire::frame::decode;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, measure_opened, stream_open};
use tidegate_wire::stream::Connection;

use crate::error::{MeasureError, StreamError};
use crate::frames::{FrameStream, Moved};
use crate::link::Link;

/// Measures the connection that was there when it was [opened](crate::Client::meter), for as long as that lasts.
pub struct Meter {
    stream: Box<dyn AnyMeasureStream>,
}

impl Meter {
    /// Opens one on the connection of `link`.
    ///
    /// # Errors
    /// As for [`Client::meter`](crate::Client::meter).
    pub(crate) async fn open<C: Connection>(link: &Link<C>) -> Result<Self, MeasureError> {
        let established = link.established().await.map_err(MeasureError::Connection)?;
        if !established.takes_measure {
            return Err(MeasureError::Unsupported);
        }
        let connection = established.connection.clone();
        let kind = stream_open::Kind::Measure(pb::MeasureOpen {});
        let frames = FrameStream::open(&connection, kind).await;
        let mut stream = MeasureStream {
            frames: frames.map_err(lost)?,
            connection,
        };
        let opened: pb::MeasureOpened = stream.next().await?;
        match opened.result {
            Some(measure_opened::Result::Ready(_)) => Ok(Self {
                stream: Box::new(stream),
            }),
            Some(measure_opened::Result::Error(error)) => Err(MeasureError::Refused(error.into())),
            None => Err(MeasureError::Protocol("the answer is empty".to_owned())),
        }
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

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Meter").finish_non_exhaustive()
    }
}

/// A measure stream over any transport.
trait AnyMeasureStream: Send {
    fn report(&mut self) -> BoxFuture<'_, Result<LinkReport, MeasureError>>;
}

struct MeasureStream<C: Connection> {
    frames: FrameStream<C>,
    connection: C,
}

impl<C: Connection> MeasureStream<C> {
    async fn ask(&mut self, command: Command) -> Result<Answer, MeasureError> {
        self.frames.queue().push(&pb::MeasureCommand {
            command: Some(command),
        });
        let answer: pb::MeasureAnswer = self.next().await?;
        match answer.answer {
            Some(Answer::Error(error)) => Err(MeasureError::Refused(error.into())),
            Some(answer) => Ok(answer),
            None => Err(MeasureError::Protocol("an answer is empty".to_owned())),
        }
    }

    // The next message, sending what is queued meanwhile.
    async fn next<M: Message + Default>(&mut self) -> Result<M, MeasureError> {
        loop {
            match self.frames.moved().await {
                Moved::Frame(Ok(Some(frame))) => {
                    return decode(frame).map_err(|error| lost(error.into()));
                }
                Moved::Frame(Ok(None)) => {
                    let ended = "the broker ended the stream without an answer";
                    return Err(MeasureError::Protocol(ended.to_owned()));
                }
                Moved::Frame(Err(error)) => return Err(lost(error)),
                Moved::Written(Ok(())) => {}
                Moved::Written(Err(error)) => return Err(lost(error.into())),
            }
        }
    }
}

impl<C: Connection> AnyMeasureStream for MeasureStream<C> {
    fn report(&mut self) -> BoxFuture<'_, Result<LinkReport, MeasureError>> {
        async {
            let before = self.connection.counters();
            let answer = self.ask(Command::Counters(pb::CountersWanted {})).await?;
            let Answer::Counters(theirs) = answer else {
                let unasked = "it answers what it was not asked";
                return Err(MeasureError::Protocol(unasked.to_owned()));
            };
            let mut here = self.connection.counters();
            here.datagrams_sent = before.datagrams_sent;
            here.bytes_sent = before.bytes_sent;
            here.packets_sent = before.packets_sent;
            Ok(LinkReport::new(here, theirs.into()))
        }
        .boxed()
    }
}

fn lost(error: StreamError) -> MeasureError {
    match error {
        StreamError::Frame(error) => MeasureError::Protocol(error.to_string()),
        error => MeasureError::Lost(Arc::from(error.to_string())),
    }
}
