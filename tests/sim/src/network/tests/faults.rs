//! Ways to fail, each with what both ends see of it.

use tidegate_client::ConnectError;
use tidegate_wire::stream::{ConnectionEnd, Traffic};

use super::*;

const NEAR: LinkShape = LinkShape {
    delay: ms(5),
    ..LinkShape::NONE
};

fn peer(code: u32, reason: &str) -> ConnectionEnd {
    ConnectionEnd::Peer {
        code,
        reason: reason.to_owned(),
    }
}

/// When and how a connection ends, from now on.
async fn end(connection: &SimConnection, begun: Instant) -> (Duration, ConnectionEnd) {
    let end = connection.closed().await;
    (begun.elapsed(), end)
}

/// Both ends of the connection, how and when, after something was done.
fn ends_after(
    shape: LinkShape,
    done: impl FnOnce(&Ends) + Send + 'static,
) -> [(u64, ConnectionEnd); 2] {
    run(1, shape, |ends| async move {
        let begun = Instant::now();
        done(&ends);
        let (client, broker) =
            tokio::join!(biased; end(&ends.client, begun), end(&ends.broker, begun));
        [client, broker].map(|(after, end)| (after.as_millis() as u64, end))
    })
}

#[test]
fn both_ends_see_what_happened_to_the_connection() {
    let timed_out = |after| (after, ConnectionEnd::TimedOut);
    let cut = ends_after(NEAR, |ends| ends.network.cut("client"));
    assert_eq!(cut, [timed_out(0), timed_out(0)]);
    let closed = ends_after(NEAR, |ends| ends.network.close("client"));
    assert_eq!(closed, [(5, peer(0, "")), (0, ConnectionEnd::Here)]);
    let closed = ends_after(NEAR, |ends| ends.client.close(3, "enough"));
    assert_eq!(closed, [(0, ConnectionEnd::Here), (5, peer(3, "enough"))]);
    let died = ends_after(NEAR, |ends| ends.network.die("client"));
    assert_eq!(died, [timed_out(0), timed_out(30_000)]);
    let crashed = ends_after(NEAR, |ends| ends.network.crash(1));
    assert_eq!(crashed, [timed_out(30_000), timed_out(0)]);
    let silent = ends_after(NEAR, |ends| {
        ends.network.outage("client", None, ms(100_000));
    });
    assert_eq!(silent, [timed_out(30_000), timed_out(30_000)]);
    let half_open = ends_after(NEAR, |ends| {
        let up = Some(Direction::Up);
        ends.network.outage("client", up, ms(100_000));
    });
    assert_eq!(half_open, [timed_out(60_000), timed_out(30_000)]);
}

#[test]
fn a_broker_that_came_back_says_that_it_knows_nothing_of_a_connection() {
    let [(after, client), broker] = ends_after(NEAR, |ends| {
        ends.network.crash(1);
        std::mem::forget(ends.network.listen(1));
    });
    assert_eq!(client, ConnectionEnd::Failed("reset by peer".to_owned()));
    assert!((11..1_012).contains(&after), "{after}");
    assert_eq!(broker, (0, ConnectionEnd::TimedOut));
}

#[test]
fn what_is_sent_after_the_cut_never_arrives() {
    let lost_after = |seed, limit: u64| {
        run(seed, FAR, move |ends| async move {
            let (mut up, mut down) = ends.upward().await;
            ends.network.cut_after("client", Direction::Up, limit);
            let sending = send(&mut up, bytes(10_000));
            let (sent, (_, read, ended)) = tokio::join!(biased; sending, receive_all(&mut down));
            assert_eq!(ended, Err(ReceiveError::Lost(ConnectionEnd::TimedOut)));
            let lost = Err(SendError::Lost(ConnectionEnd::TimedOut));
            assert!(sent == Ok(()) || sent == lost, "{sent:?}");
            assert_eq!(read[..], bytes(10_000)[..read.len()]);
            read.len() as u64
        })
    };
    for limit in [0, 1, 1_000, 5_000, 9_999] {
        let read: Vec<u64> = (0..20).map(|seed| lost_after(seed, limit)).collect();
        assert!(read.iter().all(|read| *read <= limit), "{read:?}");
        // In most runs there was time to read it.
        assert!(read.contains(&limit), "{read:?}");
    }
}

#[test]
fn a_next_connection_is_cut_too() {
    run(1, NEAR, |ends| async move {
        ends.network.cut("client");
        ends.network.cut_after("client", Direction::Down, 2);
        let answered = Answered::default();
        let dialled = ends.connector.dial(&1, &answered, false);
        let (client, incoming) = tokio::join!(biased; dialled, ends.listener.accept());
        let client = client.unwrap_or_else(|error| panic!("{error}"));
        let (mut down, _) = incoming.connection.open().await.expect("alive");
        let (_, mut read) = client.accept().await.expect("alive");
        send(&mut down, bytes(10)).await.expect("it does not know");
        let (_, read, ended) = receive_all(&mut read).await;
        assert!(read.len() <= 2 && ended.is_err());
        assert_eq!(client.end(), Some(ConnectionEnd::TimedOut));
    });
}

