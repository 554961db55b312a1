//! Harness for tests of the whole broker: the real binary in a process and a directory of its own, certificates
//! made for the test, a client of the admin API, and a client that may break the protocol. Tests live in `it/`;
//! nothing here asserts anything about the broker beyond that it starts, except the soak, which a program
//! shares with them.

mod admin;
mod broker;
mod compiled_plugins;
mod document;
mod guests;
mod large_function;
mod lasting_port;
mod pki;
mod raw_client;
mod soak;
mod terminal;
mod typed_command;
mod wait;

pub use admin::{AdminApi, AdminRefusal};
pub use broker::{BrokerProcess, Setup, bytes_under};
pub use document::{Block, Document, Link, documents, repository};
pub use guests::{example, guest};
pub use large_function::with_large_function;
pub use lasting_port::lasting_port;
pub use pki::{TestIdentity, TestPki};
pub use raw_client::{Ended, RawClient, RawStream};
pub use soak::Soak;
pub use terminal::{Said, Terminal, has_program, shows};
pub use typed_command::TypedCommand;
pub use wait::{WAIT, wait_for, within};
