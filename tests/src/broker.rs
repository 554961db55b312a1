//! The broker as a process: started on free ports in a directory of its own, killed, stopped, started again, and
//! ended with the test however that goes.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tidegate_client::{Client, ClientOptions};

use crate::{AdminApi, TestIdentity, TestPki, wait_for};

/// Name under which this package builds the broker's binary.
const BINARY: &str = "tidegate-under-test";

/// Grants everything to the test's own clients and to the plain admin port.
const GRANT_ALL: &str = r#"
[[policy.grants]]
principals = ["local", "*"]
publish = [">"]
subscribe = [">"]
admin = [">"]
consume = ["*"]
upload = ["*"]
use = ["*"]
"#;

/// How a test wants its broker.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sections of the configuration beside `data_dir`, `[listen]` and `[tls]`.
    pub config: String,
    /// The policy; everything is granted by default.
    pub grants: String,
    /// More lines of `[listen]`.
    pub listen: String,
    /// The program to run as `<program> serve --config FILE`; this package's own build of the broker by default.
    pub program: Option<PathBuf>,
    /// Where its directory is made; the system's folder for temporary files by default.
    pub parent: Option<PathBuf>,
    /// Its standard error is a pipe that nobody reads, unless the test does; else it is the log that failures show.
    pub piped_stderr: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: String::new(),
            grants: GRANT_ALL.to_owned(),
            listen: String::new(),
            program: None,
            parent: None,
            piped_stderr: false,
        }
    }
}

impl Setup {
    /// The default with these sections of the configuration.
    #[must_use]
    pub fn config(text: impl Into<String>) -> Self {
        Self {
            config: text.into(),
            ..Self::default()
        }
    }

    /// The default with this policy.
    #[must_use]
    pub fn grants(text: impl Into<String>) -> Self {
        Self {
            grants: text.into(),
            ..Self::default()
        }
    }
}

/// Where the broker listens, from `endpoints.json`.
#[derive(Clone, Debug, Deserialize)]
struct Endpoints {
    quic: String,
    anonymous: Option<String>,
    admin: String,
}

/// A running broker. Dropping it kills the process and removes its directory.
pub struct BrokerProcess {
    /// Issues certificates that this broker accepts.
    pub pki: TestPki,
    everybody: TestIdentity,
    setup: Setup,
    tls: String,
    endpoints: Endpoints,
    child: Option<Child>,
    directory: TempDir,
}

