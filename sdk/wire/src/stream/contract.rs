//! What holds of every transport, as tests. Whoever has one includes this file in its tests, in a module beside `stream`, this crate's,
//! and `pair`, which makes the two ends, each a `Made`, of a new connection on which nothing is delayed: its streams hold so many bytes in
//! each direction, and so many may be opened and not accepted.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;

use super::stream::{Connection, ConnectionEnd, ReceiveError, ReceiveHalf, SendError, SendHalf};
use super::{Made, pair};

type Stream = (<Made as Connection>::Send, <Made as Connection>::Receive);
type Ends = (Stream, Stream);

/// A stream of a new connection whose buffers hold so much; the opener's end first.
fn stream(stream_bytes_max: usize) -> (Made, Made, Ends) {
    let (here, there) = pair(stream_bytes_max, 100);
    let ends = one_more(&here, &there);
    (here, there, ends)
}

fn one_more(here: &Made, there: &Made) -> Ends {
    let opened = here.open().now_or_never().expect("room for one");
    let accepted = there.accept().now_or_never().expect("one was opened");
    (opened.expect("alive"), accepted.expect("alive"))
}

fn queue(chunks: &[&'static str]) -> VecDeque<Bytes> {
    chunks.iter().map(|chunk| Bytes::from(*chunk)).collect()
}

/// What can be sent without waiting, and what then happens to the queue.
#[track_caller]
fn check_send(
    send: &mut impl SendHalf,
    chunks: &[&'static str],
    expected: Option<Result<usize, SendError>>,
    left: &[&'static str],
) {
    let mut chunks = queue(chunks);
    assert_eq!(send.send(&mut chunks).now_or_never(), expected);
    assert_eq!(chunks, queue(left));
}

/// What can be received without waiting.
fn receive(receive: &mut impl ReceiveHalf) -> Option<Result<String, ReceiveError>> {
    let mut buffer = BytesMut::from("<");
    let received = receive.receive(&mut buffer).now_or_never()?;
    Some(received.map(|bytes| {
        assert_eq!(buffer.len(), bytes + 1);
        String::from_utf8(buffer[1..].to_vec()).expect("the tests send text")
    }))
}

fn text(text: &str) -> Option<Result<String, ReceiveError>> {
    Some(Ok(text.to_owned()))
}

#[tokio::test]
async fn everything_arrives_in_order_through_any_buffer() {
    for stream_bytes_max in [1, 7, 1000, 1 << 20] {
        let (_here, _there, ((mut send, _), (_, mut receive))) = stream(stream_bytes_max);
        let chunks: Vec<Bytes> = (0..50u8)
            .map(|n| Bytes::from(vec![n; usize::from(n) * 3]))
            .collect();
        let expected = chunks.concat();
        let writing = async {
            let mut chunks = VecDeque::from(chunks);
            let mut sent = 0;
            while !chunks.is_empty() {
                sent += send.send(&mut chunks).await.expect("alive");
            }
            send.finish();
            send.drained().await.expect("alive");
            sent
        };
        let reading = async {
            let mut received = BytesMut::new();
            while receive.receive(&mut received).await.expect("alive") > 0 {}
            received
        };
        let (sent, received) = tokio::join!(writing, reading);
        assert_eq!(sent, expected.len());
        assert_eq!(received, expected);
    }
}

#[test]
fn a_sender_waits_for_its_reader_and_nobody_else_does() {
    let (here, there, ((mut send, _), (_, mut read))) = stream(4);
    check_send(&mut send, &["", "abc", "", "defg"], Some(Ok(4)), &["efg"]);
    check_send(&mut send, &["efg"], None, &["efg"]);
    let ((mut other, _), (_, mut other_read)) = one_more(&here, &there);
    check_send(&mut other, &["xyz"], Some(Ok(3)), &[]);
    assert_eq!(receive(&mut other_read), text("xyz"));
    assert_eq!(receive(&mut read), text("abcd"));
    check_send(&mut send, &["efg"], Some(Ok(3)), &[]);
    check_send(&mut send, &[""], Some(Ok(0)), &[]);
    assert_eq!(receive(&mut read), text("efg"));
    assert_eq!(receive(&mut read), None);
}

#[test]
fn the_end_is_seen_for_good() {
    let (here, _there, ((mut send, _), (_, mut read))) = stream(10);
    check_send(&mut send, &["ab"], Some(Ok(2)), &[]);
    send.finish();
    check_send(&mut send, &["c"], Some(Err(SendError::Ended)), &["c"]);
    assert_eq!(receive(&mut read), text("ab"));
    assert_eq!(send.drained().now_or_never(), None, "the end was not seen");
    assert_eq!(receive(&mut read), text(""));
    assert_eq!(send.drained().now_or_never(), Some(Ok(())));
    send.reset(3);
    here.close(0, "");
    assert_eq!(receive(&mut read), text(""));
    assert_eq!(send.drained().now_or_never(), Some(Ok(())));
}

#[test]
fn a_reset_takes_back_what_was_not_read() {
    for finish in [false, true] {
        let (_here, _there, ((mut send, _), (_, mut read))) = stream(10);
        check_send(&mut send, &["ab"], Some(Ok(2)), &[]);
        if finish {
            send.finish();
        }
        send.reset(3);
        send.reset(4);
        let reset = Some(Err(ReceiveError::Reset(3)));
        assert_eq!(
            (receive(&mut read), receive(&mut read)),
            (reset.clone(), reset)
        );
        check_send(&mut send, &["c"], Some(Err(SendError::Ended)), &["c"]);
        assert_eq!(send.drained().now_or_never(), Some(Err(SendError::Ended)));
    }
}

#[test]
fn who_reads_no_more_says_so() {
    let (_here, _there, ((mut send, _), (_, mut read))) = stream(2);
    check_send(&mut send, &["abc"], Some(Ok(2)), &["c"]);
    read.stop(5);
    read.stop(6);
    check_send(&mut send, &["c"], Some(Err(SendError::Stopped(5))), &["c"]);
    assert_eq!(
        send.drained().now_or_never(),
        Some(Err(SendError::Stopped(5)))
    );
    assert_eq!(receive(&mut read), Some(Err(ReceiveError::Stopped)));
}

#[test]
fn dropped_halves_end_their_directions() {
    let (_here, _there, ((mut send, read_back), (send_back, mut read))) = stream(10);
    drop(send_back);
    check_send(&mut send, &["ab"], Some(Ok(2)), &[]);
    let mut read_back = read_back;
    assert_eq!(receive(&mut read_back), text(""));
    drop(send);
    assert_eq!(receive(&mut read), text("ab"));
    assert_eq!(receive(&mut read), text(""));

    let (_here, _there, ((mut send, _read_back), (_send_back, read))) = stream(10);
    drop(read);
    check_send(
        &mut send,
        &["ab"],
        Some(Err(SendError::Stopped(0))),
        &["ab"],
    );
}

#[tokio::test]
async fn a_close_ends_everything_at_once() {
    let (here, there, ((mut send, mut read_back), (_send_back, mut read))) = stream(2);
    check_send(&mut send, &["abc"], Some(Ok(2)), &["c"]);
    let ended = ConnectionEnd::Peer {
        code: 9,
        reason: "enough".to_owned(),
    };
    let (mut full, mut buffer) = (queue(&["c"]), BytesMut::new());
    let (sent, received, accepted, closed, ()) = tokio::join!(
        send.send(&mut full),
        read_back.receive(&mut buffer),
        here.accept(),
        here.closed(),
        async { there.close(9, "enough") },
    );
    assert_eq!(sent, Err(SendError::Lost(ended.clone())));
    assert_eq!(received, Err(ReceiveError::Lost(ended.clone())));
    assert_eq!(
        (accepted.err(), closed),
        (Some(ended.clone()), ended.clone())
    );
    here.close(1, "too late");
    assert_eq!(
        (here.end(), there.end()),
        (Some(ended), Some(ConnectionEnd::Here))
    );
    let lost = ReceiveError::Lost(ConnectionEnd::Here);
    assert_eq!(
        receive(&mut read),
        Some(Err(lost)),
        "nothing unread is kept"
    );
    assert_eq!(there.open().await.err(), Some(ConnectionEnd::Here));
}

#[test]
fn the_last_handle_closes_the_connection() {
    let (here, there, (ours, _theirs)) = stream(10);
    let again = here.clone();
    drop((here, again));
    assert_eq!(there.end(), None, "a stream keeps it");
    drop(ours);
    let silent = ConnectionEnd::Peer {
        code: 0,
        reason: String::new(),
    };
    assert_eq!(there.end(), Some(silent));
}

#[test]
fn streams_are_accepted_in_order_and_not_without_bound() {
    let (here, there) = pair(64 * 1024, 2);
    let open = || {
        here.open()
            .now_or_never()
            .map(|opened| opened.expect("alive"))
    };
    let (mut first, mut second) = (open().expect("room"), open().expect("room"));
    assert!(open().is_none());
    check_send(&mut second.0, &["second"], Some(Ok(6)), &[]);
    check_send(&mut first.0, &["first"], Some(Ok(5)), &[]);
    for expected in ["first", "second"] {
        let accepted = there.accept().now_or_never().expect("opened");
        assert_eq!(receive(&mut accepted.expect("alive").1), text(expected));
    }
    assert!(there.accept().now_or_never().is_none());
    assert!(open().is_some());
}

#[tokio::test]
async fn a_window_holds_all_streams_back_together() {
    let (here, there, ((mut send, _), (_, mut read))) = stream(10);
    let ((mut other, _), (_, mut other_read)) = one_more(&here, &there);
    there.set_receive_window(5);
    check_send(&mut send, &["abc"], Some(Ok(3)), &[]);
    check_send(&mut other, &["xyz"], Some(Ok(2)), &["z"]);
    check_send(&mut send, &["d"], None, &["d"]);
    let (mut rest, mut more) = (queue(&["z"]), queue(&["defg"]));
    let (sent, ()) = tokio::join!(other.send(&mut rest), async {
        assert_eq!(receive(&mut read), text("abc"));
    });
    assert_eq!(sent, Ok(1));
    there.set_receive_window(3);
    let (sent, ()) = tokio::join!(send.send(&mut more), async {
        there.set_receive_window(6);
    });
    assert_eq!(sent, Ok(3));
    // What is thrown away fills no window.
    other_read.stop(0);
    check_send(&mut send, &["gh"], Some(Ok(2)), &[]);
}
