//! Holds `src/pb.rs` to the schema: it is what prost makes of `proto/tidegate.proto`. The generator is needed for this
//! test only, so whoever builds the broker does not compile it. A changed schema is brought in with
//! `UPDATE_GENERATED=1 cargo test -p tidegate-wire --test generated`.

use std::path::Path;

#[test]
fn the_message_types_are_those_of_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([root.join("proto/tidegate.proto")], [root.join("proto")])
        .expect("a valid schema");
    let folder = tempfile::tempdir().expect("a temporary directory");
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(folder.path())
        .compile_fds(descriptors)
        .expect("message types");
    let generated = folder.path().join("tidegate.v1.rs");
    let generated = std::fs::read_to_string(generated).expect("what was just generated");

    let committed = root.join("src/pb.rs");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&committed, &generated).expect("a writable source");
    }
    let committed = std::fs::read_to_string(&committed).expect("the committed types");
    assert!(
        committed == generated,
        "src/pb.rs is not what proto/tidegate.proto says: \
         UPDATE_GENERATED=1 cargo test -p tidegate-wire --test generated"
    );
}
