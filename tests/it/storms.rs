//! Many clients at once: they lose their broker together, and come back to the one that is started after it.

use futures_util::{StreamExt, TryStreamExt, stream};
use tidegate_client::{Client, Event, PublisherOptions};
use tidegate_tests::{BrokerProcess, wait_for};

/// As many as a test may have sockets.
const CLIENTS: usize = 200;

#[tokio::test]
async fn clients_that_lose_their_broker_at_once_all_come_back() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let clients: Vec<Client> = stream::iter((0..CLIENTS).map(|_| broker.client()))
        .buffer_unordered(16)
        .try_collect()
        .await?;
    broker.kill()?;
    broker.restart().await?;
    // Each waits for its connection, so that all of them are made.
    let publish = |(number, client): (usize, &Client)| {
        let client = client.clone();
        async move {
            let publisher = client.publisher(PublisherOptions::default()).await?;
            let event = Event::new(format!("{number}"));
            publisher.send("storm", event).await?.await?;
            anyhow::Ok(publisher)
        }
    };
    let published = stream::iter(clients.iter().enumerate().map(publish));
    let publishers: Vec<_> = published.buffer_unordered(CLIENTS).try_collect().await?;
    assert_eq!(publishers.len(), CLIENTS);
    let admin = broker.admin();
    assert_eq!(
        admin.topic("storm").await?.next_sequence.0,
        CLIENTS as u64 + 1
    );
    wait_for("nobody to have a second connection", async || {
        let open = admin.metric("tidegate_connections_open").await?;
        Ok((open == CLIENTS as f64).then_some(()))
    })
    .await?;
    let begun = admin.metric("tidegate_handshakes_begun_total").await?;
    assert!(begun >= CLIENTS as f64, "{begun}");
    assert_eq!(admin.metric("tidegate_handshakes_waiting").await?, 0.0);
    Ok(())
}
