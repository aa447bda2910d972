//! An error as a person reads it: what, because of what, and what to do.
//!
//! Printed once, at the end of the process, with its whole chain of sources. Holds the exit code, so that no command
//! prints and exits by itself.

use std::error::Error;
use std::io::{self, Write};

use crate::exit::Exit;
use crate::style::{self, Tone};

/// Why a command ended otherwise than it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    broken_pipe: bool,
    /// The same for programs, beside the words.
    rejection: Option<serde_json::Value>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None, broken_pipe: false, rejection: None }
    }

    /// The command line, or what it names, is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// An error that says all by itself, with its sources.
    pub(crate) fn from_error(exit: Exit, error: impl Error + Send + Sync + 'static) -> Self {
        let chain = Chain::below(&error);
        let source = chain.map(|chain| Box::new(chain) as Box<dyn Error + Send + Sync>);
        Self { exit, message: error.to_string(), source, broken_pipe: false, rejection: None }
    }

    /// Standard output did not take what we wrote.
    pub(crate) fn output(error: io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { broken_pipe, ..Self::internal("standard output cannot be written").because(error) }
    }

    /// The same, because of `error`.
    pub(crate) fn because(mut self, error: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(error));
        self
    }

    /// The same, as what it means for the command.
    pub(crate) fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The same, with the pod's own word, for whoever reads JSON.
    pub(crate) fn with_rejection(self, rejection: Option<serde_json::Value>) -> Self {
        Self { rejection, ..self }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What went wrong, without its causes.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }

    /// What caused it, outermost first; nothing that says again what stands before it.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut before = self.message.clone();
        let mut next = self.source.as_deref().map(|source| source as &(dyn Error + 'static));
        while let Some(error) = next {
            let text = error.to_string();
            if !before.contains(&text) {
                causes.push(text.clone());
                before = text;
            }
            next = error.source();
        }
        causes
    }

    /// All of it in one line, as a part of something else that is said.
    pub(crate) fn in_one_line(&self) -> String {
        let causes = self.causes().into_iter().map(|cause| format!(": {cause}"));
        format!("{}{}", self.message, causes.collect::<String>())
    }

    /// Prints it on standard error: sentences, or one line of JSON.
    pub(crate) fn print(&self, json: bool) {
        let mut stderr = io::stderr().lock();
        // Whom could we tell that this cannot be written?
        let _ = if json {
            let mut line = serde_json::json!({
                "type": "error",
                "exit": self.exit.code(),
                "error": self.message,
                "causes": self.causes(),
            });
            if let (Some(rejection), Some(line)) = (&self.rejection, line.as_object_mut()) {
                line.insert("rejection".to_owned(), rejection.clone());
            }
            writeln!(stderr, "{line}")
        } else {
            let causes = self.causes().into_iter().map(|cause| format!("\n  because: {cause}"));
            let error = if style::on_stderr() { Tone::Bad.paint("error:") } else { "error:".to_owned() };
            writeln!(stderr, "{error} {}{}", self.message, causes.collect::<String>())
        };
    }
}

/// The sources of an error that is itself not kept.
#[derive(Debug)]
struct Chain {
    text: String,
    source: Option<Box<Self>>,
}

impl Chain {
    fn below(error: &(dyn Error + 'static)) -> Option<Self> {
        let source = error.source()?;
        Some(Self { text: source.to_string(), source: Self::below(source).map(Box::new) })
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Chain {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Self>>);

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as _)
        }
    }

    fn layers() -> Layer {
        Layer("opening", Some(Box::new(Layer("disk", Some(Box::new(Layer("bit", None)))))))
    }

    #[test]
    fn chain_is_told_whole_and_each_part_once() {
        assert_eq!(Failure::from_error(Exit::Usage, layers()).causes(), ["disk", "bit"]);
        assert_eq!(Failure::internal("x").because(layers()).causes(), ["opening", "disk", "bit"]);
        assert_eq!(Failure::internal("failed: opening").because(layers()).causes(), ["disk", "bit"]);
    }
}
