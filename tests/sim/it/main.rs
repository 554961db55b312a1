//! Whole runs of a simulated broker: of what once broke, of seeds, and of seeds once more.

mod kept;
mod planted;
mod repeats;
mod seeds;
