//! The `pod` command: run a tree of pods, look at it, talk to it, stop it.
//!
//! Everything but `main` is in this library, so that its tests need no binary that was built by accident. It knows no
//! wire format and no table of a store: what it shows is read from committed history through `pod`.
//!
//! | to find | look in |
//! |---|---|
//! | what can be typed | `args` |
//! | what the process exits with | `exit` |
//! | one call and its four answers | `ask` |
//! | errors as people read them | `failure` |
//! | lines, tables, colour, JSON lines | `output`, `table`, `style` |
//! | what a shell offers when Tab is pressed | `complete` |
//! | history as sentences | `describe`, `entry` |
//! | a pod's output as it comes | `screen` |
//! | a subscription that broke off, and why there is none | `again` |
//! | what a parent's history says about its children | `account`, read by `follow`, shown by `live` and `results` |
//! | driving a parent and its children, and ending them | `tree`, `starting`, `stopping` |
//! | what a pod is to host, as it is typed; this program in the background | `hosted`, `background` |
//! | one file for each command | `commands` |

mod account;
mod again;
mod args;
mod ask;
mod background;
mod commands;
mod complete;
mod describe;
mod entry;
mod exit;
mod failure;
mod follow;
mod hosted;
mod live;
mod output;
mod results;
mod screen;
mod seen;
mod starting;
mod stopping;
mod style;
mod table;
mod tree;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
pub use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Runs the command that `args` say, program name first, and returns what the process is to exit with.
pub fn main_from<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    if complete::answered(&args) {
        return Exit::Ok.into();
    }
    style::decide(&args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && args.iter().any(|arg| arg == "--json") => {
            let failure = Failure::new(Exit::Usage, error.to_string().trim().trim_start_matches("error: ").to_owned());
            failure.print(true);
            return failure.exit().into();
        }
        Err(error) => {
            // `--help` and `--version` come as errors, too; they print to standard output and succeed.
            let printed = error.print();
            return if error.use_stderr() || printed.is_err() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let mut output = Output::new(cli.global.json);
    match run(&cli, &mut output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(cli.global.json);
            failure.exit().into()
        }
    }
}

fn run(cli: &Cli, output: &mut Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal("the runtime could not be started").because(error))?;
    let exit = runtime.block_on(commands::dispatch(cli, output));
    // What is still blocked by then is reading a file, and would keep the process for nothing.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match exit {
        // Whoever read our output has seen enough.
        Err(failure) if failure.is_broken_pipe() => Ok(Exit::Ok),
        other => other,
    }
}

/// What is logged if nobody says otherwise: what fails, and whoever asks what it may not, or is not who it says it is.
const LOGGED: &str = "error,pod::refused=warn,rpc::io::server=warn";

/// What the layers below log, on standard error, from here on; `RUST_LOG` says how much. To be called before
/// [`pod::host`]: a child's log is its parent's to keep.
pub fn log_to_stderr() {
    style::decide(&std::env::args_os().collect::<Vec<_>>());
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOGGED));
    // Fails if a test, or a program that embeds us, has set a subscriber: theirs is used then.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(style::on_stderr())
        .with_writer(std::io::stderr)
        .try_init();
}
