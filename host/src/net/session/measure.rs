//! A measure stream: on it a client learns how the connection fares that it comes over. What the broker has counted of it is the
//! connection's business; nothing here is about topics or events.

use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, measure_opened};
use tidegate_wire::stream::Connection;

use super::error_codes::{StreamEnd, from_denied};
use super::frames::{FrameRecv, FrameSend};
use super::peer::Peer;
use crate::auth::authorize;

/// Serves the stream until the client finishes it. One command is answered before the next is read, so nothing piles up.
pub(super) async fn serve<C: Connection>(
    peer: &Peer<C>,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> Result<(), StreamEnd> {
    let _counted = peer.stats().measure_stream();
    if let Err(denied) = authorize::measure(peer.policy(), &peer.principal) {
        let error = from_denied(&denied);
        send.push(&opened(measure_opened::Result::Error(error.clone())));
        return Err(StreamEnd::Refused(error));
    }
    send.push(&opened(measure_opened::Result::Ready(pb::MeasureReady {})));
    send.flush().await?;
    while let Some(command) = recv.next::<pb::MeasureCommand>().await? {
        let answer = match command.command {
            Some(Command::Counters(_)) => Answer::Counters((&peer.counters()).into()),
            None => {
                let end = StreamEnd::malformed("a command that this version does not know");
                push(
                    send,
                    Answer::Error(end.error().cloned().unwrap_or_default()),
                );
                return Err(end);
            }
        };
        push(send, answer);
        send.flush().await?;
    }
    Ok(())
}

fn opened(result: measure_opened::Result) -> pb::MeasureOpened {
    pb::MeasureOpened {
        result: Some(result),
    }
}

fn push<S: tidegate_wire::stream::SendHalf>(send: &mut FrameSend<S>, answer: Answer) {
    send.push(&pb::MeasureAnswer {
        answer: Some(answer),
    });
}
