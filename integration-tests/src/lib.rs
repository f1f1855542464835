//! Promises kept by the whole.
