//! Holds the bindings that are committed to `wit/`: they are what wit-bindgen makes of it. The generator is needed for
//! this test only, so whoever builds the broker or a plugin does not compile it. A changed interface is brought in with
//! `UPDATE_GENERATED=1 cargo test -p tidegate-plugin --test generated`.

use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::{Opts, WithOption};

/// The folder of the guests that the broker's tests misuse it with.
const FORBIDDEN: &str = "../../tests/guests/forbidden-import";

#[test]
fn the_bindings_are_those_of_the_interface() {
    check(
        "src/bindings/filter.rs",
        &["../../wit"],
        "filter",
        sdk("filter"),
    );
    let shared = WithOption::Path("super::filter::tidegate::plugin::types".into());
    check(
        "src/bindings/transform.rs",
        &["../../wit"],
        "transform",
        Opts {
            with: vec![("tidegate:plugin/types@0.1.0".into(), shared)],
            ..sdk("transform")
        },
    );
    check(
        &format!("{FORBIDDEN}/src/bindings.rs"),
        &["../../wit", &format!("{FORBIDDEN}/wit")],
        "example:forbidden/nosy-filter",
        Opts {
            format: true,
            generate_all: true,
            ..Opts::default()
        },
    );
}

/// How the SDK wants the bindings of one of its worlds.
fn sdk(world: &str) -> Opts {
    Opts {
        format: true,
        pub_export_macro: true,
        export_macro_name: Some(format!("export_{world}_world")),
        default_bindings_module: Some(format!("tidegate_plugin::bindings::{world}")),
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Opts::default()
    }
}

/// Compares a committed file with what is generated of a world. All paths are relative to this crate.
fn check(committed: &str, wit: &[&str], world: &str, options: Opts) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut resolve = Resolve::default();
    let packages = wit.iter().map(|folder| {
        let (package, _) = resolve.push_path(root.join(folder)).expect("valid WIT");
        package
    });
    let packages: Vec<_> = packages.collect();
    let world = resolve.select_world(&packages, Some(world));
    let world = world.expect("the world is there");
    let mut files = Files::default();
    let mut generator = options.build();
    generator
        .generate(&mut resolve, world, &mut files)
        .expect("bindings");
    let (_, generated) = files.iter().next().expect("one file");

    let path = root.join(committed);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&path, generated).expect("a writable source");
    }
    let old = std::fs::read(&path).expect("the committed bindings");
    assert!(
        old == generated,
        "{committed} is not what the interface says: \
         UPDATE_GENERATED=1 cargo test -p tidegate-plugin --test generated"
    );
}
