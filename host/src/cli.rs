//! stub
pub mod bench;
pub mod demo;
pub(crate) mod local_broker;
/// stub
pub fn main() -> std::process::ExitCode { std::process::ExitCode::SUCCESS }
