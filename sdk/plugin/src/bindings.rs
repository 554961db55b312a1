//! What wit-bindgen generates from `wit/`: one module per world, sharing the types. Nothing here is written by hand,
//! and authors meet it only through the SDK's own names.

/// The `filter` world.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code"
)]
pub mod filter {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "filter",
        pub_export_macro: true,
        export_macro_name: "export_filter_world",
        default_bindings_module: "tidegate_plugin::bindings::filter",
        additional_derives: [PartialEq],
    });
}

/// The `transform` world.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code"
)]
pub mod transform {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "transform",
        pub_export_macro: true,
        export_macro_name: "export_transform_world",
        default_bindings_module: "tidegate_plugin::bindings::transform",
        additional_derives: [PartialEq],
        with: { "tidegate:plugin/types@0.1.0": super::filter::tidegate::plugin::types },
    });
}
