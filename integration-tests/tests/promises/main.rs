//! Tests of the whole.

mod command_line;
mod settings;
