//! NATS JetStream as one of the brokers: `nats-server` in a process of its own with one stream on file storage, used
//! through `async-nats`. The stream keeps its messages (the default, `limits`), which is the fastest it has: nothing is
//! deleted when it is acked.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{ContextBuilder, PublishError};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{Context, stream};
use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidegate_tests::{TestPki, bytes_under, lasting_port, wait_for};

use crate::broker::{self, Kind, PREFETCH, Places, Subscription};

/// The one stream, and the subjects it takes: all topics of all workloads start like this.
const STREAM: &str = "compare";
const SUBJECTS: &str = "compare.>";
/// Messages handed out and not acked, per consumer; Tidegate's own default, since NATS's of 1,000 would be a brake.
const ACK_PENDING_MAX: i64 = 65_536;
/// Consumers of the stream; newer servers allow 1,000 when nothing is said.
const CONSUMERS_MAX: i32 = 100_000;
/// How long an answer may take. Long, so that a slow sync is a low rate and not a failure.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long the server may take to stop in good order; with thousands of consumers it takes more than a minute.
const STOP_WITHIN: Duration = Duration::from_secs(300);
/// Name of the server's program.
const PROGRAM: &str = "nats-server";

pub(crate) type Publisher = Context;
pub(crate) type Ticket = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;
pub(crate) type Consumer = pull::Stream;
pub(crate) type Delivery = async_nats::jetstream::Message;

/// A running NATS server. Fields drop in this order: the process before its directory.
pub(crate) struct Nats {
    server: Server,
    program: PathBuf,
    tls: bool,
    port: u16,
    control: Option<Context>,
    directory: TempDir,
}

impl Nats {
    /// Starts the server in the setting that `kind` says, and makes the stream.
    pub(crate) async fn start(kind: Kind, places: &Places) -> anyhow::Result<Self> {
        let program = places.nats.clone().context("there is no nats-server")?;
        let directory = tempfile::Builder::new()
            .prefix("compare-nats-")
            .tempdir_in(&places.directory)?;
        let tls = kind == Kind::NatsMtls;
        if tls {
            write_certificates(directory.path())?;
        }
        let port = lasting_port()?;
        let config = config_text(kind, port, directory.path());
        fs::write(directory.path().join("nats.conf"), config)?;
        let mut nats = Self {
            server: Server::spawn(&program, directory.path())?,
            program,
            tls,
            port,
            control: None,
            directory,
        };
        nats.wait_ready().await?;
        let stream = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECTS.to_owned()],
            storage: stream::StorageType::File,
            max_consumers: CONSUMERS_MAX,
            ..stream::Config::default()
        };
        nats.control()?.create_stream(stream).await?;
        Ok(nats)
    }

    pub(crate) async fn subscribe(&self, subscription: &Subscription) -> anyhow::Result<()> {
        ensure!(subscription.filter.is_none(), "NATS has no content filters");
        let config = pull::Config {
            durable_name: Some(subscription.name.clone()),
            filter_subject: subscription.topic.clone(),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            max_ack_pending: ACK_PENDING_MAX,
            ..pull::Config::default()
        };
        let control = self.control()?;
        control.create_consumer_on_stream(config, STREAM).await?;
        Ok(())
    }

    /// Messages in the stream.
    pub(crate) async fn messages(&self) -> anyhow::Result<u64> {
        let stream = self.control()?.get_stream(STREAM).await?;
        Ok(stream.cached_info().state.messages)
    }

    /// Messages of a subscription that may still be delivered or are not acked.
    pub(crate) async fn depth(&self, subscription: &str) -> anyhow::Result<u64> {
        let info = durable(self.control()?, subscription).await?;
        let info = info.cached_info();
        Ok(info.num_pending + info.num_ack_pending as u64)
    }

    pub(crate) async fn publisher(&self, outstanding: usize) -> anyhow::Result<broker::Publisher> {
        let client = self.connect().await?;
        let context = ContextBuilder::new()
            .timeout(ANSWER_WITHIN)
            // Never what holds a publisher back; the load itself counts what is outstanding.
            .max_ack_inflight(outstanding + 1)
            .build(client);
        Ok(broker::Publisher::Nats(Box::new(context)))
    }

    pub(crate) async fn consumer(&self, subscription: &str) -> anyhow::Result<broker::Consumer> {
        let context = async_nats::jetstream::new(self.connect().await?);
        let consumer = durable(&context, subscription).await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PREFETCH)
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await?;
        Ok(broker::Consumer::Nats(Box::new(messages)))
    }

    pub(crate) async fn reopen(&mut self) -> anyhow::Result<Duration> {
        self.control = None;
        self.server.stop().await?;
        let begin = Instant::now();
        self.server = Server::spawn(&self.program, self.directory.path())?;
        self.wait_ready().await?;
        // It accepts connections once its streams are recovered; this says that it has.
        self.messages().await?;
        Ok(begin.elapsed())
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        bytes_under(&self.directory.path().join("data"))
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.server.pid)
    }

    fn control(&self) -> anyhow::Result<&Context> {
        self.control.as_ref().context("the server is not ready")
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let ready = wait_for("nats-server to be ready", async || {
            if let Some(status) = self.server.child.try_wait()? {
                bail!("the server ended: {status}");
            }
            let Ok(client) = self.connect().await else {
                return Ok(None);
            };
            let control = async_nats::jetstream::new(client);
            let serves = control.query_account().await.is_ok();
            Ok(serves.then_some(control))
        });
        match ready.await {
            Ok(control) => self.control = Some(control),
            Err(error) => {
                let log = fs::read_to_string(self.directory.path().join("server.log"));
                bail!("{error:#}; its log:\n{}", log.unwrap_or_default());
            }
        }
        self.server.find_process()
    }

    async fn connect(&self) -> anyhow::Result<async_nats::Client> {
        let mut options = ConnectOptions::new().connection_timeout(Duration::from_secs(10));
        if self.tls {
            let file = |name: &str| self.directory.path().join(name);
            options = options
                .require_tls(true)
                .add_root_certificates(file("ca.pem"))
                .add_client_certificate(file("client.pem"), file("client.key"));
        }
        let url = format!("nats://127.0.0.1:{}", self.port);
        Ok(options.connect(url).await?)
    }
}

