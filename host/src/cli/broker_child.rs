//! A broker in a child process, on a directory that holds its configuration, data and log: for `demo` and `bench`, and for the
//! harness of the tests. It is looked at only as any user could: files, signals, the admin API.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::admin_client::Api;
use super::process_usage::ProcessUsage;
use crate::disk::read_whole;

/// How often the state of a starting broker is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Lines of its log that a failure shows.
const LOG_LINES: usize = 30;
/// What the file with the addresses of a broker may have; it has some hundred bytes.
const ADDRESSES_BYTES_MAX: u64 = 64 * 1024;

/// Where a broker listens, as it says itself in `endpoints.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Addresses {
    /// Of the QUIC listener, `host:port`.
    pub quic: String,
    /// Of the listener for clients without a certificate, if there is one.
    pub anonymous: Option<String>,
    /// Base of the admin API, such as `http://127.0.0.1:4480`.
    pub admin: String,
}

/// How a broker is run.
#[derive(Clone, Debug)]
pub struct BrokerRun<'a> {
    /// The program, run as `PROGRAM serve --config FILE`.
    pub program: &'a Path,
    /// Where its configuration, data and log are.
    pub directory: &'a Path,
    /// Where it is to listen.
    pub addresses: &'a Addresses,
    /// The configuration after `data_dir` and the addresses of QUIC and the admin API: more lines of `[listen]`, then sections.
    pub config: &'a str,
    /// Standard error is a pipe that nobody reads, unless the caller does; else it goes to the log.
    pub has_piped_stderr: bool,
}

/// A broker in a child process. Dropping it kills the process; its directory is the caller's to remove.
#[derive(Debug)]
pub struct BrokerChild {
    directory: PathBuf,
    child: Child,
}

impl Addresses {
    /// Any free ports of this machine.
    #[must_use]
    pub fn any() -> Self {
        let any = "127.0.0.1:0";
        Self {
            quic: any.to_owned(),
            anonymous: None,
            admin: format!("http://{any}"),
        }
    }

    /// The admin API's `host:port`.
    #[must_use]
    pub fn admin_host_and_port(&self) -> &str {
        self.admin.trim_start_matches("http://")
    }

    // None while the file is absent or half written.
    fn read(directory: &Path) -> Option<Self> {
        let bytes = read_whole(&addresses_file(directory), ADDRESSES_BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

impl BrokerRun<'_> {
    /// Starts the process without waiting for anything.
    ///
    /// # Errors
    /// A file cannot be written, or the program cannot be run.
    pub fn spawn(&self) -> anyhow::Result<BrokerChild> {
        let data = data_directory(self.directory);
        fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
        // What a broker that was killed left behind must not be taken for the new one's.
        let _ = fs::remove_file(addresses_file(self.directory));
        let config = self.write_config("tidegate.toml")?;
        let log = open_log(self.directory)?;
        let child = self
            .command(&config)
            .stdout(log.try_clone()?)
            .stderr(match self.has_piped_stderr {
                true => Stdio::piped(),
                false => log.into(),
            })
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        Ok(BrokerChild {
            directory: self.directory.to_owned(),
            child,
        })
    }

    /// Writes the configuration under this name into its directory, and returns where that is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        let text = format!(
            "data_dir = {:?}\n\n[listen]\nquic = {:?}\nadmin = {:?}\n{}",
            data_directory(self.directory),
            self.addresses.quic,
            self.addresses.admin_host_and_port(),
            self.config
        );
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// The command that runs the program on this configuration.
    #[must_use]
    pub fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(self.program);
        command
            // So that it does not become the default one of whoever runs this.
            .env("XDG_CONFIG_HOME", self.directory)
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null());
        command
    }
}

impl BrokerChild {
    /// Waits until the broker serves, and returns where.
    ///
    /// # Errors
    /// It ended, or was not ready `within` that time; the message has the end of its log.
    pub async fn wait_ready(&mut self, within: Duration) -> anyhow::Result<Addresses> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait()? {
                bail!(
                    "the broker ended at its start ({status}); its log ends with:\n{}",
                    log_tail(&self.directory)
                );
            }
            if let Some(addresses) = Addresses::read(&self.directory)
                && is_ready(&addresses).await
            {
                return Ok(addresses);
            }
            if Instant::now() > deadline {
                bail!(
                    "the broker was not ready after {within:?}; its log ends with:\n{}",
                    log_tail(&self.directory)
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills the process without warning (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// The system does not tell how it ended.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // An error means that it has ended by itself; `wait` tells how.
        let _ = self.child.kill();
        self.child.wait().context("waiting for the killed broker")
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Id of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has used since it was started. `None` where the system does not tell.
    #[must_use]
    pub fn usage(&self) -> Option<ProcessUsage> {
        ProcessUsage::of(self.pid())
    }

    /// What [`BrokerRun::has_piped_stderr`] asked for, once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }
}

impl Drop for BrokerChild {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The folder that a broker in `directory` keeps its data in.
#[must_use]
pub fn data_directory(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// The whole log of all brokers that ran in `directory`.
#[must_use]
pub fn log(directory: &Path) -> String {
    fs::read_to_string(log_file(directory)).unwrap_or_default()
}

/// The end of it, for an error message.
#[must_use]
pub fn log_tail(directory: &Path) -> String {
    let log = log(directory);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn log_file(directory: &Path) -> PathBuf {
    directory.join("broker.log")
}

fn addresses_file(directory: &Path) -> PathBuf {
    data_directory(directory).join("endpoints.json")
}

fn open_log(directory: &Path) -> anyhow::Result<File> {
    let path = log_file(directory);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}

async fn is_ready(addresses: &Addresses) -> bool {
    let api = Api::plain(&addresses.admin);
    let asked = tokio::task::spawn_blocking(move || api.is_ready());
    asked.await.unwrap_or(false)
}
