//! The speed layer: tail of the log to deltas.
