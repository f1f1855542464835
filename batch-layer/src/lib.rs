//! The batch layer: archive to generations.
