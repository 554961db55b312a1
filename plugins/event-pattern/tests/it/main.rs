//! Conformance and agreement tests of the pattern language, through the public interface.
