//! The `pod` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::log_to_stderr();
    // Before anything is done: this process may have been started as somebody's child, and then it is that pod and no command.
    pod::host(&pod::Workers::builtin());
    cli::main_from(std::env::args_os())
}
