//! What the broker keeps of plugins: their bytes by digest, the uploads that are under way, what becomes of both, and a word about
//! bounds that are reached. How a plugin runs is not known here.

pub(super) mod files;
pub(super) mod limit_conditions;
mod startup;
pub(super) mod store;
pub(super) mod uploads;
