//! Publishes orders and prints where each one landed.
//!
//! Start a broker with `tidegate serve`, then:
//! `cargo run -p tidegate-examples --bin publish -- tidegate-data/pki`

use anyhow::Context;
use tidegate_client::{Client, ClientOptions, Event, PublisherOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let pki = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "tidegate-data/pki".to_owned());
    let read = |name: &str| {
        std::fs::read(format!("{pki}/{name}")).with_context(|| format!("{pki}/{name}"))
    };
    let options = ClientOptions::new("127.0.0.1:4433")
        .server_name("localhost")
        .roots_pem(&read("ca.pem")?)?
        .identity_pem(&read("client.pem")?, &read("client.key")?)?;
    let client = Client::connect(options).await?;
    let publisher = client.publisher(PublisherOptions::default()).await?;

    // `send` returns as soon as the event is queued, so that many are on their way together; each ticket then
    // says that its event is on disk.
    let mut tickets = Vec::new();
    for number in 1..=10 {
        let order = Event::json(format!(
            r#"{{"order": {number}, "amount": {}}}"#,
            number * 25
        ))
        .with_key(format!("customer-{}", number % 3))
        .with_header("ce-type", "org.example.order.created");
        tickets.push(publisher.send("orders.eu.created", order).await?);
    }
    for ticket in tickets {
        let published = ticket.await?;
        println!("durable as sequence {}", published.sequence);
        if published.unkept {
            println!("  but nobody subscribes to it, so nobody will see it");
        }
    }
    client.close().await;
    Ok(())
}
