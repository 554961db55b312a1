//! Tests of the subscription's state.
