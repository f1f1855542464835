//! The one binary: settings, wiring, subcommands.
