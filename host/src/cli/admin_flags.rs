//! The flags of commands that manage a broker, and the way to its admin API that they say.

use super::admin_client::Api;
use super::connection_flags::{AdminFlag, CertificateFlags};
use super::output::{Format, OutputFlags};

/// Flags of a command that manages.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ManageFlags {
    #[command(flatten)]
    pub(super) admin: AdminFlag,
    #[command(flatten)]
    pub(super) certificates: CertificateFlags,
    #[command(flatten)]
    pub(super) output: OutputFlags,
}

impl ManageFlags {
    /// The admin API that is meant.
    pub(super) fn api(&self) -> anyhow::Result<Api> {
        Api::new(&self.admin, &self.certificates)
    }

    /// How to print.
    pub(super) fn format(&self) -> Format {
        self.output.format()
    }
}
