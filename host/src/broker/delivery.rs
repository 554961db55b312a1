//! How events that a subscription was found to want leave it: to a consumer, to the topics of a route, or to the dead-letter
//! topic. Which events these are was decided before.

pub(super) mod consumer;
pub(super) mod dead_letters;
pub(super) mod routes;
pub(super) mod standing;
pub(super) mod transform;
