//! Sessions: what one client and the broker say to each other over one connection, from the hello to the goodbye. Rights, limits,
//! credit, publish streams and subscribe streams are here. A session runs over the traits of [`tidegate_wire::stream`], so nothing
//! here knows which transport carries it, how the client proved who it is, or what quinn is. What is delivered to whom, and what
//! is durable, is asked of the [`Broker`](crate::broker::Broker).
//!
//! The way through the files: [`lifecycle`] runs a session, [`hello`] opens it, [`stream_dispatch`] serves each of its streams,
//! as a [`publish`], a [`subscribe`] or a [`measure`] stream ([`link_tests`] says who may test), and [`shutdown`] ends it with the broker.

pub(super) mod connection_slots;
mod counters_turn;
mod credit;
pub(super) mod error_codes;
mod frames;
mod hello;
pub(super) mod known_client;
pub(super) mod lifecycle;
mod link_tests;
mod measure;
pub(super) mod memory_account;
pub(super) mod options;
mod peer;
mod publish;
pub(super) mod receive_window;
pub(super) mod service;
mod shutdown;
mod silence_watch;
mod stream_dispatch;
mod subscribe;
mod turns;

#[cfg(test)]
pub(super) mod tests;
