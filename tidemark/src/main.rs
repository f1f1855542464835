//! The `tidemark` binary.

use std::process::ExitCode;

mod allocator;

fn main() -> ExitCode {
    tidemark::command_line::main()
}
