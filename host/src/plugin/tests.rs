//! Guests that behave and guests that do not.
