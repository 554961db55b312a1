//! Builds the parts of a broker, joins them, and takes them down in order: first what lets clients in, then
//! what works for them, last the journal. Nothing else knows all the parts; nothing here does their work.

mod banner;
mod certificate_watch;
mod certificates;
mod data_directory;
mod options_from_config;
mod reload;
mod system_limits;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Listeners};
use crate::auth::Policy;
use crate::broker::{Broker, RecoveredStore};
use crate::config::{Config, ContextFolder, Endpoints};
use crate::disk::RealFileSystem;
use crate::net::{self, NetHandle};
use crate::plugin::{Plugins, bundled};
use crate::runtime::executor;
use crate::runtime::unwaited::unwaited_for;
use crate::runtime::{Clock, Random, Spawner};
use crate::store::{self, StoreOptions};
use crate::telemetry::{Metrics, log_output};

use self::certificates::Certificates;
use self::data_directory::{close_to_others, create_durably, reset_key};
use self::options_from_config::{
    Shared, admin_options, broker_options, net_options, plugin_options, store_options, usize_of,
};

pub use reload::Reload;

/// Time for files that a start reads and that may be of a network: certificates, contexts.
const FILES_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for what the broker's own tasks still write at shutdown, after the network has drained.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Runs a broker until `shutdown` is cancelled, then stops it in order. With `reload` it reads its policy again when asked.
///
/// # Errors
///
/// Something cannot be opened, bound or understood; the error says which and what to do.
///
/// # Cancel safety
///
/// Dropping the future is like the end of the process: nothing acknowledged is lost, clients see the
/// connection break.
pub async fn run(
    config: Config,
    reload: Option<Reload>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let clock = Clock::start();
    // First, since opening the store may take a while.
    let (of_config, now) = (config.clone(), clock.now());
    let named = unwaited_for(FILES_TIMEOUT, "certificates", move || {
        Certificates::named_and_checked(&of_config, now)
    });
    let named = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        named = named => named.map_err(|why| anyhow::anyhow!("cannot read the files of [tls]: {why}"))??,
    };
    let open_files = system_limits::raise_open_files();
    let data_dir = config.data_dir.as_path();
    create_durably(data_dir)
        .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
    let shared = Shared {
        clock,
        random: Random::of_system(),
        metrics: Metrics::default(),
    };
    // Before anything is written into the folder: a start that is refused leaves it as it found it.
    let readable = read_store(&config, &shared).await?;
    let pems = match named {
        Some(pems) => pems,
        None => Certificates::development(&config)?,
    };
    let plugins = Plugins::start(plugin_options(&config, &shared))
        .context("cannot start the plugin service")?;
    let policy = Arc::new(Policy::new(config.policy.grants.clone()));
    let bundled = bundled::bundled();
    let starting = Broker::start(
        broker_options(&config, policy.clone(), &shared),
        readable,
        plugins.clone(),
        &bundled,
    );
    let broker = tokio::select! {
        biased;
        broker = starting => broker.context("the broker cannot start")?,
        never = compile_until(&plugins, &shutdown) => match never {},
    };
    drop(plugins);
    close_to_others(data_dir);
    system_limits::compare_disk(&config, data_dir, &broker.usage());
    let served = serve(
        &config,
        &pems,
        &broker,
        policy.clone(),
        open_files,
        &shared,
        &shutdown,
    )
    .await;
    if let Ok(served) = served {
        if let Some(reload) = reload {
            let spawner = broker.spawner().clone();
            let read = |file: &Path| Config::load(Some(file));
            let task = reload::run(reload, read, config, policy, spawner, shutdown.clone());
            served.admin.lasting("policy", task);
        }
        served.until_stopped(&broker, &shutdown).await;
    } else {
        shutdown.cancel();
        broker.shutdown().await;
        return served.map(|_| ());
    }
    if tokio::time::timeout(STOP_GRACE, broker.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("something did not end in time; what was acknowledged is safe all the same");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Reads the certificates and the key that `config` names, and tries them on each other, as a start would. Nothing to do when
/// it names none: a start makes its own.
///
/// # Errors
///
/// A file cannot be read, is no PEM, or does not go with the others; the error says which.
pub fn check_tls(config: &Config) -> anyhow::Result<()> {
    Certificates::named_and_checked(config, Clock::start().now()).map(|_| ())
}

// A start that is to stop waits for no compiler.
async fn compile_until(plugins: &Plugins, shutdown: &CancellationToken) -> Infallible {
    shutdown.cancelled().await;
    plugins.stop_compiling();
    std::future::pending().await
}

// What runs until the shutdown is asked for.
struct Served {
    net: NetHandle,
    admin: Spawner,
}

impl Served {
    async fn until_stopped(self, broker: &Broker, shutdown: &CancellationToken) {
        let mut net = std::pin::pin!(self.net.stopped());
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                broker.close_publishes();
                until_answered(net, broker.refuse_late_publishes()).await;
            }
            () = net.as_mut() => {}
        }
        self.admin.ended().await;
    }
}

