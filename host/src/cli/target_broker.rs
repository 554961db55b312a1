//! Which broker is meant, where flags and variables do not say it themselves: that of a context, of a data directory, of the
//! development broker that started last. Its addresses and certificates are taken from there together, so that they are of the same
//! broker, and errors say where they are from.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::door::CertificateFiles;
use super::wrong_usage::wrong_usage;
use crate::config::{Context, ContextFolder, DEFAULT_CONTEXT, Endpoints};
use crate::domain::Name;
use crate::pki::DevPki;

/// Where a broker without a configuration listens, for when nothing says it.
pub(super) const ADDR: &str = "127.0.0.1:4433";
pub(super) const ADMIN: &str = "http://127.0.0.1:4480";
/// Where it keeps its data.
pub(super) const DATA_DIR: &str = "tidegate-data";

/// What was said of which broker is meant, beside its addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// By a flag.
    pub(super) context: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    /// By a variable.
    pub(super) context_variable: Option<String>,
    pub(super) data_dir_variable: Option<PathBuf>,
}

/// A broker, as far as it is known.
#[derive(Clone, Debug)]
pub(super) struct TargetBroker {
    pub(super) context: Context,
    pub(super) origin: Origin,
}

/// Where it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In a context that the user named.
    Context(String),
    /// In a data directory that was named, or is here.
    DataDir(PathBuf),
    /// In the context that a development broker wrote.
    Default(PathBuf),
    /// Nowhere.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context(name) => write!(formatter, "context `{name}`"),
            Self::DataDir(dir) => write!(formatter, "the data directory {}", dir.display()),
            Self::Default(dir) => write!(
                formatter,
                "the default context, which the broker in {} wrote",
                dir.display()
            ),
            Self::Nowhere => formatter.write_str("the default"),
        }
    }
}

impl TargetBroker {
    /// What `said` leads to: by flags, by variables, by the chosen context, by a data directory here, by the default context.
    ///
    /// # Errors
    ///
    /// There is no such context, or it leads nowhere.
    pub(super) fn find(said: &Said) -> anyhow::Result<Self> {
        let folder = ContextFolder::of_user();
        match said {
            Said {
                context: Some(name),
                ..
            } => return Self::named(&folder?, name),
            Said {
                data_dir: Some(dir),
                ..
            } => return Ok(Self::in_data_dir(dir)),
            Said {
                context_variable: Some(name),
                ..
            } => {
                return Self::named(&folder?, name).context("of TIDEGATE_CONTEXT");
            }
            Said {
                data_dir_variable: Some(dir),
                ..
            } => return Ok(Self::in_data_dir(dir)),
            _ => {}
        }
        // Who has no home has no contexts, and needs none.
        let folder = folder.ok();
        if let Some(folder) = &folder
            && let Some(current) = folder.contexts()?.current
        {
            return Self::named(folder, current.as_str());
        }
        if Endpoints::read(Path::new(DATA_DIR)).is_some() {
            return Ok(Self::in_data_dir(Path::new(DATA_DIR)));
        }
        match folder
            .map(|folder| folder.default_context())
            .transpose()?
            .flatten()
        {
            Some(context) => Self::default_one(context),
            None => Ok(Self {
                context: Context {
                    data_dir: Some(DATA_DIR.into()),
                    ..Context::default()
                },
                origin: Origin::Nowhere,
            }),
        }
    }

    fn named(folder: &ContextFolder, name: &str) -> anyhow::Result<Self> {
        if let Some(context) = folder.contexts()?.all.remove(name) {
            let origin = Origin::Context(name.to_owned());
            return Ok(Self { context, origin });
        }
        if name == DEFAULT_CONTEXT
            && let Some(context) = folder.default_context()?
        {
            return Self::default_one(context);
        }
        bail!("there is no context `{name}`; `tidegate context list` shows what there is")
    }

    fn in_data_dir(dir: &Path) -> Self {
        Self {
            context: Context {
                data_dir: Some(dir.to_owned()),
                ..Context::default()
            },
            origin: Origin::DataDir(dir.to_owned()),
        }
    }

