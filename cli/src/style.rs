//! Colour: whether it is wanted, and how it is written.
//!
//! `--color` decides; without it the terminal and the conventions that people know: `NO_COLOR` (no-color.org),
//! `CLICOLOR`, `CLICOLOR_FORCE` (bixense.com/clicolors) and `TERM=dumb`. Said once, at the start, so that help, errors
//! and output agree.

use std::ffi::OsString;
use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// When colour is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless the environment says otherwise
    #[default]
    Auto,
    /// Also in a file or a pipe
    Always,
    /// Nowhere
    Never,
}

/// What a piece of text means; a colour on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    /// Not wrong yet.
    Doubtful,
    Faint,
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Faint => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        }
    }

    /// `text` in this tone.
    pub(crate) fn paint(self, text: &str) -> String {
        let style = self.style();
        format!("{style}{text}{style:#}")
    }
}

/// Says for this process what `--color` in `args` says. Before they are parsed: an error in them is coloured, too.
pub(crate) fn decide(args: &[OsString]) {
    let mut args = args.iter().map(|arg| arg.to_string_lossy()).take_while(|arg| arg != "--");
    let mut wanted = Color::Auto;
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix("--color") {
            Some("") => args.next().map(|value| value.into_owned()),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        // A value that is none is refused when the line is parsed.
        if let Some(color) = value.and_then(|value| Color::from_str(&value, true).ok()) {
            wanted = color;
        }
    }
    let choice = match wanted {
        // Said here: where `CI` is set, the library takes any terminal for one with colours.
        Color::Auto if is_dumb() && !is_forced() => ColorChoice::Never,
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::AlwaysAnsi,
        Color::Never => ColorChoice::Never,
    };
    choice.write_global();
}

fn is_forced() -> bool {
    std::env::var_os("CLICOLOR_FORCE").is_some_and(|force| force != "0")
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether standard output takes colour.
pub(crate) fn on_stdout() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Whether standard error does.
pub(crate) fn on_stderr() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_are_told_apart_and_end_where_their_text_ends() {
        let tones = [Tone::Good, Tone::Bad, Tone::Doubtful, Tone::Faint, Tone::Strong];
        for (index, tone) in tones.iter().enumerate() {
            let text = tone.paint("x");
            assert!(text.starts_with("\u{1b}[") && text.ends_with("x\u{1b}[0m"), "{text:?}");
            assert!(tones[..index].iter().all(|other| other.paint("x") != text), "{tone:?}");
        }
        assert_eq!(Tone::Plain.paint("x"), "x");
    }
}
