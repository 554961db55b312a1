//! The plugins that come with the binary: components that the build script makes of the sources in `plugins/`.

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
    vec![
        BundledPlugin {
            name: "event-pattern",
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_event_pattern.wasm")),
        },
        BundledPlugin {
            name: "json-reshape",
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_json_reshape.wasm")),
        },
    ]
}
