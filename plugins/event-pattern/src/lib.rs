//! Filter plugin: JSON content patterns.