// Clients are waited for, since they wait for answers, and those that come too late are refused meanwhile. Without a client nobody waits.
async fn until_answered(clients_gone: impl Future<Output = ()>, refusal: impl Future<Output = ()>) {
    let mut clients_gone = std::pin::pin!(clients_gone);
    tokio::select! {
        biased;
        () = clients_gone.as_mut() => {}
        () = refusal => clients_gone.await,
    }
}

async fn serve(
    config: &Config,
    pems: &Certificates,
    broker: &Broker,
    policy: Arc<Policy>,
    open_files: u64,
    shared: &Shared,
    shutdown: &CancellationToken,
) -> anyhow::Result<Served> {
    let tls = match config.listen.admin_tls {
        Some(address) => Some((address, pems.admin_tls()?)),
        None => None,
    };
    let listeners = Listeners::bind(config.listen.admin, tls).await?;
    let (plain, secure) = (listeners.plain_addr(), listeners.tls_addr());
    let identity = pems.identity()?;
    let ends = identity.ends();
    let net = net::serve(
        net_options(
            config,
            reset_key(&config.data_dir, &shared.random)?,
            &shared.random,
        ),
        identity,
        policy.clone(),
        broker.clone(),
        shutdown.clone(),
    )
    .await
    .context("cannot listen for QUIC")?;
    let stats = net.stats.clone();
    shared.metrics.read(move || stats.families());
    shared.metrics.read(log_output::families);
    let options = admin_options(config, system_limits::admin_connections(config, open_files));
    let serve = admin::serve(
        listeners,
        options,
        broker.clone(),
        policy,
        shared.metrics.clone(),
        shutdown.clone(),
    );
    let admin = broker.spawner().apart(shutdown.clone());
    admin.lasting("admin API", serve);
    if let Some(ends) = ends {
        let (clock, conditions) = (shared.clock.clone(), broker.conditions().clone());
        shared
            .metrics
            .read(move || certificate_watch::families(ends));
        let watch = certificate_watch::run(ends, clock, conditions, shutdown.clone());
        admin.lasting("certificate", watch);
    }
    let mut addresses = net.local_addrs.iter().copied();
    let quic = addresses.next().context("no QUIC listener")?;
    let endpoints = Endpoints::new(quic, addresses.next(), plain, secure);
    if let Err(error) = endpoints.save(&config.data_dir) {
        // It is there for the convenience of the commands on this machine. On a full disk the broker has to start all the same.
        tracing::warn!(%error, "cannot write endpoints.json to the data directory; commands need `--addr` and `--admin`");
    }
    let is_default = is_default_context(config.clone()).await;
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "tidegate".to_owned());
    if let Some(out) = log_output::stdout() {
        let banner = banner::banner(&endpoints, config, &program, is_default);
        out.push(format!("{banner}\n").as_bytes());
    }
    tracing::info!(%quic, admin = endpoints.admin, admin_tls = endpoints.admin_tls, "serving");
    Ok(Served { net, admin })
}

