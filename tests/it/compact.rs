//! What named topics and packed events save, counted by both ends of a connection over real sockets; and that who does not read such
//! streams, or does not want them, gets none.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tidegate_client::{
    Client, Compression, Consumer, Event, LinkReport, Meter, Publisher, PublisherOptions,
};
use tidegate_tests::{BrokerProcess, RawClient, Setup, within};
use tidegate_wire::pb::{self, broker_to_consumer};

use crate::overtaking::Path;
use crate::support::{consume, publish_events};

const TOPIC: &str = "plants.north.line-7.readings";

/// As a sensor says it, 256 bytes and a few.
fn reading(number: u64) -> Event {
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Event::json(format!(
        r#"{{"device":"press-{}","site":"plant-north","line":7,"sequence":{number},"temperature_c":{}.{:03},"pressure_kpa":{},"vibration_mm_s":{}.{:02},"state":"running","trace":"{:08x}","unit":"metric","firmware":"4.11.2","operator":"shift-b","quality":"good"}}"#,
        noise % 5,
        noise % 90,
        (noise >> 20) % 1_000,
        (noise >> 30) % 977,
        (noise >> 40) % 13,
        (noise >> 44) % 100,
        noise >> 32,
    ))
}

fn compressing(how: Compression) -> Setup {
    Setup {
        listen: format!("quic_compression = \"{how}\""),
        ..Setup::default()
    }
}

/// A broker and a client that compress alike, and what they count.
struct Link {
    broker: BrokerProcess,
    _client: Client,
    publisher: Publisher,
    consumer: Consumer,
    meter: Meter,
}

impl Link {
    async fn start(compression: Compression) -> anyhow::Result<Self> {
        let broker = BrokerProcess::start_with(compressing(compression)).await?;
        let subscription = json!({"name": "s", "topics": [TOPIC]});
        broker.admin().create(subscription).await?;
        let options = broker.client_options(Some(broker.everybody()))?;
        let client = Client::connect(options.compression(compression));
        let client = within("a connection", async { Ok(client.await?) }).await?;
        let publisher = client.publisher(PublisherOptions::default());
        let publisher = within("a publisher", async { Ok(publisher.await?) }).await?;
        let consumer = consume(&client, "s").await?;
        let meter = within("a meter", async { Ok(client.meter().await?) }).await?;
        let mut link = Self {
            broker,
            _client: client,
            publisher,
            consumer,
            meter,
        };
        // Until the largest datagram is found, what looks for it is most of what is sent.
        within("datagrams of 6,000 bytes both ways", async {
            for number in 1_000_000.. {
                link.carry(number..=number).await?;
                let report = link.report().await?;
                if report.here.mtu > 6_000 && report.broker.mtu > 6_000 {
                    break;
                }
            }
            Ok(())
        })
        .await?;
        Ok(link)
    }

    async fn report(&mut self) -> anyhow::Result<LinkReport> {
        within("a report", async { Ok(self.meter.report().await?) }).await
    }

    /// Publishes these readings at once, and takes them as they come.
    async fn carry(&mut self, numbers: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
        let mut tickets = Vec::new();
        for number in numbers.clone() {
            tickets.push(self.publisher.send(TOPIC, reading(number)).await?);
        }
        for number in numbers {
            let delivery = within("a delivery", async {
                let delivery = self.consumer.next().await.context("the end")?;
                Ok(delivery?)
            })
            .await?;
            ensure!(delivery.event().payload == reading(number).payload);
            delivery.ack();
        }
        for ticket in tickets {
            within("an answer", async { Ok(ticket.await?) }).await?;
        }
        Ok(())
    }

    /// Bytes of datagrams, up and down, for `rounds` times `many` readings.
    async fn bytes(&mut self, rounds: u64, many: u64) -> anyhow::Result<(f64, f64)> {
        let before = self.report().await?;
        for round in 0..rounds {
            let first = 1 + round * many;
            self.carry(first..=first + many - 1).await?;
        }
        let since = self.report().await?.since(&before);
        Ok((since.here.bytes_sent as f64, since.broker.bytes_sent as f64))
    }
}

#[tokio::test]
async fn packed_events_take_less_of_the_wire_both_ways() -> anyhow::Result<()> {
    let mut off = Link::start(Compression::Off).await?;
    let mut always = Link::start(Compression::Always).await?;
    for (rounds, many, share_max) in [(150, 1, 0.7), (3, 1_000, 0.4)] {
        let (up, down) = off.bytes(rounds, many).await?;
        let (packed_up, packed_down) = always.bytes(rounds, many).await?;
        let shares = (packed_up / up, packed_down / down);
        assert!(
            shares.0 < share_max && shares.1 < share_max,
            "{rounds} × {many}: {shares:?} of {up} and {down} bytes"
        );
    }
    let admin = always.broker.admin();
    for way in ["received", "sent"] {
        let counted = |what: &str| format!("tidegate_{what}_{way}_bytes_total");
        let packed = admin.metric(&counted("packed")).await?;
        let unpacked = admin.metric(&counted("unpacked")).await?;
        assert!(
            packed > 0.0 && packed < 0.6 * unpacked,
            "{way}: {packed} of {unpacked}"
        );
    }
    let metric = off.broker.admin();
    assert_eq!(
        metric
            .metric("tidegate_packed_received_bytes_total")
            .await?,
        0.0
    );
    assert_eq!(
        metric.metric("tidegate_packed_sent_bytes_total").await?,
        0.0
    );
    Ok(())
}

#[tokio::test]
async fn both_ends_find_out_by_themselves_that_a_path_is_long() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let subscription = json!({"name": "s", "topics": [TOPIC]});
    broker.admin().create(subscription).await?;
    let path = Path::to(broker.quic_addr(), Duration::ZERO).await?;
    let options = broker.client_options_at(&path.address, Some(broker.everybody()))?;
    let client = within("a connection", async {
        Ok(Client::connect(options).await?)
    })
    .await?;
    let mut consumer = consume(&client, "s").await?;
    let admin = broker.admin();
    within("events that are packed both ways", async {
        for number in 0.. {
            publish_events(&client, TOPIC, (0..4).map(|n| reading(4 * number + n))).await?;
            let delivery = consumer.next().await.context("the end")?;
            delivery?.ack();
            let sent = admin.metric("tidegate_packed_sent_bytes_total").await?;
            let received = admin.metric("tidegate_packed_received_bytes_total").await?;
            if sent > 0.0 && received > 0.0 {
                break;
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn clients_that_do_not_read_it_get_deliveries_as_they_always_were() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(compressing(Compression::Always)).await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": [TOPIC]}))
        .await?;
    let (raw, welcome) = RawClient::hello(&broker).await?;
    assert!(welcome.takes_compact);
    let opened = raw.subscribe_stream("s", 1_000, 1 << 20).await?;
    let (mut stream, _) = opened.expect("attached");
    let client = broker.client().await?;
    publish_events(&client, TOPIC, (1..=10).map(reading)).await?;
    let mut came = 0;
    while came < 10 {
        let message: pb::BrokerToConsumer = stream.receive().await?;
        let Some(broker_to_consumer::Message::Deliver(deliver)) = message.message else {
            continue;
        };
        assert_eq!((deliver.topic.as_str(), deliver.topic_number), (TOPIC, 0));
        assert!(deliver.packed.is_empty() && !deliver.remember);
        came += deliver.events.len();
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_to_compress_nothing_asks_for_nothing_compressed() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(compressing(Compression::Off)).await?;
    let (_raw, welcome) = RawClient::hello(&broker).await?;
    assert!(!welcome.takes_compact);
    Ok(())
}
