//! The broker as a process: started on free ports in a directory of its own, killed, stopped, started again, and
//! ended with the test however that goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tidegate::cli::broker_child::{self, Addresses, BrokerChild, BrokerRun};
use tidegate_client::{Client, ClientOptions};

use crate::compiled_plugins;
use crate::{AdminApi, TestIdentity, TestPki, WAIT, lasting_port, wait_for};

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
    /// It makes its certificates itself, as it does for development, and keeps them in its data directory.
    pub development_certificates: bool,
    /// Its standard error is a pipe that nobody reads, unless the test does; else it is the log that failures show.
    pub piped_stderr: bool,
    /// Its ports are none that one of very many clients may be given while it is away. The system chooses them by default.
    pub lasting_ports: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: String::new(),
            grants: GRANT_ALL.to_owned(),
            listen: String::new(),
            program: None,
            parent: None,
            development_certificates: false,
            piped_stderr: false,
            lasting_ports: false,
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

/// A running broker. Dropping it kills the process and removes its directory.
pub struct BrokerProcess {
    /// Issues certificates that this broker accepts.
    pub pki: TestPki,
    everybody: TestIdentity,
    setup: Setup,
    tls: String,
    addresses: Addresses,
    child: Option<BrokerChild>,
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
        let tls = match setup.development_certificates {
            true => String::new(),
            false => pki.write_server_files(&directory.path().join("certs"))?,
        };
        let addresses = match setup.lasting_ports {
            true => lasting_addresses()?,
            false => Addresses::any(),
        };
        let mut broker = Self {
            everybody: pki.client("everybody")?,
            pki,
            setup,
            tls,
            addresses,
            child: None,
            directory,
        };
        // Another program than this package's own is measured or compared, and shall do all of its work.
        let own = broker.setup.program.is_none().then(binary).transpose()?;
        let cache = broker.data_directory().join("plugin-cache");
        if let Some(own) = &own {
            compiled_plugins::lend(own, &cache)?;
        }
        broker.restart().await?;
        if let Some(own) = &own {
            compiled_plugins::keep(own, &cache)?;
        }
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
        self.child = Some(self.with_run(|run| run.spawn())?);
        Ok(())
    }

    /// Waits until the broker that was spawned serves.
    ///
    /// # Errors
    /// It ended, or was not ready in time.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let child = self.child.as_mut();
        let child = child.context("the broker was not started")?;
        self.addresses = child.wait_ready(WAIT).await?;
        Ok(())
    }

    /// Other grants from the next start on, or from when it is told to read them.
    pub fn set_grants(&mut self, text: impl Into<String>) {
        self.setup.grants = text.into();
    }

    /// Other sections of the configuration from the next start on.
    pub fn set_config(&mut self, text: impl Into<String>) {
        self.setup.config = text.into();
    }

    /// Writes its configuration with the grants that were set, and tells it to read them (SIGHUP). Does not wait for that.
    ///
    /// # Errors
    /// It does not run, or the file cannot be written.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the broker does not run")?;
        self.with_run(|run| run.write_config("tidegate.toml"))?;
        child.signal(Signal::HUP)
    }

    /// Kills the process without warning (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// Waiting for it failed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
        }
        Ok(())
    }

    /// Asks the process to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It runs no longer, or did not stop in time.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_ref().context("the broker runs no longer")?;
        child.signal(Signal::TERM)?;
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
            Some(child) => child.try_wait(),
            None => bail!("the broker was not started"),
        }
    }

    /// Starts a second broker on the same directory, waits until it ends, and returns how, with its output.
    ///
    /// # Errors
    /// It could not be run.
    pub async fn second_on_same_directory(&self) -> anyhow::Result<std::process::Output> {
        let mut command = self.with_run(|run| {
            let second = BrokerRun {
                addresses: &Addresses::any(),
                ..run.clone()
            };
            let config = second.write_config("second.toml")?;
            Ok(second.command(&config))
        })?;
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
            .env_remove("TIDEGATE_CONTEXT")
            .env_remove("TIDEGATE_DATA_DIR")
            .env("XDG_CONFIG_HOME", self.directory.path())
            .env("TIDEGATE_ADDR", &self.addresses.quic)
            .env("TIDEGATE_ADMIN", &self.addresses.admin)
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
        self.client_options_at(&self.addresses.quic, identity)
    }

    /// The same for a client that reaches it at another address.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn client_options_at(
        &self,
        address: &str,
        identity: Option<&TestIdentity>,
    ) -> anyhow::Result<ClientOptions> {
        let options = ClientOptions::new(address)
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

    /// Base of its admin API.
    #[must_use]
    pub fn admin_url(&self) -> &str {
        &self.addresses.admin
    }

    /// The folder that has its configuration, log and data directory, and is the configuration folder of whoever runs it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its admin API.
    #[must_use]
    pub fn admin(&self) -> AdminApi {
        AdminApi::new(&self.addresses.admin)
    }

    /// Address of its QUIC listener.
    #[must_use]
    pub fn quic_addr(&self) -> &str {
        &self.addresses.quic
    }

    /// Address of its listener for clients without a certificate, if it has one.
    #[must_use]
    pub fn anonymous_addr(&self) -> Option<&str> {
        self.addresses.anonymous.as_deref()
    }

    /// Most memory that the process ever had resident, in bytes.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn resident_bytes_max(&self) -> anyhow::Result<u64> {
        let usage = self.child.as_ref().and_then(BrokerChild::usage);
        Ok(usage
            .context("the broker runs no longer")?
            .resident_bytes_max)
    }

    /// Bytes that its data takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        bytes_under(&self.data_directory())
    }

    /// Where its data is.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        broker_child::data_directory(self.directory.path())
    }

    /// The whole log of all its processes.
    #[must_use]
    pub fn log(&self) -> String {
        broker_child::log(self.directory.path())
    }

    /// What [`Setup::piped_stderr`] asked for, once.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.as_mut()?.take_stderr()
    }

    /// Id of the process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(BrokerChild::pid)
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        self.setup.program.clone().map_or_else(binary, Ok)
    }

    // How its process is run.
    fn with_run<T>(
        &self,
        use_it: impl FnOnce(&BrokerRun<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Setup {
            config,
            grants,
            listen,
            ..
        } = &self.setup;
        use_it(&BrokerRun {
            program: &self.program()?,
            directory: self.directory.path(),
            addresses: &self.addresses,
            config: &format!("{listen}\n\n{}\n{config}\n{grants}\n", self.tls),
            has_piped_stderr: self.setup.piped_stderr,
        })
    }
}

fn lasting_addresses() -> anyhow::Result<Addresses> {
    Ok(Addresses {
        quic: format!("127.0.0.1:{}", lasting_port()?),
        anonymous: None,
        admin: format!("http://127.0.0.1:{}", lasting_port()?),
    })
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the broker's log ends with:\n{}",
                broker_child::log_tail(self.directory.path())
            );
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
