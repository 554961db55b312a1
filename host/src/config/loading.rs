//! From a file or the text in the program to a configuration that was checked, and back to a documented file.

use std::path::{Path, PathBuf};

use super::documented_file::DEVELOPMENT;
use super::error::{ConfigError, Warning};
use super::sections::Config;
use super::{bounds, show, unknown_keys, validation};
use crate::disk::read_whole_text;

/// What a configuration may have: some thousand grants, and little enough to be refused at once when it is wrong.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// What a broker without a file runs on: the defaults, and the grants of [`DEVELOPMENT`].
    ///
    /// # Panics
    ///
    /// Never in a build whose tests pass: the text is part of the program.
    #[must_use]
    pub fn development() -> Self {
        Self::parse(DEVELOPMENT, "the embedded default").expect("a test parses the embedded text")
    }

    /// The file at `path`, or the development configuration without one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is none, has more than 1 MiB, or [`parse`](Self::parse) refuses it.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self::development());
        };
        let text = read_whole_text(path, FILE_BYTES_MAX).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads and checks `text`; keys it leaves out have their defaults, grants have none. `origin` names the
    /// text in errors.
    ///
    /// # Errors
    ///
    /// The text is no TOML, has unknown keys, values of the wrong type, or values that do not fit together.
    /// All unknown keys are told at once, and so are all bad values.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let toml_error = |error| ConfigError::Toml {
            origin: origin.to_owned(),
            error,
        };
        let unknown = unknown_keys::find(text).map_err(toml_error)?;
        ConfigError::unless_empty(origin, unknown)?;
        let wrong = bounds::broken(text).map_err(toml_error)?;
        let config: Self = match toml::from_str(text) {
            Ok(config) => config,
            // Most likely since a number does not fit, which is told better.
            Err(error) => {
                ConfigError::unless_empty(origin, wrong)?;
                return Err(toml_error(error));
            }
        };
        ConfigError::unless_empty(origin, validation::broken(&config, text, wrong))?;
        Ok(config)
    }

    /// What holds, as a documented file.
    #[must_use]
    pub fn to_documented_toml(&self) -> String {
        show::render(self)
    }

    /// Sections in which `file`, what is written now, differs from this, what holds, apart from the policy and from what the
    /// command line says.
    #[must_use]
    pub fn differing_sections(&self, file: &Self) -> Vec<String> {
        let mut file = file.clone();
        file.data_dir.clone_from(&self.data_dir);
        file.store.accept_loss = self.store.accept_loss;
        file.policy.clone_from(&self.policy);
        let table = |config| toml::Table::try_from(config).unwrap_or_default();
        let (ours, theirs) = (table(self), table(&file));
        let keys = ours.keys().chain(theirs.keys());
        let differing = keys.filter(|key| ours.get(*key) != theirs.get(*key));
        let differing: std::collections::BTreeSet<&String> = differing.collect();
        differing.into_iter().cloned().collect()
    }

    /// Things that are allowed but probably not meant, for a person.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        validation::warnings(self)
    }

    /// Where development certificates are kept.
    #[must_use]
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }
}
