//! A measure stream: on it a client learns how the connection fares that it comes over, and tests the path with traffic of its own.
//! What the broker has counted of a connection is the connection's business; nothing here is about topics or events, and nothing
//! that a client sends here is kept.

use std::time::Duration;

use bytes::Bytes;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, measure_opened};
use tidegate_wire::stream::{Connection, SendHalf};
use tokio::time::{Instant, timeout};

use super::credit::STREAM_FLOOR_BYTES;
use super::error_codes::{StreamEnd, from_denied, invalid, overloaded, shutting_down};
use super::frames::{FrameRecv, FrameSend};
use super::link_tests::{LinkTest, NoTest};
use super::memory_account::CreditGrant;
use super::options::WantedCredit;
use super::peer::Peer;
use super::receive_window::Widened;
use crate::auth::{Denied, authorize};

/// What one test may take, both ways together. At 1 Gbit/s that is two seconds.
const TEST_BYTES_MAX: u64 = 256 << 20;
/// And for how long.
const TEST_TIME_MAX: Duration = Duration::from_secs(60);
/// What a command counts at least: its frame and the work.
const COMMAND_BYTES: u64 = 64;

/// Largest command: a filler of the clients of this project is half of it.
const COMMAND_BYTES_MAX: usize = 16 * 1024;
/// Largest echo.
const ECHO_BYTES_MAX: usize = 1024;

/// Payload of one filler.
const FILLER_BYTES: usize = 8 * 1024;
static FILLER: [u8; FILLER_BYTES] = [0x5a; FILLER_BYTES];
/// Fillers made before they are sent.
const FILLERS_AT_ONCE: u64 = 4;

/// A test, with what it takes up. Given back when dropped.
struct Test<'a, C: Connection> {
    bytes_left: u64,
    /// What a publish stream would get on this path.
    publish_credit: WantedCredit,
    place: LinkTest<'a>,
    _window: Widened<'a, C>,
    _credit: CreditGrant,
}

/// Serves the stream until the client finishes it.
pub(super) async fn serve<C: Connection>(
    peer: &Peer<C>,
    open: pb::MeasureOpen,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> Result<(), StreamEnd> {
    recv.set_frame_bytes_max(COMMAND_BYTES_MAX);
    let begun = authorize::measure(peer.policy(), &peer.principal)
        .map_err(|denied| from_denied(&denied))
        .and_then(|()| open.test.then(|| begin_test(peer)).transpose());
    let mut test = match begun {
        Ok(test) => test,
        Err(error) => {
            send.push(&opened(measure_opened::Result::Error(error.clone())));
            return Err(StreamEnd::Refused(error));
        }
    };
    let _counted = peer.stats().measure_stream();
    let ready = test.as_ref().map(Test::ready).unwrap_or_default();
    send.push(&opened(measure_opened::Result::Ready(ready)));
    let ended = tokio::select! {
        biased;
        ended = answer_in_time(peer, &mut test, recv, send) => ended,
        denied = denied(peer) => Err(denied.into()),
        // Nothing waits for the numbers of a connection that ends.
        () = peer.service.shutdown.cancelled() => Err(StreamEnd::Refused(shutting_down())),
    };
    if let Some(error) = ended.as_ref().err().and_then(StreamEnd::error) {
        push(send, Answer::Error(error.clone()));
    }
    ended
}

fn begin_test<C: Connection>(peer: &Peer<C>) -> Result<Test<'_, C>, pb::Error> {
    let place = peer.service.link_tests.begin(Instant::now(), peer.tester());
    let place = place.map_err(|error| match error {
        NoTest::Rest(wait) => overloaded(error.to_string()).retry_after(wait),
        NoTest::Yours | NoTest::OfNetwork | NoTest::All => overloaded(error.to_string()),
    })?;
    let publish_credit = peer.service.options.publish_credit(peer.round_trip());
    let WantedCredit { bytes, times, .. } = publish_credit;
    let credit = peer
        .account
        .grant(bytes, times, STREAM_FLOOR_BYTES.min(bytes));
    let credit = credit
        .ok_or_else(|| overloaded("too many streams are open; close some, or try again later"))?;
    peer.stats().link_test();
    Ok(Test {
        bytes_left: TEST_BYTES_MAX,
        publish_credit,
        place,
        _window: peer.window.widen(credit.bytes()),
        _credit: credit,
    })
}

