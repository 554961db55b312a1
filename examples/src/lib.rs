//! Examples: publish, subscribe, plugins.