/// The next message of a consumer.
pub(crate) async fn next(consumer: &mut Consumer) -> anyhow::Result<Delivery> {
    let message = consumer.next().await.context("the consumer ended")?;
    Ok(message?)
}

/// Acks a message, as its client does by default: without an answer.
pub(crate) async fn ack(message: &Delivery) -> anyhow::Result<()> {
    message
        .ack()
        .await
        .map_err(|error| anyhow!("acking: {error}"))
}

/// The server's program and version, if there is one: at `given`, or on the path.
pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    let program = match given {
        Some(path) => Some(path.to_owned()),
        None => on_path(PROGRAM),
    };
    let Some(program) = program else {
        return Ok(None);
    };
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("running {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} does not run",
        program.display()
    );
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Some((program, version)))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

async fn durable(context: &Context, name: &str) -> anyhow::Result<PullConsumer> {
    let consumer = context.get_consumer_from_stream(name, STREAM).await;
    consumer.with_context(|| format!("looking for `{name}`"))
}

/// The process, and the server in it when the program is a script that starts another.
struct Server {
    child: Child,
    pid: u32,
}

impl Server {
    fn spawn(program: &Path, directory: &Path) -> anyhow::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join("server.log"))?;
        let child = Command::new(program)
            .arg("--config")
            .arg(directory.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self {
            pid: child.id(),
            child,
        })
    }

    // What is measured has to be the server, not an interpreter that waits for it.
    fn find_process(&mut self) -> anyhow::Result<()> {
        let child = self.child.id();
        let tasks = fs::read_to_string(format!("/proc/{child}/task/{child}/children"));
        let children = tasks.unwrap_or_default();
        let below = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        let found = std::iter::once(child)
            .chain(below)
            .find(|pid| is_server(*pid));
        self.pid = found.with_context(|| {
            format!("neither the process that was started nor its children are a {PROGRAM}; give its own file with --nats")
        })?;
        Ok(())
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_WITHIN;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the server does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // An error means that it has ended by itself.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Once the child was waited for, its id may be somebody else's.
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::KILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn is_server(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == PROGRAM)
}

fn config_text(kind: Kind, port: u16, directory: &Path) -> String {
    let data = directory.join("data");
    let sync = match kind {
        Kind::NatsAlways => "sync_interval: always",
        _ => "",
    };
    let file = |name: &str| directory.join(name);
    let tls = match kind {
        Kind::NatsMtls => format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
            file("server.pem"),
            file("server.key"),
            file("ca.pem")
        ),
        _ => String::new(),
    };
    format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {data:?}\n{sync} }}\n{tls}")
}

fn write_certificates(directory: &Path) -> anyhow::Result<()> {
    let pki = TestPki::new()?;
    pki.write_server_files(directory)?;
    let client = pki.client("everybody")?;
    fs::write(directory.join("client.pem"), client.cert_pem)?;
    fs::write(directory.join("client.key"), client.key_pem)?;
    Ok(())
}
