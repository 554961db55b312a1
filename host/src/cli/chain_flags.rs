//! The flags of a filter and transform chain: `--filter` and `--transform` in any number, each followed by
//! flags about it. Their order matters, which is why they are read from the matches by hand.

use std::fs::File;
use std::io;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::human_values;
use crate::disk;
use crate::domain::{FailurePolicy, PluginPatch, PluginUse};
use crate::plugin::CONFIG_BYTES_MAX;

const FILTER: &str = "filter";
const TRANSFORM: &str = "transform";
const CONFIG: &str = "config";
const ON_FAILURE: &str = "on-failure";

/// Filters and transforms in the order they were given, each with what was said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) filters: Vec<PluginPatch>,
    pub(super) transforms: Vec<PluginPatch>,
}

impl Chain {
    /// Filters and transforms that are not there yet.
    pub(super) fn of_new(self) -> (Vec<PluginUse>, Vec<PluginUse>) {
        let new = |plugins: Vec<PluginPatch>| {
            let uses = plugins.into_iter().map(|plugin| plugin.in_place_of(None));
            uses.collect()
        };
        (new(self.filters), new(self.transforms))
    }

    /// The same with every `@FILE` replaced by what is in the file.
    ///
    /// # Errors
    ///
    /// A file cannot be read as text.
    pub(super) fn with_files_read(mut self) -> anyhow::Result<Self> {
        for plugin in self.filters.iter_mut().chain(&mut self.transforms) {
            let config = plugin.config.as_deref();
            if let Some(path) = config.and_then(|config| config.strip_prefix('@')) {
                plugin.config = Some(read_config(path).map_err(|error| {
                    anyhow::anyhow!(
                        "cannot read the configuration of {} from {path}: {error}",
                        plugin.plugin
                    )
                })?);
            }
        }
        Ok(self)
    }
}

// Of any kind of file, also one that a program makes as it is read, and no more than any plugin takes.
fn read_config(path: &str) -> io::Result<String> {
    disk::text(disk::read_up_to(
        File::open(path)?,
        CONFIG_BYTES_MAX as u64,
    )?)
}

impl clap::Args for Chain {
    fn augment_args(command: Command) -> Command {
        let flag = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name(value)
                .help(help)
                .action(ArgAction::Append)
                .help_heading("Plugins")
        };
        command
            .arg(flag(
                FILTER,
                "PLUGIN[=CONFIG]",
                "Pass only events this plugin selects; =@FILE reads the configuration from a file. Repeatable: \
                 all must pass",
            ))
            .arg(flag(
                TRANSFORM,
                "PLUGIN[=CONFIG]",
                "Pass events through this plugin, after the filters. Repeatable: one after the other",
            ))
            .arg(
                flag(CONFIG, "CONFIG|@FILE", "Configuration of the --filter or --transform before it")
                    .visible_aliases(["filter-config", "transform-config"]),
            )
            .arg(flag(
                ON_FAILURE,
                "POLICY",
                "What happens to an event the plugin before it fails on: dead-letter (default), drop, pass or pause",
            ))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Chain {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut chain = Self::default();
        // Which list the last plugin went to; flags about a plugin follow it.
        let mut last_is_filter = None;
        for (flag, value) in in_order(matches) {
            let list = match flag {
                FILTER | TRANSFORM => {
                    last_is_filter = Some(flag == FILTER);
                    let list = if flag == FILTER {
                        &mut chain.filters
                    } else {
                        &mut chain.transforms
                    };
                    list.push(plugin_use(value)?);
                    continue;
                }
                _ => match last_is_filter {
                    Some(true) => &mut chain.filters,
                    Some(false) => &mut chain.transforms,
                    None => {
                        return Err(usage(format!(
                            "--{flag} must follow the --filter or --transform it is about"
                        )));
                    }
                },
            };
            let Some(plugin) = list.last_mut() else {
                continue;
            };
            match flag {
                CONFIG if plugin.config.as_ref().is_none_or(String::is_empty) => {
                    plugin.config = Some(value.to_owned());
                }
                CONFIG => {
                    return Err(usage(format!(
                        "`{}` has a configuration already: --{flag} {value}",
                        plugin.plugin
                    )));
                }
                _ => {
                    let policy = human_values::word::<FailurePolicy>(value)
                        .map_err(|error| usage(format!("--{flag} {value}: {error}")))?;
                    plugin.on_failure = Some(policy);
                }
            }
        }
        Ok(chain)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn in_order(matches: &ArgMatches) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    for flag in [FILTER, TRANSFORM, CONFIG, ON_FAILURE] {
        let indices = matches.indices_of(flag).into_iter().flatten();
        let values = matches.get_many::<String>(flag).into_iter().flatten();
        found.extend(
            indices
                .zip(values)
                .map(|(index, value)| (index, flag, value.as_str())),
        );
    }
    found.sort_unstable_by_key(|(index, ..)| *index);
    found
        .into_iter()
        .map(|(_, flag, value)| (flag, value))
        .collect()
}

fn plugin_use(text: &str) -> Result<PluginPatch, clap::Error> {
    let (plugin, config) = match text.split_once('=') {
        Some((plugin, config)) => (plugin, Some(config.to_owned())),
        None => (text, None),
    };
    if plugin.is_empty() {
        return Err(usage(format!("`{text}` names no plugin")));
    }
    let mut patch = PluginPatch::new(plugin);
    patch.config = config;
    Ok(patch)
}

/// This plugin in its newest version, with this configuration.
pub(super) fn plugin_named(name: &str, config: &str) -> PluginUse {
    PluginUse {
        plugin: name.to_owned(),
        config: config.to_owned(),
        digest: None,
        on_failure: FailurePolicy::default(),
    }
}

fn usage(message: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, message)
}
