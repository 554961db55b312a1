//! The in-memory pair keeps what the traits promise, and nothing that nobody holds.

#[path = "../contract.rs"]
mod contract;

use futures_util::FutureExt;

use super::*;
use crate::stream;

type Made = MemoryConnection;

fn pair(
    stream_bytes_max: usize,
    streams_waiting_max: usize,
) -> (MemoryConnection, MemoryConnection) {
    super::pair(MemoryOptions {
        stream_bytes_max,
        streams_waiting_max,
        ..MemoryOptions::default()
    })
}

fn one_more(here: &MemoryConnection, there: &MemoryConnection) -> (Stream, Stream) {
    let opened = here.open().now_or_never().expect("room for one");
    let accepted = there.accept().now_or_never().expect("one was opened");
    (opened.expect("alive"), accepted.expect("alive"))
}

#[test]
fn a_cut_says_nothing_to_either_side() {
    let (here, there) = pair(10, 1);
    here.cut();
    for end in [here, there] {
        assert_eq!(end.end(), Some(ConnectionEnd::TimedOut));
    }
}

#[test]
fn what_nobody_holds_is_forgotten() {
    let (here, there) = pair(10, 100);
    let ends = one_more(&here, &there);
    let pipes = || here.handle.shared.change(|state, _| state.pipes.len());
    assert_eq!(pipes(), 2);
    let (((send, read_back), theirs), _more) = (ends, one_more(&here, &there));
    drop((send, read_back));
    assert_eq!(pipes(), 4);
    drop(theirs);
    assert_eq!(pipes(), 2);
}
