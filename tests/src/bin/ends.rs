//! Begins and ends many children, and says what each costs and whether anything of them is left.
//!
//! What it takes and what its exit code means is in [`USAGE`].
#![allow(clippy::print_stdout, reason = "a command prints")]

use std::process::ExitCode;

use tests::drive::many;

const USAGE: &str = "\
Begins and ends many children of one parent, and prints what each costs.

usage: ends [--sequential N] [--children N] [--depth N [--rounds N]] [--burst N]

  --sequential N  N short children one after another (10 000 on record)
  --children N    N children of one parent that live at once (1 000)
  --depth N       a chain of N pods, each the child of the last (32)
  --rounds N      grow and end the chain so often (5): fewer are no percentiles
  --burst N       N children that are killed in the same instant (64)
  --help          print this

Without any: --sequential 200 --children 32 --depth 32 --burst 64. A line on standard error every 10 s says how far it is. Times are those of the machine as it is.
Needs the program `host_pod` beside itself: cargo build --release -p tests --bins.

Exit code 0: each life has one terminal event, the one that it should have; no descriptor, process or zombie is left.
1: not so. 2: wrong arguments.";

#[derive(Clone, Copy)]
enum Mode {
    Sequential,
    Children,
    Depth,
    Burst,
}

fn main() -> ExitCode {
    let (modes, rounds) = match tests::drive::arguments(USAGE, parse) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let program = match tests::drive::program() {
        Ok(program) => program,
        Err(exit) => return exit,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut good = true;
    for (mode, count) in modes {
        let measured = async {
            match mode {
                Mode::Sequential => ("one after another", many::sequential(&program, count).await),
                Mode::Children => ("beside each other", many::beside(&program, count).await),
                Mode::Depth => ("below each other", many::below(&program, count, rounds).await),
                Mode::Burst => ("killed in the same instant", many::burst(&program, count).await),
            }
        };
        // CANCEL SAFETY: what is left half done is ended with its world.
        let measured = runtime.block_on(async {
            tokio::select! {
                measured = measured => Some(measured),
                () = tests::drive::interrupted() => None,
            }
        });
        let Some((what, ends)) = measured else {
            println!("interrupted");
            return ExitCode::FAILURE;
        };
        match ends {
            Ok(ends) => {
                println!("{what}: {ends}");
                ends.wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
                good &= ends.wrong.is_empty();
            }
            Err(error) => {
                println!("{what}: {error}");
                good = false;
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is measured, each with its number, and how many rounds of it.
type Asked = (Vec<(Mode, usize)>, usize);

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Asked>, String> {
    let (mut modes, mut rounds) = (Vec::new(), 5);
    while let Some(name) = arguments.next() {
        let mode = match name.as_str() {
            "--sequential" => Some(Mode::Sequential),
            "--children" => Some(Mode::Children),
            "--depth" => Some(Mode::Depth),
            "--burst" => Some(Mode::Burst),
            "--rounds" => None,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("`{other}` is no argument")),
        };
        let value = arguments.next().ok_or(format!("`{name}` needs a number"))?;
        match value.parse() {
            Ok(count @ 1..=10_000) => match mode {
                Some(mode) => modes.push((mode, count)),
                None => rounds = count,
            },
            _ => return Err(format!("`{value}` is no number from 1 to 10000")),
        }
    }
    if modes.is_empty() {
        modes = vec![(Mode::Sequential, 200), (Mode::Children, 32), (Mode::Depth, 32), (Mode::Burst, 64)];
    }
    Ok(Some((modes, rounds)))
}
