//! What runs scripted plugins, with the names of `host/src/plugin/engine.rs`. A component is a script: eight bytes as of any component,
//! then words. The first says its world, `filter` or `transform`; `compiles MS` says how long it is compiled, and any other word tells it
//! from other scripts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::PluginStartError;
use super::limits::PluginOptions;
use crate::domain::PluginWorld;

/// How a component begins.
const MAGIC_BYTES: usize = 8;
/// Time between two ticks.
const TICK: Duration = Duration::from_millis(1);

/// Nothing.
pub(super) struct Engine;

/// A script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Component {
    pub(super) world: PluginWorld,
    pub(super) compiles: Duration,
}

impl Component {
    /// The script that these bytes are.
    ///
    /// # Errors
    ///
    /// They are none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = bytes.get(MAGIC_BYTES..).map(std::str::from_utf8);
        let Some(Ok(text)) = text else {
            return Err("it is no script".to_owned());
        };
        let mut words = text.split_whitespace();
        let world = match words.next() {
            Some("filter") => PluginWorld::Filter,
            Some("transform") => PluginWorld::Transform,
            _ => return Err("it is of no world".to_owned()),
        };
        let mut compiles = Duration::ZERO;
        while let Some(word) = words.next() {
            if word == "compiles" {
                let time = words.next().and_then(|time| time.parse().ok());
                compiles = time.map(Duration::from_millis).ok_or("it lacks a time")?;
            }
        }
        Ok(Self { world, compiles })
    }
}

/// One for all plugins.
pub(super) fn engine(_options: &PluginOptions) -> Result<Engine, PluginStartError> {
    Ok(Engine)
}

/// As how many instances one of this component counts.
pub(super) fn places(_component: &Component) -> usize {
    1
}

/// Counts ticks of virtual time.
pub(super) struct Ticker {
    began: Instant,
    running: Arc<()>,
}

/// While one exists, a plugin runs.
pub(super) struct Running(#[expect(dead_code, reason = "it is there or not")] Arc<()>);

impl Ticker {
    /// From now on.
    pub(super) fn start(_engine: &Engine) -> Result<Self, PluginStartError> {
        Ok(Self {
            began: Instant::now(),
            running: Arc::default(),
        })
    }

    /// Ticks so far.
    pub(super) fn ticks(&self) -> u64 {
        let ticks = self.began.elapsed().as_nanos() / TICK.as_nanos();
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// A plugin runs while the answer lives.
    pub(super) fn running(&self) -> Running {
        Running(Arc::clone(&self.running))
    }
}
