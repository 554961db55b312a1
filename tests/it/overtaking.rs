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
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::measuring::output;
use crate::support::{consume, next, number_of, publish_events, take_numbers};

/// How long a datagram takes, and how much longer every other one.
const DELAY: Duration = Duration::from_millis(15);
const LATE: Duration = Duration::from_millis(15);
const DATAGRAM_BYTES_MAX: usize = 65_527;

/// How much later than others each copy of a datagram comes, by its number: none when it is lost.
type Copies = Arc<dyn Fn(u64) -> Vec<Duration> + Send + Sync>;

/// A way to a broker on which datagrams take a while, in both directions.
pub(crate) struct Path {
    pub(crate) address: String,
    /// Connections made over it: each has a socket of its own.
    connections: Arc<AtomicUsize>,
    carrying: JoinHandle<()>,
}

impl Path {
    /// It, with so much more for every other datagram.
    pub(crate) async fn to(broker: &str, late: Duration) -> anyhow::Result<Self> {
        let late = move |number: u64| match number.is_multiple_of(2) {
            true => vec![late],
            false => vec![Duration::ZERO],
        };
        Self::with(broker, Arc::new(late)).await
    }

    async fn with(broker: &str, copies: Copies) -> anyhow::Result<Self> {
        let broker: SocketAddr = broker.parse()?;
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let address = front.local_addr()?.to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let carrying = tokio::spawn(async move {
            let mut behind: HashMap<SocketAddr, Way> = HashMap::new();
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while let Ok((length, client)) = front.recv_from(&mut buffer).await {
                let way = match behind.entry(client) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
                        socket.connect(broker).await.expect("an address");
                        let socket = Arc::new(socket);
                        let back = Way::new(Arc::clone(&front), client, Arc::clone(&copies));
                        tokio::spawn(carry_back(Arc::clone(&socket), back));
                        count.fetch_add(1, Ordering::Relaxed);
                        new.insert(Way::new(socket, broker, Arc::clone(&copies)))
                    }
                };
                way.carry(&buffer[..length]);
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

async fn carry_back(behind: Arc<UdpSocket>, mut way: Way) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while let Ok(length) = behind.recv(&mut buffer).await {
        way.carry(&buffer[..length]);
    }
}

/// One direction between two addresses.
struct Way {
    from: Arc<UdpSocket>,
    to: SocketAddr,
    copies: Copies,
    number: u64,
    /// Those that come in order.
    line: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
}

impl Way {
    fn new(from: Arc<UdpSocket>, to: SocketAddr, copies: Copies) -> Self {
        let (line, mut waiting) = mpsc::unbounded_channel();
        let socket = Arc::clone(&from);
        tokio::spawn(async move {
            while let Some((at, datagram)) = waiting.recv().await {
                deliver(&socket, to, at, datagram).await;
            }
        });
        Self {
            from,
            to,
            copies,
            number: 0,
            line,
        }
    }

    fn carry(&mut self, datagram: &[u8]) {
        self.number += 1;
        for late in (self.copies)(self.number) {
            let (at, datagram) = (Instant::now() + DELAY + late, datagram.to_vec());
            if late.is_zero() {
                self.line.send((at, datagram)).expect("it is carried on");
                continue;
            }
            let (socket, to) = (Arc::clone(&self.from), self.to);
            tokio::spawn(async move { deliver(&socket, to, at, datagram).await });
        }
    }
}

async fn deliver(socket: &UdpSocket, to: SocketAddr, at: Instant, datagram: Vec<u8>) {
    tokio::time::sleep_until(at).await;
    // What cannot be sent is lost, as on any path.
    let _ = match socket.peer_addr() {
        Ok(_) => socket.send(&datagram).await,
        Err(_) => socket.send_to(&datagram, to).await,
    };
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
    check_moving(false).await
}

#[tokio::test]
async fn what_a_publisher_sends_again_when_it_moves_to_such_a_connection_is_there_once()
-> anyhow::Result<()> {
    check_moving(true).await
}

async fn check_moving(idempotent: bool) -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let all = json!({"name": "all", "topics": ["t"]});
    broker.admin().create(all).await?;
    let path = Path::to(broker.quic_addr(), LATE).await?;
    let client = connect(&broker, &path).await?;
    // One whose events have no numbers would double what is sent again.
    let options = PublisherOptions {
        idempotent,
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
    within("another connection", async {
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
        Ok(())
    })
    .await?;
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

#[tokio::test]
async fn what_a_network_doubles_does_not_make_late_packets_of_lost_ones() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let all = json!({"name": "all", "topics": ["t"]});
    broker.admin().create(all).await?;
    // Of a hundred datagrams 7 are lost and 20 come twice, and none overtakes another.
    let copies = |number: u64| match number.wrapping_mul(61) % 100 {
        0..7 => vec![],
        7..27 => vec![Duration::ZERO; 2],
        _ => vec![Duration::ZERO],
    };
    let path = Path::with(broker.quic_addr(), Arc::new(copies)).await?;
    let client = connect(&broker, &path).await?;
    let mut meter = within("a meter", async { Ok(client.meter().await?) }).await?;
    let before = within("a report", async { Ok(meter.report().await?) }).await?;
    publish_events(&client, "t", (0..6_000).map(large)).await?;
    let report = within("a report", async { Ok(meter.report().await?) }).await?;
    let (report, up) = (report.since(&before), report.since(&before).up());
    assert!(up.sent > 500, "{report:?}");
    assert!(report.broker.datagrams_received > up.sent, "{report:?}");
    // How many are late depends on the machine as well.
    assert!(up.lost_part() > 0.0, "{up:?}: {report:?}");
    assert_eq!(path.connections(), 1, "{up:?}: {report:?}");
    Ok(())
}
