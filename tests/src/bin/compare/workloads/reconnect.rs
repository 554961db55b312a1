//! Many clients that lose their broker at once: it is killed and started again, at once and after a while, and all of them come back.
//! Beside it stands how long the same handshakes take one after the other, on a broker that does nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_client::Client;

use super::{Bench, Table};
use crate::broker::{Kind, Places};
use crate::report::{Sample, Unit, figure};
use crate::tidegate::Tidegate;

/// How many clients there are.
const CLIENTS: [usize; 3] = [100, 1_000, 5_000];
/// Handshakes at a time that keep a machine busy, and keep none of them waiting.
const IN_QUIET: usize = 8;
/// How long a broker is away: not at all, and until every client has noticed and is trying.
const AWAY: [Duration; 2] = [Duration::ZERO, Duration::from_secs(15)];
/// Who is not back by then has starved.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked who is back.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Files that a process needs beside one socket for each client.
const OTHER_FILES: u64 = 1_000;
/// All clients are one principal.
const CONFIG: &str = "[limits]\nprincipal_connections_max = 10_000\n";

impl Bench {
    pub(super) async fn reconnect(&mut self) {
        let mut table = Table::new("reconnect", "clients that lose their broker at once");
        let range = self.args.scale_min as usize..=self.args.scale_max as usize;
        let counts = CLIENTS.into_iter().filter(|count| range.contains(count));
        let kinds = self.kinds.iter().copied();
        let kinds: Vec<Kind> = kinds.filter(|kind| kind.is_tidegate()).collect();
        let mut rows = Vec::new();
        for count in counts {
            for away in AWAY {
                let first = rows.len();
                for kind in &kinds {
                    table.row(format!("{count}, away for {} s, {kind}", away.as_secs()));
                    rows.push((*kind, count, away));
                }
                if let Some(base) = Kind::base(&kinds) {
                    table.compare(first..rows.len(), first + base);
                }
            }
        }
        let places = self.places.clone();
        self.take_turns(table, rows.len(), async |row| {
            let (kind, count, away) = rows[row];
            storm(kind, &places, count, away).await
        })
        .await;
    }
}

async fn storm(
    kind: Kind,
    places: &Places,
    count: usize,
    away: Duration,
) -> anyhow::Result<Sample> {
    allow_files(count)?;
    let mut broker = Tidegate::start_build(kind, places, CONFIG).await?;
    let begun = Instant::now();
    let clients: Vec<Client> = stream::iter((0..count).map(|_| broker.client()))
        .buffer_unordered(IN_QUIET)
        .try_collect()
        .await
        .context("connecting in quiet")?;
    let quiet = begun.elapsed();

    broker.kill()?;
    tokio::time::sleep(away).await;
    let begun = Instant::now();
    broker.restart().await?;
    let serving = begun.elapsed();
    let back = come_back(&broker, &clients, begun).await?;
    let made = broker.admin().metric("tidegate_connections_total").await?;
    let failed = broker
        .admin()
        .metric("tidegate_handshake_failures_total")
        .await?;
    let resident = broker.resident_bytes_max()?;
    for client in &clients {
        ensure!(client.address().is_some(), "a client has lost it again");
    }

    let (median, slowest) = (back[count / 2], back[count - 1]);
    let milliseconds = |name, time: Duration| {
        let value = time.as_secs_f64() * 1e3;
        figure(name, Unit::Milliseconds, value)
    };
    let handshakes = slowest.saturating_sub(serving.min(slowest));
    Ok(vec![
        figure(
            "back ÷ quiet",
            Unit::Fraction,
            handshakes.as_secs_f64() / quiet.as_secs_f64(),
        ),
        figure(
            "slowest ÷ median",
            Unit::Fraction,
            slowest.as_secs_f64() / median.as_secs_f64(),
        ),
        milliseconds("in quiet ms", quiet),
        milliseconds("start ms", serving),
        milliseconds("median ms", median),
        milliseconds("slowest ms", slowest),
        figure("connections made", Unit::Count, made),
        figure("handshakes in vain", Unit::Count, failed),
        figure("peak RSS MiB", Unit::Mebibytes, resident as f64),
    ])
}

// When each was back. The broker is asked, which has begun to count anew: a client may have lost its connection and have another before
// anybody looks.
async fn come_back(
    broker: &Tidegate,
    clients: &[Client],
    begun: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let admin = broker.admin();
    let mut back = Vec::with_capacity(clients.len());
    while back.len() < clients.len() {
        let trouble = clients.iter().find_map(Client::trouble);
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} of {} clients are back after {PATIENCE:?}; what one of the others says: {trouble:?}",
            back.len(),
            clients.len(),
        );
        tokio::time::sleep(LOOK_EVERY).await;
        let open = admin.metric("tidegate_connections_open").await? as usize;
        ensure!(
            open <= clients.len(),
            "{open} connections are open for {} clients",
            clients.len()
        );
        if open > back.len() {
            back.resize(open, begun.elapsed());
        }
    }
    Ok(back)
}

// One socket for each client, and another while it comes back.
fn allow_files(clients: usize) -> anyhow::Result<()> {
    let wanted = 2 * clients as u64 + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        maximum.is_none_or(|maximum| maximum >= wanted),
        "{clients} clients take {wanted} open files; raise the limit (`ulimit -n`), or leave them out with --scale-max"
    );
    let limit = Rlimit {
        current: Some(wanted),
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