    fn default_one(context: Context) -> anyhow::Result<Self> {
        let dir = context.data_dir.clone().unwrap_or_default();
        if Endpoints::read(&dir).is_none() {
            bail!(
                "no broker is named, and the default context is out of date: the development broker that started last had its data in {}, \
                 which is gone. Start one with `tidegate serve`, name another with --context, --data-dir or --addr and --admin, or forget \
                 that one with `tidegate context remove {DEFAULT_CONTEXT}`",
                dir.display()
            );
        }
        let origin = Origin::Default(dir);
        Ok(Self { context, origin })
    }

    /// Its QUIC listener.
    ///
    /// # Errors
    ///
    /// The context does not say.
    pub(super) fn addr(&self) -> anyhow::Result<String> {
        let named = self.context.addr.clone();
        let here = || Some(self.endpoints()?.quic_here());
        self.or_default(named.or_else(here), ADDR, "--addr")
    }

    /// Its admin API.
    ///
    /// # Errors
    ///
    /// The context does not say.
    pub(super) fn admin(&self) -> anyhow::Result<String> {
        let named = self.context.admin.clone();
        let here = || self.endpoints()?.admin_here();
        self.or_default(named.or_else(here), ADMIN, "--admin")
    }

    // What leads to one broker, or to one door of it, must not be completed by the door of another.
    fn or_default(
        &self,
        found: Option<String>,
        default: &str,
        flag: &str,
    ) -> anyhow::Result<String> {
        match (found, &self.origin) {
            (Some(found), _) => Ok(found),
            (None, Origin::Context(name)) => bail!(
                "context `{name}` does not say where this door of its broker is; say it with {flag}, or once and for all with \
                 `tidegate context add {name} --force {flag} …` and what it has already"
            ),
            (None, Origin::DataDir(dir) | Origin::Default(dir)) => bail!(
                "{} does not say where a broker listens: none has run there, it is still starting, or this door of it is closed. Start one \
                 with `tidegate serve --data-dir {0}`, wait until it serves, or say {flag}",
                dir.display()
            ),
            (None, Origin::Nowhere) => Ok(default.to_owned()),
        }
    }

    /// What proves who is who; development certificates where nothing else is said.
    ///
    /// # Errors
    ///
    /// The context does not say.
    pub(super) fn files(&self) -> anyhow::Result<CertificateFiles> {
        let Context {
            data_dir,
            ca,
            cert,
            key,
            ..
        } = self.context.clone();
        if let (Some(ca), Some(cert), Some(key)) = (ca.clone(), cert.clone(), key.clone()) {
            return Ok(CertificateFiles { ca, cert, key });
        }
        if let (None, Origin::Context(name)) = (&data_dir, &self.origin) {
            bail!("context `{name}` names no certificates; say --ca, --cert and --cert-key");
        }
        let dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
        let development = DevPki::at(&dir.join("pki"));
        Ok(CertificateFiles {
            ca: ca.unwrap_or(development.ca),
            cert: cert.unwrap_or(development.client_cert),
            key: key.unwrap_or(development.client_key),
        })
    }

    /// The same broker with certificates that were said elsewhere, as far as they were.
    pub(super) fn with_certificates(
        mut self,
        ca: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Self {
        let context = &mut self.context;
        context.ca = ca.or(context.ca.take());
        // The two belong together.
        if cert.is_some() || key.is_some() {
            (context.cert, context.key) = (cert, key);
        }
        self
    }

    // Where the broker whose data directory it is listens, or did when it last ran.
    fn endpoints(&self) -> Option<Endpoints> {
        Endpoints::read(self.context.data_dir.as_deref()?)
    }
}

/// Whether a name is free for a context of the user's.
///
/// # Errors
///
/// It is not.
pub(super) fn check_new_context(name: &Name) -> anyhow::Result<()> {
    name.check_new()?;
    if name.as_str() == DEFAULT_CONTEXT {
        wrong_usage!(
            "`{DEFAULT_CONTEXT}` is the context that `tidegate serve` writes; choose another name"
        );
    }
    Ok(())
}
