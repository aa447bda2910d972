//! Drives trees of real pods through faults, and hands what they leave behind to the checker.
//!
//! What is done follows from a seed; what comes of it also depends on the machine, so that a failure names its seed and
//! is looked for again, not replayed to the instruction. Touches nothing but the processes of its own tree, and these
//! by pidfd.
//!
//! `tree` is the tree and what can be done to it, `matrix` one run for each place at which something can die, `plan` and
//! `soak` random faults for a while, `figures` what is printed. Used by the binaries `kills` and `soak` and by `it`.

use std::path::PathBuf;
use std::process::ExitCode;

mod figures;
pub mod many;
mod matrix;
mod plan;
mod soak;
mod tree;

pub use self::figures::Figures;
pub use self::matrix::{Cell, How, Outcome, PLACES, Place, Side, Who, cells, run};
pub use self::plan::{Action, Plan, Shape};
pub use self::soak::{Done, Soak, soak};
pub use self::tree::{Armed, ROOT, Rest, Tree};

/// The program that pods are started from: `host_pod`, beside the binary that runs.
///
/// # Errors
/// It is not there, and how to build it was printed: what this process is to end with.
#[allow(clippy::print_stdout, reason = "for binaries, whose answer it is")]
pub fn program() -> Result<PathBuf, ExitCode> {
    let own = std::env::current_exe();
    let program = own.map(|own| own.with_file_name("host_pod")).unwrap_or_else(|_| PathBuf::from("host_pod"));
    if program.is_file() {
        return Ok(program);
    }
    println!("`{}` is missing; build it with: cargo build --release -p tests --bins", program.display());
    Err(ExitCode::from(2))
}

/// What the words of the command line say, as `parse` reads them; `None` of it is a wish for help.
///
/// # Errors
/// The usage was printed, with what is wrong if anything is: what this process is to end with.
#[allow(clippy::print_stdout, reason = "for binaries, whose answer it is")]
pub fn arguments<T>(
    usage: &str,
    parse: impl FnOnce(std::iter::Skip<std::env::Args>) -> Result<Option<T>, String>,
) -> Result<T, ExitCode> {
    match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => Ok(arguments),
        Ok(None) => {
            println!("{usage}");
            Err(ExitCode::SUCCESS)
        }
        Err(wrong) => {
            println!("{wrong}\n\n{usage}");
            Err(ExitCode::from(2))
        }
    }
}

/// Resolves when this process is told to end, by a terminal or a signal. Must be called within a tokio runtime.
///
/// # Panics
/// If signals cannot be heard.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be heard");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be heard");
    let mut hangup = signal(SignalKind::hangup()).expect("SIGHUP can be heard");
    // CANCEL SAFETY: waiting changes nothing.
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
}
