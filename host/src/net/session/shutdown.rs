//! The shutdown of a session, as its client sees it: a goodbye on the hello stream, no further deliveries but time to ack what is
//! in hand, and a deadline for everything else that is under way. That there is a shutdown is decided elsewhere, and publish streams
//! end by themselves.

use std::time::Duration;

use tidegate_wire::pb;
use tidegate_wire::stream::Connection;
use tokio::time::{Instant, timeout};

use super::error_codes::{StreamEnd, shutting_down};
use super::frames::FrameSend;
use super::peer::Peer;

/// Time for a goodbye to fit the stream's window, as so little does unless the client never reads; then it is not told.
const GOODBYE: Duration = Duration::from_millis(100);
/// How often it is looked whether a consumer has acked everything.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// When the connection is closed whatever is still under way, for a shutdown that begins now.
pub(super) fn deadline<C: Connection>(peer: &Peer<C>) -> Instant {
    Instant::now() + peer.service.options.shutdown_grace
}

/// Tells the client, on its hello stream, that the broker stops and how long it has, also for answers of its consumers.
pub(super) async fn say_goodbye<C: Connection>(peer: &Peer<C>, hello: &mut FrameSend<C::Send>) {
    let options = &peer.service.options;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    hello.push(&pb::GoAway {
        reason: "the broker is shutting down".to_owned(),
        grace_ms: millis(options.shutdown_grace),
        acks_ms: Some(millis(options.shutdown_acks())),
    });
    let _ = timeout(GOODBYE, hello.flush()).await;
}

/// Waits for the shutdown, and then the moment that a consumer gets to ack what it has in hand, or until it has nothing; what it is
/// told afterwards.
pub(super) async fn drain_acks<C: Connection>(
    peer: &Peer<C>,
    holds_nothing: impl Fn() -> bool,
) -> StreamEnd {
    peer.service.shutdown.cancelled().await;
    let acked = async {
        loop {
            // Once more at least, so that what was heard just now is answered.
            tokio::time::sleep(LOOK_EVERY).await;
            if holds_nothing() {
                return;
            }
        }
    };
    let _ = timeout(peer.service.options.shutdown_acks(), acked).await;
    StreamEnd::Refused(shutting_down())
}
