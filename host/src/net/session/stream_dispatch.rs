//! The streams of a session: what each turns out to be, by its first message, and what is said and logged when it ends. What a
//! stream of each kind does in between is in [`publish`], [`subscribe`]
//! and [`measure`].

use std::sync::Arc;

use tidegate_wire::pb::{self, publish_opened, stream_open};
use tidegate_wire::stream::{Connection, SendHalf};
use tracing::Span;

use super::error_codes::{StreamEnd, late};
use super::frames::{FrameRecv, FrameSend};
use super::peer::Peer;
use super::{measure, publish, subscribe};
use crate::runtime::patience::Patience;

/// Serves one stream, or refuses it outright, and brings its last words to the client.
pub(super) async fn serve<C: Connection>(
    peer: Arc<Peer<C>>,
    send: C::Send,
    recv: C::Receive,
    refusal: Option<pb::Error>,
) -> Result<(), StreamEnd> {
    let (mut send, mut recv) = peer.frames((send, recv));
    let (span, ended) = match refusal {
        Some(error) => {
            let end = refuse_open(&mut send, StreamEnd::Refused(error));
            (peer.stream_span("stream"), Err(end))
        }
        None => dispatch(&peer, &mut recv, &mut send).await,
    };
    if let Some(error) = ended.as_ref().err().and_then(StreamEnd::error) {
        peer.log_refusal(&span, error);
    }
    // Said before the last words are waited for, so that a client stops sending at once.
    drop(recv);
    if ended != Err(StreamEnd::Lost) {
        send.finish().await;
    }
    ended
}

async fn dispatch<C: Connection>(
    peer: &Peer<C>,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> (Span, Result<(), StreamEnd>) {
    let of = |kind: &'static str| peer.stream_span(kind);
    let deadline = peer.service.options.handshake_timeout;
    let open = match Patience::new(deadline)
        .wait(recv.next::<pb::StreamOpen>())
        .await
    {
        Ok(Ok(Some(open))) => open,
        // Opened and given up again.
        Ok(Ok(None)) => return (of("stream"), Ok(())),
        Ok(Err(end)) => return (of("stream"), Err(refuse_open(send, end))),
        Err(_) => {
            let error = late("first message of the stream", deadline);
            return (
                of("stream"),
                Err(refuse_open(send, StreamEnd::Refused(error))),
            );
        }
    };
    recv.set_frame_bytes_max(peer.service.options.limits.frame_bytes_max);
    match open.kind {
        Some(stream_open::Kind::Publish(open)) => {
            let span = of("publish");
            let ended = Box::pin(publish::serve(peer, &span, &open, recv, send)).await;
            (span, ended)
        }
        Some(stream_open::Kind::Subscribe(open)) => {
            let span = of("subscribe");
            let ended = Box::pin(subscribe::serve(peer, &span, &open, recv, send)).await;
            (span, ended)
        }
        Some(stream_open::Kind::Measure(open)) => {
            let span = of("measure");
            let ended = Box::pin(measure::serve(peer, open, recv, send)).await;
            (span, ended)
        }
        Some(stream_open::Kind::Hello(_)) => {
            let end = StreamEnd::malformed("a connection has one hello only");
            (of("hello"), Err(refuse_open(send, end)))
        }
        None => {
            let end = StreamEnd::malformed("the stream is of a kind this version does not know");
            (of("stream"), Err(refuse_open(send, end)))
        }
    }
}

// The first answer on a stream whose kind is not known: an error is field 2 of every kind's answer.
fn refuse_open<S: SendHalf>(send: &mut FrameSend<S>, end: StreamEnd) -> StreamEnd {
    if let Some(error) = end.error() {
        let result = Some(publish_opened::Result::Error(error.clone()));
        send.push(&pb::PublishOpened { result });
    }
    end
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tidegate_wire::pb::{ErrorCode, hello_reply};

    use super::*;

    #[test]
    fn a_refusal_reads_the_same_whatever_the_stream_was_to_be() {
        let error = pb::Error::new(ErrorCode::Malformed, "m");
        let publish = pb::PublishOpened {
            result: Some(publish_opened::Result::Error(error.clone())),
        };
        let subscribe = pb::SubscribeOpened {
            result: Some(pb::subscribe_opened::Result::Error(error.clone())),
        };
        let measure = pb::MeasureOpened {
            result: Some(pb::measure_opened::Result::Error(error.clone())),
        };
        let hello = pb::HelloReply {
            result: Some(hello_reply::Result::Error(error)),
        };
        assert_eq!(publish.encode_to_vec(), subscribe.encode_to_vec());
        assert_eq!(publish.encode_to_vec(), measure.encode_to_vec());
        assert_eq!(publish.encode_to_vec(), hello.encode_to_vec());
    }
}
