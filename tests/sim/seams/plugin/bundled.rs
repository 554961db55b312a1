//! The plugins that come with the simulated broker: none.

/// A plugin that comes with the binary.
#[derive(Clone, Copy, Debug)]
pub struct BundledPlugin {
    /// Its name.
    pub name: &'static str,
    /// Its component.
    pub bytes: &'static [u8],
}

/// All of them.
#[must_use]
pub fn bundled() -> Vec<BundledPlugin> {
    Vec::new()
}
