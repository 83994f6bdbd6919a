//! The `sockgate` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    sockgate::internals::main()
}
