//! Whole runs of a simulated broker: of what once broke, of seeds, and of seeds once more.

mod kept;
mod repeats;
mod seeds;
