//! Holds code that generators made, and that is committed, to its sources: the messages to the schema of the wire, the
//! bindings to `wit/`. The generators are needed here only, so whoever builds the broker, a client or a plugin does not compile them.
//! A changed source is brought in with `UPDATE_GENERATED=1 cargo test -p tidegate-tests --test it generated`.

use std::fs;
use std::path::{Path, PathBuf};

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::{Opts, WithOption};

/// The guest that asks for what no plugin gets.
const FORBIDDEN: &str = "tests/guests/forbidden-import";

#[test]
fn messages_are_those_of_the_schema() {
    let wire = root().join("sdk/wire");
    let descriptors = protox::compile([wire.join("proto/tidegate.proto")], [wire.join("proto")])
        .expect("a valid schema");
    let folder = tempfile::tempdir().expect("a temporary directory");
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(folder.path())
        .compile_fds(descriptors)
        .expect("message types");
    let generated =
        fs::read(folder.path().join("tidegate.v1.rs")).expect("what was just generated");
    compare("sdk/wire/src/pb.rs", &generated);
}

#[test]
fn bindings_are_those_of_the_interface() {
    bindings(
        "sdk/plugin/src/bindings/filter.rs",
        &["wit"],
        "filter",
        sdk("filter"),
    );
    let shared = WithOption::Path("super::filter::tidegate::plugin::types".into());
    bindings(
        "sdk/plugin/src/bindings/transform.rs",
        &["wit"],
        "transform",
        Opts {
            with: vec![("tidegate:plugin/types@0.1.0".into(), shared)],
            ..sdk("transform")
        },
    );
    bindings(
        &format!("{FORBIDDEN}/src/bindings.rs"),
        &["wit", &format!("{FORBIDDEN}/wit")],
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

fn bindings(committed: &str, wit: &[&str], world: &str, options: Opts) {
    let mut resolve = Resolve::default();
    let packages = wit.iter().map(|folder| {
        let (package, _) = resolve.push_path(root().join(folder)).expect("valid WIT");
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
    compare(committed, generated);
}

/// Compares a committed file, named from the workspace's folder, with what its source makes; or brings that in, where asked to.
fn compare(committed: &str, generated: &[u8]) {
    let path = root().join(committed);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, generated).expect("a writable source");
    }
    let old = fs::read(&path).expect("the committed code");
    assert!(
        old == generated,
        "{committed} is not what its source says: \
         UPDATE_GENERATED=1 cargo test -p tidegate-tests --test it generated"
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
