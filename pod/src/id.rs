//! The identities of pods, of their events and of what they work on.
//!
//! Plain values: validated when they are made, compared ever after. A name alone is never enough to act on.
//!
//! Typed by people (`PodName`), chosen by `spawn` (`Incarnation`), by the store (`StreamId`, `Seq`, `TurnId`) and by
//! whoever delegates (`WorkId`); carried by `protocol`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// LIMIT: the longest name, in bytes. A file name may have 255; a socket path 107 in all, and people read tables.
pub const NAME_BYTES_MAX: usize = 64;

/// What people type: 1 to 64 characters of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName(String);

/// One life of a pod: which name, and which process of that name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, rpc::Wire)]
pub struct PodId {
    /// What people call it.
    pub name: PodName,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
}

/// A name that is no name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{shown}` is no name for a pod: {fault}; use 1 to 64 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or a digit"
)]
pub struct NameError {
    shown: String,
    fault: &'static str,
}

/// A text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is no {what}: it has 16 hexadecimal digits")]
pub struct IdError {
    shown: String,
    what: &'static str,
}

impl PodName {
    /// The name `text`.
    ///
    /// # Errors
    /// Says what is wrong with `text`, and what is allowed.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let fault = if text.is_empty() {
            "it is empty"
        } else if text.len() > NAME_BYTES_MAX {
            "it is too long"
        } else if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
            "it contains another character"
        } else if !text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            "it begins with a mark"
        } else {
            return Ok(Self(text));
        };
        Err(NameError { shown: crate::protocol::clip(&text, NAME_BYTES_MAX).into_owned(), fault })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PodId {
    /// The life `incarnation` of `name`.
    pub fn new(name: PodName, incarnation: Incarnation) -> Self {
        Self { name, incarnation }
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        /// Shown as 16 hexadecimal digits; in JSON a string, because JSON readers round large numbers.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// A new one, from the kernel's random numbers.
            pub fn random() -> Self {
                Self(rpc::Incarnation::random().0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
                match u64::from_str_radix(text, 16) {
                    Ok(id) if plain => Ok(Self(id)),
                    _ => Err(IdError { shown: crate::protocol::clip(text, 40).into_owned(), what: $what }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u64(self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    u64::deserialize(deserializer).map(Self)
                }
            }
        }

        impl rpc::Wire for $name {
            const FINGERPRINT: u64 = <u64 as rpc::Wire>::FINGERPRINT;
            const ENCODED_MIN: usize = <u64 as rpc::Wire>::ENCODED_MIN;
        }
    };
}

macro_rules! counted_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, rpc::Wire)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

random_id! {
    /// One life of a pod's process, chosen by its parent before the fork.
    Incarnation, "incarnation"
}
random_id! {
    /// The events of one pod. Belongs to the pod's store, and so outlives each of its processes.
    StreamId, "stream"
}
random_id! {
    /// Something that was delegated, chosen by whoever delegates it. Sending the same work twice starts it once.
    WorkId, "work"
}
random_id! {
    /// The key of one notification, chosen by its sender. Sending the same one twice queues it once.
    NoteKey, "note key"
}
counted_id! {
    /// The place of an event in its stream: 1, 2, 3, ... A watermark of 0 says that none has been applied.
    Seq
}
counted_id! {
    /// One run of a pod's worker: 1, 2, 3, ... through all lives of the pod.
    TurnId
}
counted_id! {
    /// One use of a tool: 1, 2, 3, ... within its turn.
    CallId
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that tables can align names.
        f.pad(&self.0)
    }
}

impl fmt::Debug for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for PodName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl AsRef<str> for PodName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for PodName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PodName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl rpc::Wire for PodName {
    const FINGERPRINT: u64 = <String as rpc::Wire>::FINGERPRINT;
    const ENCODED_MIN: usize = <String as rpc::Wire>::ENCODED_MIN;
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.incarnation)
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_type_are_accepted() {
        for text in ["a", "7", "reviewer-2", "a.b_c-d", &"x".repeat(64)] {
            assert_eq!(text.parse::<PodName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn other_names_are_refused_with_fault_and_remedy() {
        let long = "x".repeat(65);
        for (text, fault) in [
            ("", "empty"),
            (long.as_str(), "too long"),
            ("Upper", "another character"),
            ("a/b", "another character"),
            ("..", "begins with a mark"),
            ("-x", "begins with a mark"),
            ("\u{e9}", "another character"),
        ] {
            let error = text.parse::<PodName>().unwrap_err().to_string();
            assert!(error.contains(fault) && error.contains("a-z, 0-9"), "{error}");
        }
    }

    #[test]
    fn ids_read_as_they_print_and_json_keeps_every_bit() {
        let id = WorkId(u64::MAX - 1);
        assert_eq!(id.to_string().parse::<WorkId>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"fffffffffffffffe\"");
        assert_eq!(serde_json::from_str::<WorkId>("\"fffffffffffffffe\"").unwrap(), id);
        for text in ["", "12", "+123456789abcdef", "xyz4567890abcdef"] {
            assert!(text.parse::<WorkId>().is_err(), "{text}");
        }
    }
}
