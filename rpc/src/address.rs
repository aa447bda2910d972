//! Where a service listens: `unix:/path`, `mem:name`, or wherever a connector leads.
//!
//! A value; it opens nothing.
//!
//! Parsed from what people type, resolved by `io`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::io::listener::SOCKET_PATH_BYTES_MAX;
use crate::transport::{Connector, Transport};

/// The address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A Unix socket in the file system. Paths longer than 107 bytes are refused when they are used.
    Unix(PathBuf),
    /// A name within this process, for tests and for services that embed each other.
    Mem(String),
    /// Wherever a [`Connector`] leads. Prints as its name, and cannot be parsed back.
    Custom(Connector),
}

impl Address {
    /// The Unix socket at `path`.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }

    /// The Unix socket `name` in `directory`, or a short hashed name there when the path would pass the system's limit.
    /// Both sides come to the same path.
    pub fn unix_in(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Self::Unix(path);
        }
        // FNV-1a, 64 bits: a name, not a secret.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self::Unix(directory.join(format!("{hash:016x}")))
    }

    /// The in-memory service called `name`.
    pub fn mem(name: impl Into<String>) -> Self {
        Self::Mem(name.into())
    }

    /// Wherever `connector` leads.
    pub fn custom(connector: Connector) -> Self {
        Self::Custom(connector)
    }

    /// A stream that is already there, for one connection: see [`Connector::once`].
    pub fn stream(name: &str, stream: impl Transport) -> Self {
        Self::Custom(Connector::once(name, stream))
    }

    /// The path, if this is a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Mem(_) | Self::Custom(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Mem(name) => write!(f, "mem:{name}"),
            Self::Custom(connector) => f.write_str(connector.name()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::unix(path)),
            Some(("mem", name)) if !name.is_empty() => Ok(Self::mem(name)),
            _ => Err(AddressError { text: text.to_owned() }),
        }
    }
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address; write `unix:/absolute/path` or `mem:name`")]
pub struct AddressError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_print() {
        for text in ["unix:/run/x.sock", "mem:calc"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn name_that_does_not_fit_is_hashed_the_same_way_twice() {
        let directory = Path::new("/run/user/1000/calc");
        let long = "x".repeat(100);
        let hashed = Address::unix_in(directory, &long);
        assert_eq!(hashed, Address::unix_in(directory, &long));
        assert_ne!(hashed, Address::unix_in(directory, &"y".repeat(100)));
        assert!(hashed.path().unwrap().as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
        assert_eq!(Address::unix_in(directory, "a").path(), Some(Path::new("/run/user/1000/calc/a")));
    }

    #[test]
    fn other_texts_are_refused_with_the_remedy() {
        for text in ["", "unix:relative", "mem:", "tcp:1", "/run/x.sock"] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("unix:/absolute/path"), "{error}");
        }
    }
}