// Whether commands that are told nothing come to this broker, wherever they are run: they do to the development broker that started
// last, unless the user has chosen a context, or is in a folder with a data directory.
async fn is_default_context(config: Config) -> bool {
    if config.tls.cert.is_some() {
        return false;
    }
    let set = unwaited_for(FILES_TIMEOUT, "contexts", move || {
        let set = ContextFolder::of_user().and_then(|folder| {
            folder.set_default(&config.data_dir)?;
            folder.contexts()
        });
        set.map_err(|error| error.to_string())
    });
    match set.await.and_then(|set| set) {
        Ok(contexts) => contexts.current.is_none(),
        Err(error) => {
            // A convenience of commands, too. Services often have no home.
            tracing::info!(%error, "no default context is written; commands elsewhere need `--data-dir`");
            false
        }
    }
}

// Reading a whole journal takes a while, so not on a thread that serves others.
async fn read_store(config: &Config, shared: &Shared) -> anyhow::Result<RecoveredStore> {
    let dir = config.data_dir.join("store");
    let options = StoreOptions {
        clock: shared.clock.clone(),
        random: shared.random.clone(),
        ..store_options(config)
    };
    let producers_max = usize_of(config.limits.producers_max);
    let readable = executor::blocking(move || {
        let examined = store::examine(&dir, options, Arc::new(RealFileSystem))?;
        RecoveredStore::of(examined, producers_max).map_err(anyhow::Error::from)
    });
    let read = readable.await;
    read.map_err(|why| anyhow!("opening the store was interrupted: {why}"))?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::pki::ensure_dev_pki;

    #[test]
    fn certificates_that_a_start_would_refuse_are_told_before_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let of = |name: &str| ensure_dev_pki(&directory.path().join(name)).expect("certificates");
        let (ours, others) = (of("ours"), of("others"));
        let check = |cert: &Path, key: &Path, client_ca: &Path| {
            let mut config = Config::development();
            config.tls.cert = Some(cert.to_owned());
            config.tls.key = Some(key.to_owned());
            config.tls.client_ca = Some(client_ca.to_owned());
            config.listen.admin_tls = "127.0.0.1:0".parse().ok();
            check_tls(&config).map_err(|error| format!("{error:#}"))
        };
        let (cert, key, ca) = (&ours.server_cert, &ours.server_key, &ours.ca);
        assert_eq!(check(cert, key, ca), Ok(()));
        assert_eq!(check_tls(&Config::development()).ok(), Some(()));
        let refused = |checked: Result<(), String>, why: &str| {
            let error = checked.expect_err(why);
            assert!(error.contains(why), "{error}");
        };
        let missing = directory.path().join("missing.pem");
        refused(check(&missing, key, ca), "missing.pem");
        refused(check(cert, &others.server_key, ca), "certificate and key");
        refused(check(cert, ca, ca), "private key");
        refused(check(cert, key, key), "client CA");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_lasts_as_long_as_clients_wait_for_answers() {
        let begun = tokio::time::Instant::now();
        let late = async |refused: &AtomicBool| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            refused.store(true, Ordering::SeqCst);
        };
        let refused = AtomicBool::new(false);
        until_answered(async {}, late(&refused)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(!refused.load(Ordering::SeqCst));
        let clients = async {
            while !refused.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        until_answered(clients, late(&refused)).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(1_200));
    }

    #[tokio::test]
    async fn a_start_with_bad_certificates_ends_before_it_touches_data() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::development();
        config.data_dir = directory.path().join("data");
        let missing = Some(directory.path().join("missing.pem"));
        (config.tls.cert, config.tls.key) = (missing.clone(), missing.clone());
        config.tls.client_ca = missing;
        let data_dir = config.data_dir.clone();
        let error = run(config, None, CancellationToken::new())
            .await
            .expect_err("no certificates");
        assert!(format!("{error:#}").contains("missing.pem"), "{error:#}");
        assert!(!data_dir.exists());
    }
}
