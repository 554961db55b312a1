//! How events that a subscription was found to want leave it: to a consumer, to the topics of a route, or to the dead-letter
//! topic. Which events these are was decided before.

mod chains;
pub(super) mod consumer;
pub(super) mod dead_letters;
pub(super) mod lease;
mod leased;
pub(super) mod parts;
pub(super) mod routes;
mod standing;
#[cfg(test)]
mod tests;
mod transform;

pub(super) use self::chains::TransformChains;
