//! A broker of one's own, for `demo` and `bench`: this binary again as a child process with a development set-up, and the few
//! requests to its admin API that they need.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tidegate_client::ClientOptions;

use super::admin_client::{Api, ApiError};
use super::broker_child::{self, Addresses, BrokerChild, BrokerRun, data_directory};
use super::process_usage::ProcessUsage;
use crate::disk::{PEM_BYTES_MAX, read_whole};
use crate::domain::{SubscriptionInfo, SubscriptionSpec};

/// How long a broker may take until it is ready; a slow disk and a first start that makes keys included.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running broker. Dropping it kills the process; its directory is the caller's to remove.
pub(super) struct LocalBroker {
    program: PathBuf,
    directory: PathBuf,
    /// What the generated configuration ends with.
    sections: String,
    child: BrokerChild,
    addresses: Addresses,
}

impl LocalBroker {
    /// Starts a broker whose data, configuration and log live in `directory`, and waits until it is ready.
    pub(super) async fn start(directory: &Path, sections: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let run = BrokerRun {
            program: &program,
            directory,
            addresses: &Addresses::any(),
            config: sections,
            has_piped_stderr: false,
        };
        let mut child = run.spawn()?;
        Ok(Self {
            addresses: child.wait_ready(READY_WITHIN).await?,
            child,
            directory: directory.to_owned(),
            sections: sections.to_owned(),
            program,
        })
    }

    /// Kills the process without warning (SIGKILL) and waits until it is gone.
    pub(super) fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()
    }

    /// Starts it again on the same data and the same addresses, so that clients find it by themselves.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        let run = BrokerRun {
            program: &self.program,
            directory: &self.directory,
            addresses: &self.addresses,
            config: &self.sections,
            has_piped_stderr: false,
        };
        self.child = run.spawn()?;
        self.child.wait_ready(READY_WITHIN).await?;
        Ok(())
    }

    /// Address of its QUIC listener, `host:port`.
    pub(super) fn addr(&self) -> &str {
        &self.addresses.quic
    }

    /// Its admin API.
    pub(super) fn admin(&self) -> LocalAdmin {
        LocalAdmin::new(&self.addresses.admin)
    }

    /// Client options for this broker with its development certificate.
    pub(super) fn client_options(&self) -> anyhow::Result<ClientOptions> {
        client_options(self.addr(), &data_directory(&self.directory).join("pki"))
    }

    /// What the process has used since it was started. None where the system does not tell.
    pub(super) fn usage(&self) -> Option<ProcessUsage> {
        self.child.usage()
    }

    /// The end of its log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        broker_child::log_tail(&self.directory)
    }
}

/// Options for a client of the broker at `addr` with `ca.pem`, `client.pem` and `client.key` of `certs`.
pub(super) fn client_options(addr: &str, certs: &Path) -> anyhow::Result<ClientOptions> {
    let read = |name: &str| {
        let path = certs.join(name);
        read_whole(&path, PEM_BYTES_MAX).with_context(|| format!("reading {}", path.display()))
    };
    Ok(ClientOptions::new(addr)
        .server_name("localhost")
        .roots_pem(&read("ca.pem")?)?
        .identity_pem(&read("client.pem")?, &read("client.key")?)?)
}

/// The few requests to the admin API that `demo` and `bench` need, without blocking.
#[derive(Clone)]
pub(super) struct LocalAdmin(Arc<Api>);

impl LocalAdmin {
    /// A client of the plain admin API at `base`.
    pub(super) fn new(base: &str) -> Self {
        Self(Arc::new(Api::plain(base)))
    }

    /// Creates a subscription or route.
    pub(super) async fn create(&self, spec: &SubscriptionSpec) -> anyhow::Result<SubscriptionInfo> {
        let what = format!("creating `{}`", spec.name);
        let spec = spec.clone();
        let created = self.ask(move |api| api.post("/v1/subscriptions", &spec));
        created.await.context(what)
    }

    /// All subscriptions and routes.
    pub(super) async fn subscriptions(&self) -> anyhow::Result<Vec<SubscriptionInfo>> {
        self.ask(|api| api.list("/v1/subscriptions")).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Api) -> Result<T, ApiError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let api = Arc::clone(&self.0);
        Ok(tokio::task::spawn_blocking(move || ask(&api)).await??)
    }
}
