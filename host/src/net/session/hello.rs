//! The hello: the first stream of a session, on which client and broker agree on a version and on how large frames may be, and which
//! stays open for the broker's goodbye. Who the client is was settled before.

use tidegate_wire::PROTOCOL_VERSION;
use tidegate_wire::compact::Compression;
use tidegate_wire::limits::FRAME_BYTES_MAX;
use tidegate_wire::pb::{self, ErrorCode, hello_reply, stream_open};
use tidegate_wire::stream::Connection;

use super::error_codes::{StreamEnd, close, invalid, late};
use super::frames::{FrameRecv, FrameSend};
use super::peer::Peer;
use crate::runtime::patience::Patience;

/// Smallest frame a client may limit the broker to; below this not even refusals would fit reliably.
const PEER_FRAME_BYTES_MIN: usize = 4 * 1024;

/// The hello stream, which stays open as long as the connection.
pub(super) struct HelloStream<C: Connection> {
    pub(super) recv: FrameRecv<C::Receive>,
    pub(super) send: FrameSend<C::Send>,
}

/// Why a connection is over with its hello.
#[derive(Debug, PartialEq)]
pub(super) enum NoSession {
    /// The client was refused, and told so. It may have closed the connection since.
    Refused,
    /// The client was gone before it was answered.
    Gone,
}

/// Waits for the client's hello and answers it.
///
/// # Errors
///
/// When the connection is over because of it.
pub(super) async fn exchange<C: Connection>(
    peer: &mut Peer<C>,
    connection: &C,
) -> Result<HelloStream<C>, NoSession> {
    let within = peer.service.options.handshake_timeout;
    let mut patience = Patience::new(within);
    let Ok(accepted) = patience.wait(connection.accept()).await else {
        let error = late("hello", within);
        peer.log_hello_refusal(&error);
        close(connection, &error);
        return Err(NoSession::Refused);
    };
    let accepted = accepted.map_err(|_| NoSession::Gone)?;
    let (send, recv) = peer.frames(accepted);
    let mut hello = HelloStream::<C> { recv, send };
    let read = patience.wait(hello.recv.next::<pb::StreamOpen>()).await;
    let agreed = read
        .map_err(|_| StreamEnd::Refused(late("hello", within)))
        .and_then(|open| agree(open?));
    match agreed {
        Ok(agreed) => {
            peer.frame_bytes_max = agreed.frame_bytes_max;
            let welcome = hello_reply::Result::Welcome(welcome(peer));
            hello.send.push(&reply(welcome));
            let told = hello.send.flush().await;
            told.map_err(|_| NoSession::Gone)?;
            peer.log_open(&agreed.client);
            Ok(hello)
        }
        Err(end) => {
            let error = end.error().ok_or(NoSession::Gone)?;
            peer.log_hello_refusal(error);
            let refused = hello_reply::Result::Error(error.clone());
            hello.send.push(&reply(refused));
            hello.send.finish().await;
            close(connection, error);
            Err(NoSession::Refused)
        }
    }
}

fn reply(result: hello_reply::Result) -> pb::HelloReply {
    pb::HelloReply {
        result: Some(result),
    }
}

fn welcome<C: Connection>(peer: &Peer<C>) -> pb::Welcome {
    pb::Welcome {
        version: PROTOCOL_VERSION,
        broker: concat!("tidegate/", env!("CARGO_PKG_VERSION")).to_owned(),
        principal: peer.principal.to_string(),
        limits: Some((&peer.service.options.limits).into()),
        takes_measure: true,
        takes_compact: peer.compression != Compression::Off,
    }
}

/// What a hello leads to.
#[derive(Debug, PartialEq)]
struct Agreed {
    client: String,
    frame_bytes_max: usize,
}

fn agree(open: Option<pb::StreamOpen>) -> Result<Agreed, StreamEnd> {
    let Some(stream_open::Kind::Hello(hello)) = open.and_then(|open| open.kind) else {
        return Err(StreamEnd::malformed(
            "the first message of a connection must be a hello",
        ));
    };
    if !hello.versions.contains(&PROTOCOL_VERSION) {
        let message = format!(
            "none of the offered versions {:?} is known; this broker speaks version {PROTOCOL_VERSION}",
            &hello.versions[..hello.versions.len().min(8)],
        );
        return Err(StreamEnd::Refused(pb::Error::new(
            ErrorCode::UnsupportedVersion,
            message,
        )));
    }
    let frame_bytes_max = match usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX) {
        0 => FRAME_BYTES_MAX,
        bytes if bytes < PEER_FRAME_BYTES_MIN => {
            let message =
                format!("frame_bytes_max is {bytes}; accept at least {PEER_FRAME_BYTES_MIN}");
            return Err(StreamEnd::Refused(invalid(message)));
        }
        bytes => bytes,
    };
    Ok(Agreed {
        client: hello.client,
        frame_bytes_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_agreed_on_or_refused() {
        let check = |versions: &[u32], frame_bytes_max: u64, expected: Result<usize, ErrorCode>| {
            let hello = pb::Hello {
                versions: versions.to_vec(),
                client: "c".into(),
                frame_bytes_max,
            };
            let open = pb::StreamOpen {
                kind: Some(stream_open::Kind::Hello(hello)),
            };
            let found = agree(Some(open)).map(|agreed| agreed.frame_bytes_max);
            assert_eq!(
                found.map_err(|end| end.error().expect("told").code()),
                expected
            );
        };
        check(&[1], 0, Ok(FRAME_BYTES_MAX));
        check(&[9, 1], 5_000, Ok(5_000));
        check(&[2, 3], 0, Err(ErrorCode::UnsupportedVersion));
        check(&[], 0, Err(ErrorCode::UnsupportedVersion));
        check(&[1], 100, Err(ErrorCode::InvalidArgument));
        assert!(matches!(agree(None), Err(StreamEnd::Violation(_))));
        assert!(matches!(
            agree(Some(pb::StreamOpen { kind: None })),
            Err(StreamEnd::Violation(_))
        ));
    }
}
