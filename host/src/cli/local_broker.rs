//! A broker of one's own: this binary again as a child process on a directory of its own, for `demo` and `bench`.
//! Starts it, reads which addresses it chose, kills and restarts it, and ends it however the parent ends. It
//! speaks to the broker only as any user could: files, signals, admin HTTP.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidegate_client::ClientOptions;

use super::api::next_page;
use crate::domain::{SubscriptionInfo, SubscriptionSpec};

/// How long a broker may take until it is ready; a slow disk and a first start that makes keys included.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often the state of a starting broker is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long one admin request may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a broker listens, as it says itself in `endpoints.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Endpoints {
    /// Address of the QUIC listener, `host:port`.
    pub(crate) quic: String,
    /// Base of the admin API, such as `http://127.0.0.1:4480`.
    pub(crate) admin: String,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time, user and system.
    pub(crate) cpu: Duration,
    /// Most memory it ever had resident, in bytes.
    pub(crate) resident_bytes_max: u64,
}

/// A broker in a child process. Dropping it kills the process; its directory is the caller's to remove.
pub(crate) struct LocalBroker {
    directory: PathBuf,
    /// Appended to the generated configuration.
    extra_config: String,
    child: Child,
    endpoints: Endpoints,
}

impl LocalBroker {
    /// Starts a broker whose data, configuration and log live in `directory`, and waits until it is ready.
    pub(crate) async fn start(directory: &Path, extra_config: &str) -> anyhow::Result<Self> {
        let any = Endpoints {
            quic: "127.0.0.1:0".to_owned(),
            admin: "http://127.0.0.1:0".to_owned(),
        };
        let child = spawn(directory, &any, extra_config)?;
        let mut broker = Self {
            directory: directory.to_owned(),
            extra_config: extra_config.to_owned(),
            child,
            endpoints: any,
        };
        broker.wait_ready().await?;
        Ok(broker)
    }

    /// Kills the process without warning (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // An error means that it has ended by itself; `wait` tells how.
        let _ = self.child.kill();
        self.child.wait().context("waiting for the killed broker")
    }

    /// Starts it again on the same data and the same addresses, so that clients find it by themselves.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.directory, &self.endpoints, &self.extra_config)?;
        self.wait_ready().await
    }

    /// Where it listens.
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Its admin API.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(&self.endpoints.admin)
    }

    /// Client options for this broker with its development certificate.
    pub(crate) fn client_options(&self) -> anyhow::Result<ClientOptions> {
        client_options(
            &self.endpoints.quic,
            &data_directory(&self.directory).join("pki"),
        )
    }

    /// What the process has used since it was started. None where the system does not tell.
    pub(crate) fn usage(&self) -> Option<Usage> {
        usage_of(self.child.id())
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let file = data_directory(&self.directory).join("endpoints.json");
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the broker ended at its start ({status}); its log ends with:\n{}",
                    self.log_tail()
                );
            }
            if let Some(endpoints) = read_endpoints(&file) {
                self.endpoints = endpoints;
                if self.admin().is_ready().await {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the broker was not ready after {READY_WITHIN:?}; its log ends with:\n{}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of its log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(log_path(&self.directory)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for LocalBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options for a client of the broker at `addr` with `ca.pem`, `client.pem` and `client.key` of `certs`.
pub(crate) fn client_options(addr: &str, certs: &Path) -> anyhow::Result<ClientOptions> {
    let read = |name: &str| {
        let path = certs.join(name);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(ClientOptions::new(addr)
        .server_name("localhost")
        .roots_pem(&read("ca.pem")?)?
        .identity_pem(&read("client.pem")?, &read("client.key")?)?)
}

/// The folder that a broker in `directory` keeps its data in.
pub(crate) fn data_directory(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// The few requests to the admin API that `demo` and `bench` need.
#[derive(Clone)]
pub(crate) struct Admin {
    base: String,
    agent: ureq::Agent,
}

impl Admin {
    /// A client of the admin API at `base`.
    pub(crate) fn new(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ADMIN_TIMEOUT))
            .http_status_as_error(false)
            .build();
        Self {
            base: base.trim_end_matches('/').to_owned(),
            agent: config.new_agent(),
        }
    }

    /// Whether the broker is up and serves.
    pub(crate) async fn is_ready(&self) -> bool {
        let (agent, url) = (self.agent.clone(), format!("{}/readyz", self.base));
        let status =
            tokio::task::spawn_blocking(move || agent.get(&url).call().map(|r| r.status()));
        matches!(status.await, Ok(Ok(status)) if status.is_success())
    }

    /// Creates a subscription or route.
    pub(crate) async fn create(&self, spec: &SubscriptionSpec) -> anyhow::Result<SubscriptionInfo> {
        let body = serde_json::to_value(spec)?;
        self.post("/v1/subscriptions", body)
            .await
            .with_context(|| format!("creating `{}`", spec.name))
    }

    /// All subscriptions and routes.
    pub(crate) async fn subscriptions(&self) -> anyhow::Result<Vec<SubscriptionInfo>> {
        let (agent, base) = (self.agent.clone(), self.base.clone());
        let pages = move || {
            let (mut all, mut next) = (Vec::new(), Some("/v1/subscriptions".to_owned()));
            while let Some(path) = next {
                let page = agent.get(format!("{base}{path}")).call()?;
                next = next_page(&page);
                all.extend(answer::<Vec<SubscriptionInfo>>(page)?);
            }
            Ok(all)
        };
        tokio::task::spawn_blocking(pages).await?
    }

    async fn post<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        body: serde_json::Value,
    ) -> anyhow::Result<T> {
        let (agent, url) = (self.agent.clone(), format!("{}{path}", self.base));
        tokio::task::spawn_blocking(move || answer(agent.post(&url).send_json(body)?)).await?
    }
}

fn answer<T: DeserializeOwned>(
    mut response: ureq::http::Response<ureq::Body>,
) -> anyhow::Result<T> {
    if !response.status().is_success() {
        let status = response.status();
        let text = response.body_mut().read_to_string().unwrap_or_default();
        bail!("the broker answered {status}: {text}");
    }
    Ok(response.body_mut().read_json()?)
}

fn spawn(directory: &Path, endpoints: &Endpoints, extra_config: &str) -> anyhow::Result<Child> {
    let data = data_directory(directory);
    fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
    // What a broker that was killed left behind must not be taken for the new one's.
    let _ = fs::remove_file(data.join("endpoints.json"));
    let config = directory.join("tidegate.toml");
    let admin = endpoints.admin.trim_start_matches("http://");
    let text = format!(
        "data_dir = {data:?}\n\n[listen]\nquic = {:?}\nadmin = {admin:?}\n\n{extra_config}",
        endpoints.quic
    );
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let log = open_log(directory)?;
    let binary = std::env::current_exe().context("finding this program's own file")?;
    Command::new(&binary)
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("broker.log")
}

fn open_log(directory: &Path) -> anyhow::Result<File> {
    let path = log_path(directory);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}

// None while the file is absent or half written.
fn read_endpoints(file: &Path) -> Option<Endpoints> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn usage_of(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage {
        cpu: parse_cpu(&stat)?,
        resident_bytes_max: parse_resident_max(&status)?,
    })
}

// Fields 14 and 15 of /proc/PID/stat, in ticks. The tick is 1/100 s on every Linux that matters; the second
// field is the program's name in parentheses and may hold spaces.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

fn parse_resident_max(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_files_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu("7 (x"), None);
        let status = "Name:\ttidegate\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_resident_max(status), Some(2 << 20));
        assert_eq!(parse_resident_max("Name:\tx\n"), None);
    }
}
