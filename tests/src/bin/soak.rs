//! A soak run by hand: a backlog of any size with the subscribers offline, then drained. Prints what memory and disk
//! it takes on the way. The test line has the same at 1 GiB.
//!
//! `cargo run --release -p tidegate-tests --bin soak [MEBIBYTES]`

use anyhow::Context;
use tidegate_tests::Soak;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mebibytes: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the size of the backlog in MiB")?,
        None => 1_024,
    };
    let soak = Soak {
        backlog_bytes: mebibytes << 20,
        event_bytes: 1_024,
        subscriptions: 2,
    };
    soak.run().await
}
