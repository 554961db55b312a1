//! A path on which packets overtake each other: most of them count as lost there although all of them come. A client finds out, and
//! makes a connection on which both ends wait for them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tidegate_client::{Client, Event, PublisherOptions};
use tidegate_tests::{BrokerProcess, within};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::measuring::output;
use crate::support::{consume, next, number_of, publish_events, take_numbers};

/// How long a datagram takes, and how much longer every other one.
const DELAY: Duration = Duration::from_millis(15);
const LATE: Duration = Duration::from_millis(15);
const DATAGRAM_BYTES_MAX: usize = 65_527;

/// A way to a broker on which datagrams take a while, and every other one longer, in both directions.
pub(crate) struct Path {
    pub(crate) address: String,
    /// Connections made over it: each has a socket of its own.
    connections: Arc<AtomicUsize>,
    carrying: JoinHandle<()>,
}

impl Path {
    /// It, with so much more for every other datagram.
    pub(crate) async fn to(broker: &str, late: Duration) -> anyhow::Result<Self> {
        let broker: SocketAddr = broker.parse()?;
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let address = front.local_addr()?.to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let carrying = tokio::spawn(async move {
            let mut behind: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            let mut number = 0_u64;
            while let Ok((length, client)) = front.recv_from(&mut buffer).await {
                let socket = match behind.entry(client) {
                    Entry::Occupied(known) => Arc::clone(known.get()),
                    Entry::Vacant(new) => {
                        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
                        socket.connect(broker).await.expect("an address");
                        let socket = Arc::clone(new.insert(Arc::new(socket)));
                        let back =
                            carry_back(Arc::clone(&socket), Arc::clone(&front), client, late);
                        tokio::spawn(back);
                        count.fetch_add(1, Ordering::Relaxed);
                        socket
                    }
                };
                let datagram = buffer[..length].to_vec();
                number += 1;
                later(number, late, async move { socket.send(&datagram).await });
            }
        });
        Ok(Self {
            address,
            connections,
            carrying,
        })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

async fn carry_back(
    behind: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    late: Duration,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut number = 0_u64;
    while let Ok(length) = behind.recv(&mut buffer).await {
        let (front, datagram) = (Arc::clone(&front), buffer[..length].to_vec());
        number += 1;
        later(number, late, async move {
            front.send_to(&datagram, client).await
        });
    }
}

// Sends the datagram of this number, every other one `late`.
fn later(
    number: u64,
    late: Duration,
    send: impl Future<Output = std::io::Result<usize>> + Send + 'static,
) {
    let late = if number.is_multiple_of(2) {
        late
    } else {
        Duration::ZERO
    };
    tokio::spawn(async move {
        tokio::time::sleep(DELAY + late).await;
        // What cannot be sent is lost, as on any path.
        let _ = send.await;
    });
}

// A datagram is mostly one of them.
fn large(number: u64) -> Event {
    let padding = " ".repeat(1_000);
    Event::json(format!(r#"{{"n":{number}}}{padding}"#))
}

async fn connect(broker: &BrokerProcess, path: &Path) -> anyhow::Result<Client> {
    let options = broker.client_options_at(&path.address, Some(broker.everybody()))?;
    within("a connection", async {
        Ok(Client::connect(options).await?)
    })
    .await
}

#[tokio::test]
async fn where_packets_overtake_each_other_a_client_connects_anew_and_waits_for_late_ones()
-> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let all = json!({"name": "all", "topics": ["t"]});
    broker.admin().create(all).await?;
    let path = Path::to(broker.quic_addr(), LATE).await?;
    let client = connect(&broker, &path).await?;
    // It would double what is sent again.
    let options = PublisherOptions {
        idempotent: false,
        ..PublisherOptions::default()
    };
    let publisher = client.publisher(options).await?;
    let mut published = 0;
    let mut left = 500;
    let mut tickets = Vec::new();
    // Without a pause, so that much is under way when there is another connection.
    within("another connection", async {
        while left > 0 {
            left -= u32::from(path.connections() > 1);
            tickets.push(publisher.send("t", large(published)).await?);
            published += 1;
        }
        Ok(())
    })
    .await?;
    for ticket in tickets {
        within("an answer", async { Ok(ticket.await?) }).await?;
    }
    assert_eq!(path.connections(), 2, "once is enough");
    let mut consumer = consume(&broker.client().await?, "all").await?;
    let again = take_numbers(&mut consumer, 0..published).await?;
    assert_eq!(again, 0);
    let topic = broker.admin().topic("t").await?;
    assert_eq!(topic.next_sequence.0, published + 1, "each is there once");
    Ok(())
}

#[tokio::test]
async fn no_ack_is_lost_when_a_consumer_moves_to_such_a_connection() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let all = json!({"name": "all", "topics": ["t"]});
    broker.admin().create(all).await?;
    let path = Path::to(broker.quic_addr(), LATE).await?;
    let mut consumer = consume(&connect(&broker, &path).await?, "all").await?;
    let near = broker.client().await?;
    let (mut published, mut left) = (0, 20);
    let mut taken = BTreeSet::new();
    while left > 0 {
        left -= u32::from(path.connections() > 1);
        publish_events(&near, "t", (published..published + 100).map(large)).await?;
        published += 100;
        // Some are always under way.
        while taken.len() as u64 + 50 < published {
            let delivery = next(&mut consumer).await?;
            delivery.ack();
            assert!(taken.insert(number_of(&delivery)?), "it was acked before");
            assert_eq!(delivery.attempt, 1);
        }
    }
    let rest = (0..published).filter(|number| !taken.contains(number));
    assert_eq!(take_numbers(&mut consumer, rest).await?, 0);
    assert_eq!(path.connections(), 2);
    let subscription = broker.admin().subscription("all").await?;
    assert_eq!(subscription.depth, 0, "all acks are applied");
    Ok(())
}

#[tokio::test]
async fn a_test_of_such_a_link_is_not_cut_off_by_what_it_finds() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let path = Path::to(broker.quic_addr(), LATE).await?;
    let test = ["link-test", &path.address, "--time", "2s", "-o", "json"];
    let tested = output(broker.command_line(&test)?).await?;
    let told = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{told}");
    let found: serde_json::Value = serde_json::from_slice(&tested.stdout)?;
    assert!(found["up"]["late_percent"].is_number(), "{found}");
    Ok(())
}
