//! Descriptions of the workers that are here, for those who write no TOML.
//!
//! Values only; what is wrong in one is found by the worker that reads it.
//!
//! Used by the command line and by embedding programs.

use crate::manifest::{ManifestError, WorkerSpec, from_toml};

impl WorkerSpec {
    /// A worker whose turns run `command` with the shell.
    #[must_use]
    pub fn command(command: impl Into<String>) -> Self {
        let mut spec = Self::of_kind("command");
        spec.table.insert("command".into(), toml::Value::String(command.into()));
        spec
    }

    /// A worker that records the reports that it is given.
    #[must_use]
    pub fn ledger() -> Self {
        Self::of_kind("ledger")
    }

    /// A worker that does what a script says. `source` names the text in errors.
    ///
    /// # Errors
    /// The text is no TOML. Steps are checked by the worker.
    pub fn scripted(text: &str, source: &str) -> Result<Self, ManifestError> {
        Ok(Self { kind: "scripted".into(), table: from_toml(text, source)? })
    }
}