impl BrokerProcess {
    /// A broker with the default [`Setup`].
    ///
    /// # Errors
    /// It did not start; the message has the end of its log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Setup::default()).await
    }

    /// A broker with this [`Setup`].
    ///
    /// # Errors
    /// It did not start; the message has the end of its log.
    pub async fn start_with(setup: Setup) -> anyhow::Result<Self> {
        let parent = setup.parent.clone().unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new()
            .prefix("tidegate-it-")
            .tempdir_in(parent)?;
        let pki = TestPki::new()?;
        let tls = pki.write_server_files(&directory.path().join("certs"))?;
        let any = "127.0.0.1:0".to_owned();
        let mut broker = Self {
            everybody: pki.client("everybody")?,
            pki,
            setup,
            tls,
            endpoints: Endpoints {
                quic: any.clone(),
                anonymous: Some(any.clone()),
                admin: any,
            },
            child: None,
            directory,
        };
        broker.restart().await?;
        Ok(broker)
    }

    /// Starts the process again, after [`kill`](Self::kill) or [`stop`](Self::stop), on the same data and the
    /// same addresses, and waits until it is ready.
    ///
    /// # Errors
    /// It did not start; the message has the end of its log.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Starts the process without waiting for anything.
    ///
    /// # Errors
    /// The binary could not be run.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let data = self.data_directory();
        // What a broker that was killed left behind must not be taken for the new one's.
        let _ = fs::remove_file(data.join("endpoints.json"));
        let config = self.directory.path().join("tidegate.toml");
        fs::write(&config, self.config_text())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let stdout = log.try_clone()?;
        let child = Command::new(self.program()?)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(match self.setup.piped_stderr {
                true => Stdio::piped(),
                false => log.into(),
            })
            .spawn()
            .context("starting the broker")?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the broker that was spawned serves.
    ///
    /// # Errors
    /// It ended, or was not ready in time.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let file = self.data_directory().join("endpoints.json");
        let ready = wait_for("the broker to be ready", async || {
            if let Some(status) = self.try_wait()? {
                bail!("the broker ended: {status}");
            }
            // Absent or half written at first.
            let Ok(text) = fs::read(&file) else {
                return Ok(None);
            };
            let Ok(endpoints) = serde_json::from_slice::<Endpoints>(&text) else {
                return Ok(None);
            };
            let ready = AdminApi::new(&endpoints.admin).is_ready().await;
            Ok(ready.then_some(endpoints))
        })
        .await;
        match ready {
            Ok(endpoints) => {
                self.endpoints = endpoints;
                Ok(())
            }
            Err(error) => {
                Err(error.context(format!("the broker's log ends with:\n{}", self.log_tail())))
            }
        }
    }

    /// Other grants from the next start on, or from when it is told to read them.
    pub fn set_grants(&mut self, text: impl Into<String>) {
        self.setup.grants = text.into();
    }

    /// Writes its configuration with the grants that were set, and tells it to read them (SIGHUP). Does not wait for that.
    ///
    /// # Errors
    /// It does not run, or the file cannot be written.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the broker does not run")?;
        fs::write(
            self.directory.path().join("tidegate.toml"),
            self.config_text(),
        )?;
        Ok(kill_process(Pid::from_child(child), Signal::HUP)?)
    }

    /// Kills the process without warning (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// Waiting for it failed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended by itself.
            let _ = child.kill();
            child.wait()?;
        }
        Ok(())
    }

    /// Asks the process to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It runs no longer, or did not stop in time.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_ref().context("the broker runs no longer")?;
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let status = wait_for("the broker to stop", async || self.try_wait()).await?;
        self.child = None;
        Ok(status)
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("the broker was not started"),
        }
    }

    /// Starts a second broker on the same directory, waits until it ends, and returns how, with its output.
    ///
    /// # Errors
    /// It could not be run.
    pub async fn second_on_same_directory(&self) -> anyhow::Result<std::process::Output> {
        let config = self.directory.path().join("second.toml");
        let text = self
            .config_text()
            .replace(&self.endpoints.quic, "127.0.0.1:0")
            .replace(admin_address(&self.endpoints.admin), "127.0.0.1:0");
        fs::write(&config, text)?;
        let mut command = Command::new(self.program()?);
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null());
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// The command line with these arguments, for this broker and as a client that may do everything the default grants
    /// allow.
    ///
    /// # Errors
    /// Its certificates could not be written.
    pub fn command_line(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let file = |name: &str, content: &str| {
            let path = self.directory.path().join(name);
            fs::write(&path, content).map(|()| path)
        };
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .env("TIDEGATE_ADDR", &self.endpoints.quic)
            .env("TIDEGATE_ADMIN", &self.endpoints.admin)
            .env("TIDEGATE_CA", file("ca.pem", self.pki.ca_pem())?)
            .env(
                "TIDEGATE_CERT",
                file("client.pem", &self.everybody.cert_pem)?,
            )
            .env("TIDEGATE_KEY", file("client.key", &self.everybody.key_pem)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    }

    /// A client that may do everything the default grants allow.
    ///
    /// # Errors
    /// It could not connect.
    pub async fn client(&self) -> anyhow::Result<Client> {
        self.client_as(&self.everybody).await
    }

    /// A client with this certificate.
    ///
    /// # Errors
    /// It could not connect.
    pub async fn client_as(&self, identity: &TestIdentity) -> anyhow::Result<Client> {
        Ok(Client::connect(self.client_options(Some(identity))?).await?)
    }

    /// Options for a client with this certificate, or without one.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn client_options(&self, identity: Option<&TestIdentity>) -> anyhow::Result<ClientOptions> {
        let options = ClientOptions::new(&self.endpoints.quic)
            .server_name("localhost")
            .roots_pem(self.pki.ca_pem().as_bytes())?;
        Ok(match identity {
            Some(identity) => {
                options.identity_pem(identity.cert_pem.as_bytes(), identity.key_pem.as_bytes())?
            }
            None => options,
        })
    }

    /// The certificate that [`client`](Self::client) uses.
    #[must_use]
    pub fn everybody(&self) -> &TestIdentity {
        &self.everybody
    }

    /// Its admin API.
    #[must_use]
    pub fn admin(&self) -> AdminApi {
        AdminApi::new(&self.endpoints.admin)
    }

    /// Address of its QUIC listener.
    #[must_use]
    pub fn quic_addr(&self) -> &str {
        &self.endpoints.quic
    }

    /// Address of its listener for clients without a certificate, if it has one.
    #[must_use]
    pub fn anonymous_addr(&self) -> Option<&str> {
        self.endpoints.anonymous.as_deref()
    }

    /// Most memory that the process ever had resident, in bytes.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn resident_bytes_max(&self) -> anyhow::Result<u64> {
        let child = self.child.as_ref().context("the broker runs no longer")?;
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kibibytes.context("no VmHWM")?.parse::<u64>()? * 1024)
    }

    /// Bytes that its data takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        bytes_under(&self.data_directory())
    }

    /// Where its data is.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The whole log of all its processes.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What [`Setup::piped_stderr`] asked for, once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.as_mut()?.stderr.take()
    }

    /// Id of the process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        self.setup.program.clone().map_or_else(binary, Ok)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("broker.log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn config_text(&self) -> String {
        let Setup {
            config,
            grants,
            listen,
            ..
        } = &self.setup;
        format!(
            "data_dir = {:?}\n\n[listen]\nquic = {:?}\nadmin = {:?}\n{listen}\n\n{}\n{config}\n{grants}\n",
            self.data_directory(),
            self.endpoints.quic,
            admin_address(&self.endpoints.admin),
            self.tls,
        )
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's log ends with:\n{}", self.log_tail());
        }
        let _ = self.kill();
    }
}

// Test binaries are in `deps/` beside the package's binaries, its own binaries among them.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(BINARY))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{BINARY} is not beside {}; `cargo build -p tidegate-tests` makes it",
                own.display()
            )
        })
}

fn admin_address(admin: &str) -> &str {
    admin.trim_start_matches("http://")
}

/// Bytes that a directory takes on disk: blocks that are allocated, since a preallocated or sparse file's length says
/// little. What vanishes while it is looked at counts as nothing.
#[must_use]
pub fn bytes_under(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
