//! Builds the parts of a broker, joins them, and takes them down in order: first what lets clients in, then
//! what works for them, last the journal. Nothing else knows all the parts; nothing here does their work.

mod banner;
mod machine;
mod reload;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminOptions, Listeners};
use crate::auth::Policy;
use crate::broker::{Broker, BrokerOptions, PluginQuotas, Readable};
use crate::config::{Config, Endpoints};
use crate::net::{
    self, ClientAuth, Limits, ListenerOptions, NetHandle, NetOptions, TlsError, TlsIdentity,
};
use crate::pki;
use crate::plugin::{PluginLimits, PluginOptions, Plugins, bundled};
use crate::runtime::{Clock, Random, Spawner};
use crate::state::census::Quota;
use crate::store::{self, RealFileSystem, StoreOptions};
use crate::telemetry::{Metrics, lines};

pub use reload::Reload;

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
    // First, since opening the store may take a while.
    let named = Pems::named_and_checked(&config)?;
    let open_files = machine::raise_open_files();
    let data_dir = config.data_dir.as_path();
    create_durably(data_dir)
        .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
    // Before anything is written: a start that is refused leaves the disk as it found it.
    let readable = read_store(&config).await?;
    let pems = match named {
        Some(pems) => pems,
        None => Pems::development(&config)?,
    };
    let shared = Shared {
        clock: Clock::start(),
        random: Random::of_system(),
        metrics: Metrics::default(),
    };
    let plugins = Plugins::start(plugin_options(&config, &shared))
        .context("cannot start the plugin service")?;
    let policy = Arc::new(Policy::new(config.policy.grants.clone()));
    let broker = Broker::start(
        broker_options(&config, policy.clone(), &shared),
        readable,
        plugins,
        &bundled::bundled(),
    )
    .await
    .context("the broker cannot start")?;
    machine::compare_disk(&config, data_dir, &broker.usage());
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
            let conditions = broker.conditions().clone();
            let task = reload::run(reload, config, policy, conditions, shutdown.clone());
            served.admin.lasting("policy", task);
        }
        served.until_stopped().await;
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
    Pems::named_and_checked(config).map(|_| ())
}

// What all parts have from outside, and one of it.
struct Shared {
    clock: Clock,
    random: Random,
    metrics: Metrics,
}

// What runs until the shutdown is asked for.
struct Served {
    net: NetHandle,
    admin: Spawner,
}

impl Served {
    async fn until_stopped(self) {
        self.net.stopped().await;
        self.admin.ended().await;
    }
}

async fn serve(
    config: &Config,
    pems: &Pems,
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
    let net = net::serve(
        net_options(config, reset_key(&config.data_dir, &shared.random)?),
        identity,
        policy.clone(),
        broker.clone(),
        shutdown.clone(),
    )
    .await
    .context("cannot listen for QUIC")?;
    let stats = net.stats.clone();
    shared.metrics.read(move || stats.families());
    shared.metrics.read(lines::families);
    let mut options = AdminOptions::from_config(config);
    options.connections_max = usize_of(machine::admin_connections(config, open_files));
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
    let mut addresses = net.local_addrs.iter().copied();
    let quic = addresses.next().context("no QUIC listener")?;
    let endpoints = Endpoints::new(quic, addresses.next(), plain, secure);
    if let Err(error) = endpoints.save(&config.data_dir) {
        // It is there for the convenience of the commands on this machine. On a full disk the broker has to start all the same.
        tracing::warn!(%error, "cannot write endpoints.json to the data directory; commands need `--addr` and `--admin`");
    }
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "tidegate".to_owned());
    if let Some(out) = lines::stdout() {
        let banner = banner::banner(&endpoints, config, &program);
        out.push(format!("{banner}\n").as_bytes());
    }
    tracing::info!(%quic, admin = endpoints.admin, admin_tls = endpoints.admin_tls, "serving");
    Ok(Served { net, admin })
}

// Reading a whole journal takes a while, so not on a thread that serves others.
async fn read_store(config: &Config) -> anyhow::Result<Readable> {
    let dir = config.data_dir.join("store");
    let options = store_options(config);
    let producers_max = usize_of(config.limits.producers_max);
    let readable = tokio::task::spawn_blocking(move || {
        let examined = store::examine(&dir, options, Arc::new(RealFileSystem))?;
        Readable::of(examined, producers_max).map_err(anyhow::Error::from)
    });
    readable
        .await
        .context("opening the store was interrupted")?
}

fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        journal_file_bytes: config.store.journal_file_bytes,
        journal_bytes_max: config.store.journal_bytes_max,
        journal_reserve_bytes: config.store.journal_reserve_bytes,
        journal_blocks_max: usize_of(config.store.journal_blocks_max),
        generations_open_max: config.store.generations_open_max as usize,
        generation_part_bytes: config.store.generation_part_bytes,
        cache_bytes: config.store.cache_bytes,
        accept_loss: config.store.accept_loss,
        marker: Some(config.data_dir.join("tidegate.data")),
        ..StoreOptions::default()
    }
}

fn broker_options(config: &Config, policy: Arc<Policy>, shared: &Shared) -> BrokerOptions {
    BrokerOptions {
        clock: shared.clock.clone(),
        metrics: shared.metrics.clone(),
        plugins_dir: config.data_dir.join("plugins"),
        auto_create_topics: config.topics.auto_create,
        interval_ms: config.store.interval_ms,
        tail_bytes: usize_of(config.store.tail_bytes),
        // Half, so that a checkpoint has the time in which the other half fills.
        checkpoint_bytes: store_options(config).publishable_bytes_max() / 2,
        checkpoint_blocks: usize_of(config.store.journal_blocks_max / 2),
        journal_bytes_max: config.store.journal_bytes_max,
        producers_max: usize_of(config.limits.producers_max),
        topics: Quota {
            all: usize_of(config.limits.topics_max),
            principal: usize_of(config.limits.principal_topics_max),
        },
        subscriptions: Quota {
            all: usize_of(config.limits.subscriptions_max),
            principal: usize_of(config.limits.principal_subscriptions_max),
        },
        specification_bytes: Quota {
            all: usize_of(config.limits.specification_bytes_max),
            principal: usize_of(config.limits.principal_specification_bytes_max),
        },
        plugins: PluginQuotas {
            versions: Quota {
                all: usize_of(config.limits.plugins_max),
                principal: usize_of(config.limits.principal_plugins_max),
            },
            bytes: Quota {
                all: usize_of(config.limits.plugin_bytes_max),
                principal: usize_of(config.limits.principal_plugin_bytes_max),
            },
        },
        subscription_patterns_max: usize_of(config.limits.subscription_patterns_max),
        event_bytes_max: usize_of(config.limits.event_bytes_max),
        policy,
    }
}

fn net_options(config: &Config, reset_key: [u8; 64]) -> NetOptions {
    let limits = &config.limits;
    let mut listeners = vec![ListenerOptions {
        addr: config.listen.quic,
        client_auth: ClientAuth::Required,
    }];
    if let Some(addr) = config.listen.anonymous {
        listeners.push(ListenerOptions {
            addr,
            client_auth: ClientAuth::Anonymous,
        });
    }
    NetOptions {
        listeners,
        limits: Limits {
            frame_bytes_max: usize_of(limits.frame_bytes_max),
            event_bytes_max: usize_of(limits.event_bytes_max),
            headers_max: limits.headers_max as usize,
            header_bytes_max: usize_of(limits.header_bytes_max),
            batch_events_max: limits.batch_events_max as usize,
        },
        publish_credit_bytes: usize_of(limits.publish_credit_bytes),
        publish_credit_batches: limits.publish_credit_batches,
        publish_credit_total_bytes: usize_of(limits.publish_credit_total_bytes),
        handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
        frame_timeout: Duration::from_millis(limits.frame_timeout_ms),
        idle_timeout: Duration::from_millis(limits.idle_timeout_ms),
        connections_max: limits.connections_max as usize,
        principal_connections_max: limits.principal_connections_max as usize,
        streams_max: limits.connection_streams_max,
        shutdown_grace: Duration::from_millis(config.shutdown.deadline_ms),
        reset_key: Some(reset_key),
        ..NetOptions::default()
    }
}

