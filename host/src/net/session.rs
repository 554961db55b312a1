//! Sessions: what one client and the broker say to each other over one connection, from the hello to the goodbye. Rights, limits,
//! credit, publish streams and subscribe streams are here. A session runs over the traits of [`tidegate_wire::stream`], so nothing
//! here knows which transport carries it, how the client proved who it is, or what quinn is. What is delivered to whom, and what
//! is durable, is asked of the [`Broker`](crate::broker::Broker).
//!
//! The way through the files: [`lifecycle`] runs a session, [`hello`] opens it, [`streams`] serves each of its streams, as a
//! [`publish`] stream or as a [`subscribe`] stream.

pub(super) mod account;
mod credit;
mod deliver;
mod frames;
mod hello;
pub(super) mod lifecycle;
pub(super) mod options;
mod peer;
mod publish;
pub(super) mod refusal;
pub(super) mod service;
pub(super) mod slots;
mod streams;
mod subscribe;
pub(super) mod window;

#[cfg(test)]
pub(super) mod tests;
