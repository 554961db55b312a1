//! Handles the events of a subscription, until Ctrl-C.
//!
//! Start a broker with `tidegate serve` and make a subscription:
//! `tidegate subscription create billing --topic 'orders.>'`, then:
//! `cargo run -p tidegate-examples --bin subscribe -- billing tidegate-data/pki`

use std::time::Duration;

use anyhow::Context;
use tidegate_client::{Client, ClientOptions, ConsumerOptions, Delivery};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let subscription = args.next().unwrap_or_else(|| "billing".to_owned());
    let pki = args
        .next()
        .unwrap_or_else(|| "tidegate-data/pki".to_owned());
    let read = |name: &str| {
        std::fs::read(format!("{pki}/{name}")).with_context(|| format!("{pki}/{name}"))
    };
    let options = ClientOptions::new("127.0.0.1:4433")
        .server_name("localhost")
        .roots_pem(&read("ca.pem")?)?
        .identity_pem(&read("client.pem")?, &read("client.key")?)?;
    let client = Client::connect(options).await?;

    // The consumer reconnects by itself; what was not acked then comes again.
    let mut consumer = client
        .subscribe(&subscription, ConsumerOptions::default())
        .await?;
    // One future for the whole loop: a new one each time would miss what comes while an event is handled.
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery.context("the subscription ended")??,
            result = &mut interrupt => {
                result?;
                break;
            }
        };
        match handle(&delivery) {
            Ok(()) => delivery.ack(),
            // It may go better in a second; after enough attempts the broker gives up by itself.
            Err(_) if delivery.attempt < 3 => delivery.nack(Some(Duration::from_secs(1))),
            // Nobody will ever be able to handle this one: to the dead-letter topic, with the reason.
            Err(error) => delivery.term(&format!("{error:#}")),
        }
    }
    // Acks are sent in the background; this waits until they are on the broker's disk.
    consumer.flush_acks().await?;
    client.close().await;
    Ok(())
}

fn handle(delivery: &Delivery) -> anyhow::Result<()> {
    let text = std::str::from_utf8(&delivery.event().payload).context("not text")?;
    println!("{} #{}: {text}", delivery.topic, delivery.sequence);
    Ok(())
}