fn plugin_options(config: &Config, shared: &Shared) -> PluginOptions {
    let plugins = &config.plugins;
    let limits = PluginLimits {
        memory_bytes_max: usize_of(plugins.memory_bytes_max),
        call_base: Duration::from_millis(plugins.deadline_base_ms),
        call_pair: Duration::from_micros(plugins.deadline_pair_us),
        output_bytes_max: usize_of(plugins.output_bytes_max),
        module_bytes_max: usize_of(plugins.module_bytes_max),
    };
    let overrides = plugins.overrides.iter().map(|(name, own)| {
        let own = PluginLimits {
            memory_bytes_max: own
                .memory_bytes_max
                .map_or(limits.memory_bytes_max, usize_of),
            call_base: own
                .deadline_base_ms
                .map_or(limits.call_base, Duration::from_millis),
            call_pair: own
                .deadline_pair_us
                .map_or(limits.call_pair, Duration::from_micros),
            output_bytes_max: own
                .output_bytes_max
                .map_or(limits.output_bytes_max, usize_of),
            module_bytes_max: own
                .module_bytes_max
                .map_or(limits.module_bytes_max, usize_of),
        };
        (name.to_string(), own)
    });
    let defaults = PluginOptions::default();
    PluginOptions {
        clock: shared.clock.clone(),
        random: shared.random.clone(),
        overrides: overrides.collect(),
        compile_timeout: Duration::from_millis(plugins.compile_timeout_ms),
        instances_max: plugins.instances_max as usize,
        owner_instances_max: plugins.owner_instances_max as usize,
        instances_memory_bytes_max: usize_of(plugins.instances_memory_bytes_max),
        owner_memory_bytes_max: usize_of(plugins.owner_memory_bytes_max),
        worker_threads: match plugins.worker_threads {
            0 => defaults.worker_threads,
            threads => threads as usize,
        },
        cache_dir: config.data_dir.join("plugin-cache"),
        limits,
        ..defaults
    }
}

// Creates a folder, its parents included, so that a power cut does not take it away again with what is put into it.
fn create_durably(dir: &Path) -> std::io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(dir)?;
    for folder in missing {
        // Its name is in the folder above.
        let above = folder
            .parent()
            .filter(|above| !above.as_os_str().is_empty());
        fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

// The secret behind connection ids and reset tokens: made once, so that a restarted broker recognises packets
// of connections that the one before it had.
fn reset_key(data_dir: &Path, random: &Random) -> anyhow::Result<[u8; 64]> {
    let path = data_dir.join("reset.key");
    let kept = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        kept => kept.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if let Ok(key) = kept.try_into() {
        return Ok(key);
    }
    let key = random.bytes();
    let mut file =
        tempfile::NamedTempFile::new_in(data_dir).context("cannot write the data directory")?;
    std::io::Write::write_all(&mut file, &key).context("cannot write reset.key")?;
    file.persist(&path).context("cannot write reset.key")?;
    Ok(key)
}

// On machines where a size does not fit the address space, it is as large as that.
fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

// Certificates and key, as files have them.
struct Pems {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl Pems {
    // A development set-up, made on first start.
    fn development(config: &Config) -> anyhow::Result<Self> {
        let dev = pki::ensure_dev_pki(&config.pki_dir())
            .context("cannot make development certificates")?;
        Self::read(&dev.server_cert, &dev.server_key, &dev.ca)
    }

    // Those of the configuration, if it names any, tried for all that they are needed for.
    fn named_and_checked(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(pems) = Self::named(config)? else {
            return Ok(None);
        };
        pems.identity()
            .and_then(|identity| identity.server_config(ClientAuth::Required, &[]))
            .context("the files of [tls] cannot be used")?;
        if config.listen.admin_tls.is_some() {
            pems.admin_tls()
                .context("the files of [tls] cannot be used for the admin API")?;
        }
        Ok(Some(pems))
    }

    // Those of the configuration, if it names any.
    fn named(config: &Config) -> anyhow::Result<Option<Self>> {
        let tls = &config.tls;
        match (&tls.cert, &tls.key, &tls.client_ca) {
            (Some(cert), Some(key), Some(client_ca)) => Self::read(cert, key, client_ca).map(Some),
            // All or none, which was checked when it was read.
            _ => Ok(None),
        }
    }

    fn identity(&self) -> Result<TlsIdentity, TlsError> {
        TlsIdentity::from_pem(&self.cert, &self.key, &self.client_ca)
    }

    fn admin_tls(&self) -> Result<Arc<rustls::ServerConfig>, admin::TlsError> {
        admin::tls_config(&self.cert, &self.key, &self.client_ca)
    }

    fn read(cert: &Path, key: &Path, client_ca: &Path) -> anyhow::Result<Self> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Self {
            cert: read(cert)?,
            key: read(key)?,
            client_ca: read(client_ca)?,
        })
    }
}

#[cfg(test)]
mod tests {
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
