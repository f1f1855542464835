//! Tests of the whole.

mod command_line;
mod oracle;
mod settings;
