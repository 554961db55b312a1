//! Generates the message types from `proto/tidegate.proto`, without a protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = "proto/tidegate.proto";
    println!("cargo::rerun-if-changed={schema}");
    let descriptors = protox::compile([schema], ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
