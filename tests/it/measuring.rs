//! What a client and its broker say of the connection between them, over real sockets.

use tidegate_tests::{BrokerProcess, within};

use crate::support::publish;

#[tokio::test]
async fn both_ends_report_what_they_counted() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let mut meter = within("a meter", async { Ok(client.meter().await?) }).await?;
    let first = within("a report", async { Ok(meter.report().await?) }).await?;
    let here = first.here.peer_address.map(|address| address.to_string());
    assert_eq!(here.as_deref(), Some(broker.quic_addr()));
    let there = first.broker.peer_address.expect("the broker sees a socket");
    assert!(there.ip().is_loopback(), "{there}");
    publish(&client, "in", 1..=200).await?;
    let second = within("a report", async { Ok(meter.report().await?) }).await?;
    let since = second.since(&first);
    // Acks go with what is sent, so the number of datagrams says little; the bytes say that they carried the events.
    for (sent, received) in [
        (since.here.bytes_sent, since.broker.bytes_received),
        (since.broker.bytes_sent, since.here.bytes_received),
    ] {
        assert!(sent > 200 && received > 200, "{since:?}");
    }
    for end in [&second.here, &second.broker] {
        assert!(end.mtu >= 1_200, "{end:?}");
        assert!(end.datagrams_sent > 0 && end.datagrams_received > 0);
        assert!(end.packets_sent >= end.datagrams_sent, "{end:?}");
        assert!(end.congestion_window_bytes > 0, "{end:?}");
        assert!(!end.round_trip.is_zero(), "{end:?}");
        // What `auto` has chosen, which takes a busy machine's loopback for a long path at times.
        let chosen = ["cubic", "a model of the path"];
        assert!(chosen.contains(&&*end.congestion), "{end:?}");
    }
    let metrics = broker.admin().metrics().await?;
    assert!(
        metrics.contains("tidegate_measure_streams_open 1"),
        "{metrics}"
    );
    Ok(())
}
