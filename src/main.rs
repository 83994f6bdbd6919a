//! The `sockgate` program.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// It gives back what a crowd took within seconds after the crowd has left, where that of glibc keeps it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    sockgate::internals::main()
}
