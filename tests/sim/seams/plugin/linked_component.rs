//! A scripted component that can be instantiated, with the names of `host/src/plugin/linked_component.rs`, and what its instances
//! remember together.

use super::engine::{Component, Engine};
use super::error::LoadError;
use super::instance::Failures;
use crate::domain::PluginWorld;

/// A component that can be instantiated.
pub(super) struct LinkedComponent {
    pub(super) world: PluginWorld,
    pub(super) failures: Failures,
}

impl LinkedComponent {
    /// Links it.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) fn link(_engine: &Engine, component: &Component) -> Result<Self, LoadError> {
        Ok(Self {
            world: component.world,
            failures: Failures::default(),
        })
    }
}