// Waits until the client may measure no more.
async fn denied<C: Connection>(peer: &Peer<C>) -> Denied {
    let policy = peer.policy();
    let mut news = policy.watch();
    loop {
        news.mark_unchanged();
        if let Err(denied) = authorize::measure(policy, &peer.principal) {
            return denied;
        }
        if news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn answer_in_time<C: Connection>(
    peer: &Peer<C>,
    begun: &mut Option<Test<'_, C>>,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> Result<(), StreamEnd> {
    let Some(test) = begun else {
        return answer_all(peer, begun, recv, send).await;
    };
    let gave_way = test.place.gave_way();
    let answering = timeout(TEST_TIME_MAX, answer_all(peer, begun, recv, send));
    let why = tokio::select! {
        biased;
        answered = answering => match answered {
            Ok(answered) => return answered,
            Err(_) => format!("a test takes {TEST_TIME_MAX:?} at most"),
        },
        () = gave_way => "nothing has happened in this test for so long that another has begun".to_owned(),
    };
    Err(StreamEnd::Refused(overloaded(why)))
}

// One command is answered before the next is read, so nothing piles up.
async fn answer_all<C: Connection>(
    peer: &Peer<C>,
    test: &mut Option<Test<'_, C>>,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> Result<(), StreamEnd> {
    send.flush().await?;
    while let Some(command) = recv.next::<pb::MeasureCommand>().await? {
        match (command.command, test.as_mut()) {
            (Some(Command::Counters(_)), _) => {
                let counters = peer.counters_turn.of(|| peer.counters()).await;
                push(send, Answer::Counters((&counters).into()));
            }
            (Some(Command::Echo(echo)), Some(test)) => {
                let length = echo.payload.len();
                if length > ECHO_BYTES_MAX {
                    return Err(StreamEnd::Refused(invalid(format!(
                        "an echo of {length} bytes; {ECHO_BYTES_MAX} are the most"
                    ))));
                }
                test.take(peer, length as u64)?;
                push(send, Answer::Echo(echo));
            }
            (Some(Command::Filler(filler)), Some(test)) => {
                test.take(peer, filler.payload.len() as u64)?;
            }
            (Some(Command::FillerWanted(wanted)), Some(test)) => {
                test.take(peer, 0)?;
                let bytes = fill(peer, test, wanted, send).await?;
                push(send, Answer::FillerEnd(pb::FillerEnd { bytes }));
            }
            (Some(_), None) => {
                let message = "only counters are told on a stream that was not opened for a test";
                return Err(StreamEnd::Refused(invalid(message)));
            }
            (None, _) => {
                return Err(StreamEnd::malformed(
                    "a command that this version does not know",
                ));
            }
        }
        send.flush().await?;
    }
    Ok(())
}

// Sends what is wanted, and returns how much that was.
async fn fill<C: Connection>(
    peer: &Peer<C>,
    test: &mut Test<'_, C>,
    wanted: pb::FillerWanted,
    send: &mut FrameSend<C::Send>,
) -> Result<u64, StreamEnd> {
    let within = Duration::from_millis(wanted.within_ms).min(TEST_TIME_MAX);
    let until = Instant::now() + within;
    let mut sent = 0;
    while sent < wanted.bytes && Instant::now() < until {
        let bytes = (wanted.bytes - sent).min(FILLERS_AT_ONCE * FILLER_BYTES as u64);
        test.take(peer, bytes)?;
        let mut left = usize::try_from(bytes).unwrap_or(FILLER_BYTES);
        while left > 0 {
            let payload = Bytes::from_static(&FILLER[..left.min(FILLER_BYTES)]);
            left -= payload.len();
            push(send, Answer::Filler(pb::Filler { payload }));
        }
        send.flush().await?;
        sent += bytes;
    }
    Ok(sent)
}

impl<C: Connection> Test<'_, C> {
    fn ready(&self) -> pb::MeasureReady {
        pb::MeasureReady {
            publish_credit_bytes: self.publish_credit.bytes as u64,
            publish_credit_batches: self.publish_credit.batches,
        }
    }

    // So many bytes of payload go one way or the other.
    fn take(&mut self, peer: &Peer<C>, bytes: u64) -> Result<(), StreamEnd> {
        match self.bytes_left.checked_sub(bytes.max(COMMAND_BYTES)) {
            Some(left) => {
                self.bytes_left = left;
                peer.stats().link_test_carried(bytes);
                self.place.is_busy(Instant::now());
                Ok(())
            }
            None => Err(StreamEnd::Refused(overloaded(format!(
                "a test takes {TEST_BYTES_MAX} bytes at most, both ways together"
            )))),
        }
    }
}

fn opened(result: measure_opened::Result) -> pb::MeasureOpened {
    pb::MeasureOpened {
        result: Some(result),
    }
}

fn push<S: SendHalf>(send: &mut FrameSend<S>, answer: Answer) {
    send.push(&pb::MeasureAnswer {
        answer: Some(answer),
    });
}
