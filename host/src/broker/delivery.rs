//! How events that a subscription was found to want leave it: to a consumer, to the topics of a route, or to the dead-letter
//! topic. Which events these are was decided before.

pub(super) mod consumer;
pub(super) mod context;
pub(super) mod dead_letters;
pub(super) mod fetcher;
mod leased_events;
pub(super) mod letter_headers;
mod route_rights;
pub(super) mod routes;
#[cfg(test)]
mod tests;
mod transform_cache;
mod transform_chain;
mod unreadable_in_hand;

pub(super) use self::transform_cache::TransformCache;
