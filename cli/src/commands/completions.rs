//! `pod completions`: what a shell must run to know the words of the command line and the names of pods.

use std::path::Path;

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use serde::Serialize;

use crate::complete::script;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// `pod completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Serialize)]
struct Script {
    r#type: &'static str,
    shell: String,
    script: String,
}

pub(crate) fn completions(args: &CompletionsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let script = script(shell, &program())
        .map_err(|error| Failure::internal("the completion script could not be made").because(error))?;
    if output.is_json() {
        output.record(&Script { r#type: "completions", shell: shell.name().to_owned(), script })?;
    } else {
        output.raw(&script)?;
    }
    Ok(Exit::Ok)
}

/// The program as it was called; with a path, made absolute, for a shell that will be elsewhere.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| "pod".into());
    let path = Path::new(&called);
    let path = if path.components().count() > 1 { std::path::absolute(path) } else { Ok(path.to_owned()) };
    path.map_or_else(|_| "pod".to_owned(), |path| path.to_string_lossy().into_owned())
}