#[test]
fn after_an_outage_everything_arrives_in_order() {
    for direction in [None, Some(Direction::Up), Some(Direction::Down)] {
        for healed in [None, Some(3_000)] {
            run(1, FAR, move |ends| async move {
                let (mut up, mut down) = ends.upward().await;
                send(&mut up, bytes(1_000)).await.expect("room");
                sleep(ms(1)).await;
                let begun = Instant::now();
                ends.network.outage("client", direction, ms(20_000));
                send(&mut up, bytes(9_000)).await.expect("room");
                up.finish();
                let heal = async {
                    if let Some(after) = healed {
                        sleep(ms(after)).await;
                        ends.network.heal();
                    }
                };
                let ((), drained, (_, read, ended)) =
                    tokio::join!(biased; heal, up.drained(), receive_all(&mut down));
                assert_eq!((drained, ended), (Ok(()), Ok(())));
                assert_eq!(read[..1_000], bytes(1_000)[..]);
                assert_eq!(read[1_000..], bytes(9_000)[..]);
                let over = healed.unwrap_or(20_000);
                let took = begun.elapsed();
                assert!((ms(over)..ms(over + 200)).contains(&took), "{took:?}");
            });
        }
    }
}

#[test]
fn an_outage_is_heard_by_nobody_and_what_timed_out_does_not_come_back() {
    run(1, NEAR, |ends| async move {
        let heard = |ends: &Ends| [ends.client.traffic().heard, ends.broker.traffic().heard];
        let (mut up, _down) = ends.upward().await;
        sleep(ms(1_000)).await;
        let before = heard(&ends);
        ends.network.outage("client", None, ms(25_000));
        send(&mut up, bytes(10)).await.expect("room");
        let asked = ends.client.traffic().asked;
        sleep(ms(24_900)).await;
        assert_eq!(heard(&ends), before);
        assert!(
            ends.client.traffic().asked > asked,
            "it lets itself be heard"
        );
        sleep(ms(200)).await;
        let after = heard(&ends);
        assert!(after[0] > before[0] && after[1] > before[1]);

        let Traffic { heard: down, .. } = ends.client.traffic();
        let direction = Some(Direction::Up);
        ends.network.outage("client", direction, ms(100_000));
        sleep(ms(12_000)).await;
        assert_eq!(ends.broker.traffic().heard, after[1]);
        assert!(ends.client.traffic().heard > down, "the broker goes on");
        sleep(ms(18_000)).await;
        assert_eq!(ends.broker.end(), Some(ConnectionEnd::TimedOut));
        ends.network.heal();
        assert_eq!(ends.broker.end(), Some(ConnectionEnd::TimedOut));
        assert_eq!(ends.client.end(), None);
        ends.client.closed().await;
    });
}

#[test]
fn what_was_said_in_an_outage_is_heard_when_that_ends_too_soon_to_time_out() {
    let closed = ends_after(NEAR, |ends| {
        ends.network.outage("client", None, ms(100_000));
        ends.network.close("client");
        ends.network.heal();
    });
    assert_eq!(closed, [(5, peer(0, "")), (0, ConnectionEnd::Here)]);
}

#[test]
fn a_slow_link_takes_longer_until_it_is_healed() {
    run(1, NEAR, |ends| async move {
        let (mut up, mut down) = ends.upward().await;
        let mut took = Vec::new();
        for step in 0..3 {
            match step {
                1 => ends.network.slow("client", 10),
                2 => ends.network.heal(),
                _ => {}
            }
            let begun = Instant::now();
            send(&mut up, bytes(1)).await.expect("room");
            down.receive(&mut BytesMut::new()).await.expect("alive");
            took.push(begun.elapsed());
        }
        assert_eq!(took, [ms(5), ms(50), ms(5)]);
    });
}

#[test]
fn attempts_are_turned_away_or_wait_for_whoever_listens() {
    run(1, NEAR, |ends| async move {
        // All of them live here, who listens too.
        let ends = ends;
        ends.network.refuse("client", 1);
        let answered = Answered::default();
        let refused = ends.connector.dial(&1, &answered, false).await;
        assert!(matches!(
            refused,
            Err(ConnectError::Lost(ConnectionEnd::Busy))
        ));
        ends.network.crash(1);
        let begun = Instant::now();
        let back = async {
            sleep(ms(4_000)).await;
            ends.network.listen(1)
        };
        let dialled = ends.connector.dial(&1, &answered, false);
        let (dialled, listener) = tokio::join!(biased; dialled, back);
        assert!(dialled.is_ok());
        let incoming = listener.accept().await;
        assert_eq!(begun.elapsed(), ms(4_015));
        assert_eq!(
            (&*incoming.client, &*incoming.principal),
            ("client", "alice")
        );

        let begun = Instant::now();
        ends.network.outage("client", None, ms(2_000));
        let dialled = ends.connector.dial(&1, &answered, false).await;
        assert!(dialled.is_ok());
        assert_eq!(begun.elapsed(), ms(2_010));
        let never = tokio::time::timeout(ms(100_000), ends.connector.dial(&2, &answered, false));
        assert!(never.await.is_err(), "nobody listens there");
    });
}
