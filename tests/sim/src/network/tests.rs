//! Simulated connections keep what the traits promise; what is sent arrives when the link's shape and seed say; and each way to fail is
//! what it says.

#[path = "../../../../sdk/wire/src/stream/contract.rs"]
mod contract;
mod faults;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidegate_client::{Answered, Connector};
use tidegate_wire::stream::{self, Connection, ReceiveError, ReceiveHalf, SendError, SendHalf};
use tokio::time::{Instant, sleep};

use super::{Direction, LinkShape, SimConnection, SimNetwork, SimReceive, SimSend};
use crate::scheduler::{self, Manner, Options};

type Made = SimConnection;

fn pair(stream_bytes_max: usize, streams_waiting_max: usize) -> (Made, Made) {
    let shape = LinkShape {
        stream_bytes_max,
        streams_waiting_max,
        ..LinkShape::NONE
    };
    let (here, there, _) = super::connection::pair(shape, 1, None);
    (here, there)
}

/// A way of some length, which tears what is sent into pieces and lets streams overtake each other.
const FAR: LinkShape = LinkShape {
    delay: ms(20),
    jitter: ms(10),
    bytes_per_ms: 1000,
    piece_bytes_max: 1200,
    stream_bytes_max: 16 * 1024,
    ..LinkShape::NONE
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a run on a network comes to, in which a client has a link of this shape to address 1.
fn run<T: Send + 'static, F>(
    seed: u64,
    shape: LinkShape,
    main: impl FnOnce(Ends) -> F + Send + 'static,
) -> T
where
    F: Future<Output = T> + 'static,
{
    let options = Options {
        manner: Manner::PLAIN,
        ..Options::of(seed)
    };
    let begin = move || async move {
        let network = SimNetwork::new(seed);
        let listener = network.listen(1);
        let connector = network.connector("client", "alice", shape, &[1]);
        let (client, incoming) = {
            let answered = Answered::default();
            let dialled = connector.dial(&1, &answered, false);
            tokio::join!(biased; dialled, listener.accept())
        };
        let client = client.unwrap_or_else(|error| panic!("{error}"));
        main(Ends {
            network,
            listener,
            connector,
            client,
            broker: incoming.connection,
        })
        .await
    };
    scheduler::run(options, begin).expect()
}

struct Ends {
    network: SimNetwork,
    listener: super::SimListener,
    connector: super::SimConnector,
    client: SimConnection,
    broker: SimConnection,
}

impl Ends {
    /// A stream of the client's: its sending half, and the broker's receiving one.
    async fn upward(&self) -> (SimSend, SimReceive) {
        let (send, read_back) = self.client.open().await.expect("alive");
        let (send_back, receive) = self.broker.accept().await.expect("alive");
        // Nobody sends there.
        std::mem::forget((read_back, send_back));
        (send, receive)
    }
}

async fn send(send: &mut SimSend, bytes: Bytes) -> Result<(), SendError> {
    let mut queue = VecDeque::from([bytes]);
    while !queue.is_empty() {
        send.send(&mut queue).await?;
    }
    Ok(())
}

/// All bytes up to the end of the stream, or how it ended otherwise, and when each piece came.
async fn receive_all(
    receive: &mut SimReceive,
) -> (Vec<(Duration, usize)>, BytesMut, Result<(), ReceiveError>) {
    let (mut pieces, mut bytes, begun) = (Vec::new(), BytesMut::new(), Instant::now());
    loop {
        match receive.receive(&mut bytes).await {
            Ok(0) => return (pieces, bytes, Ok(())),
            Ok(read) => pieces.push((begun.elapsed(), read)),
            Err(error) => return (pieces, bytes, Err(error)),
        }
    }
}

fn bytes(count: usize) -> Bytes {
    (0..count)
        .map(|n| (n % 251) as u8)
        .collect::<Vec<_>>()
        .into()
}

/// Two streams at once over a link: when what came on each.
fn two_streams(seed: u64) -> Vec<Vec<(Duration, usize)>> {
    run(seed, FAR, |ends| async move {
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let (mut up, mut down) = ends.upward().await;
            let sending = crate::simulation::start("sends", async move {
                send(&mut up, bytes(50_000)).await.expect("alive");
                up.finish();
                up.drained().await.expect("alive");
            });
            let reading = crate::simulation::start("reads", async move {
                let (pieces, read, ended) = receive_all(&mut down).await;
                assert_eq!((read.freeze(), ended), (bytes(50_000), Ok(())));
                pieces
            });
            tasks.push((sending, reading));
        }
        let mut came = Vec::new();
        for (sending, reading) in tasks {
            sending.await;
            came.push(reading.await);
        }
        came
    })
}

#[test]
fn a_seed_gives_the_same_bytes_at_the_same_times() {
    let first: Vec<_> = (0..10).map(two_streams).collect();
    let again: Vec<_> = (0..10).map(two_streams).collect();
    assert_eq!(first, again);
    assert!(first.windows(2).all(|two| two[0] != two[1]));
}

#[test]
fn what_is_sent_takes_the_time_of_its_way() {
    let shape = LinkShape {
        delay: ms(20),
        bytes_per_ms: 100,
        ..LinkShape::NONE
    };
    let came = run(1, shape, |ends| async move {
        let (mut up, mut down) = ends.upward().await;
        let begun = Instant::now();
        // 10 ms on the line, and 20 on the way.
        send(&mut up, bytes(1000)).await.expect("room");
        assert_eq!(begun.elapsed(), ms(0), "it goes by itself");
        let mut buffer = BytesMut::new();
        assert_eq!(down.receive(&mut buffer).await, Ok(1000));
        let took = begun.elapsed();
        up.finish();
        let (drained, ended) = tokio::join!(biased; up.drained(), down.receive(&mut buffer));
        assert_eq!((drained, ended), (Ok(()), Ok(0)));
        // It read at 30, the end is there at 51, and that is heard.
        assert_eq!(begun.elapsed(), ms(72));
        (took, ends.client.round_trip())
    });
    assert_eq!(came, (ms(30), ms(40)));
}

#[test]
fn one_stream_overtakes_another_and_never_itself() {
    let jitter = LinkShape {
        delay: ms(1),
        jitter: ms(50),
        ..LinkShape::NONE
    };
    // Which of two pieces on two streams came first.
    let first = |seed| {
        run(seed, jitter, |ends| async move {
            let (mut one, mut one_read) = ends.upward().await;
            let (mut other, mut other_read) = ends.upward().await;
            send(&mut one, bytes(1)).await.expect("room");
            send(&mut other, bytes(1)).await.expect("room");
            let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
            tokio::select! {
                biased;
                _ = one_read.receive(&mut a) => 1,
                _ = other_read.receive(&mut b) => 2,
            }
        })
    };
    let firsts: Vec<i32> = (0..20).map(first).collect();
    assert!(firsts.contains(&1) && firsts.contains(&2), "{firsts:?}");
}

#[test]
fn a_sender_waits_until_it_hears_that_something_was_read() {
    let shape = LinkShape {
        delay: ms(10),
        stream_bytes_max: 100,
        ..LinkShape::NONE
    };
    run(1, shape, |ends| async move {
        let (mut up, mut down) = ends.upward().await;
        send(&mut up, bytes(100)).await.expect("room");
        let begun = Instant::now();
        let reading = async {
            sleep(ms(500)).await;
            down.receive(&mut BytesMut::new()).await
        };
        let (more, read) = tokio::join!(biased; send(&mut up, bytes(1)), reading);
        assert_eq!((more, read), (Ok(()), Ok(100)));
        assert_eq!(begun.elapsed(), ms(510));
    });
}
