//! Tests of the whole.

mod backfill;
mod command_line;
mod disk_full;
mod failing_view;
mod foreign;
mod hostile;
mod import;
mod operator;
mod oracle;
mod real_data;
mod registry;
mod scenarios;
mod settings;
mod simulation;
mod stored_files;
mod takeover;
mod torture;
