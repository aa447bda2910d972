//! `pod man`: the manual, a page for each command, made from what can be typed.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_mangen::Man;
use serde::Serialize;

use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// `pod man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write all pages into DIR, which is made if need be
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Page {
    r#type: &'static str,
    page: String,
    /// Where it was written; its text, if nowhere.
    path: Option<PathBuf>,
    text: Option<String>,
}

pub(crate) fn man(args: &ManArgs, output: &mut Output) -> Result<Exit, Failure> {
    let pages = pages().map_err(|error| Failure::internal("the manual could not be made").because(error))?;
    match &args.out {
        Some(dir) => {
            write_all(dir, &pages)?;
            for (page, _) in &pages {
                let path = Some(dir.join(page));
                output.record(&Page { r#type: "man", page: page.clone(), path, text: None })?;
            }
            output.line(format!(
                "{} pages in {}; try `man -l {}`",
                pages.len(),
                dir.display(),
                dir.join("pod.1").display()
            ))?;
        }
        None if output.is_json() => {
            for (page, text) in pages {
                output.record(&Page { r#type: "man", page, path: None, text: Some(text) })?;
            }
        }
        None => {
            let page = pages.iter().find(|(page, _)| page == "pod.1").map(|(_, text)| text.as_str());
            output.raw(page.unwrap_or_default())?;
        }
    }
    Ok(Exit::Ok)
}

fn write_all(dir: &Path, pages: &[(String, String)]) -> Result<(), Failure> {
    let failed = |path: &Path, error| {
        Failure::usage(format!("`{}` cannot be written; name another directory", path.display())).because(error)
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    for (page, text) in pages {
        let path = dir.join(page);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// Name and text of each page, `pod.1` last.
fn pages() -> std::io::Result<Vec<(String, String)>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages)?;
    Ok(pages)
}

fn add(command: &clap::Command, pages: &mut Vec<(String, String)>) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add(below, pages)?;
    }
    let man = Man::new(command.clone()).manual("Pods").source(concat!("pod ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    pages.push((man.get_filename(), String::from_utf8_lossy(&text).into_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_says_what_it_does_and_what_it_takes() {
        let pages = pages().unwrap();
        let command = Cli::command();
        let commands: Vec<_> = command.get_subcommands().collect();
        assert_eq!(pages.len(), commands.len() + 1, "a page for each command, and one for all of them");
        let marks = [("\\-", "-"), ("\\*(Aq", "'"), ("\\fB", ""), ("\\fI", ""), ("\\fR", "")];
        let plain = |text: &str| marks.iter().fold(text.to_owned(), |text, (mark, plain)| text.replace(mark, plain));
        for command in commands {
            let name = format!("pod-{}.1", command.get_name());
            let (_, text) = pages.iter().find(|(page, _)| *page == name).unwrap_or_else(|| panic!("no page {name}"));
            let text = plain(text);
            let about = command.get_about().unwrap_or_else(|| panic!("`{name}` says nothing")).to_string();
            for words in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", &about] {
                assert!(text.contains(words), "`{words}` is not in {name}: {text}");
            }
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(clap::Arg::get_long) {
                assert!(text.contains(&format!("--{arg}")), "--{arg} is not in {name}");
            }
        }
        let (last, text) = pages.last().unwrap();
        assert_eq!(last, "pod.1");
        assert!(plain(text).contains("pod-rewind(1)") && text.contains("Exit codes"), "{text}");
    }
}
