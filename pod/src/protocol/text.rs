//! Text with a bound.
//!
//! Cuts what we say, at a character; refuses what a peer says if it is longer. Never splits a character.
//!
//! Used by every wire type that carries words.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What stands at the end of a text that was cut.
const MARK: &str = "...";

/// A text of at most `MAX` bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// `text`, cut at a character if it is longer than `MAX` bytes.
    pub fn clipped(text: impl AsRef<str>) -> Self {
        Self(clip(text.as_ref(), MAX).into_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `text`, or its beginning and `...` in at most `bytes_max` bytes, cut between two characters.
pub fn clip(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let mark = if bytes_max >= MARK.len() { MARK } else { "" };
    let mut end = bytes_max.saturating_sub(mark.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let kept = text.get(..end).unwrap_or_default();
    Cow::Owned(format!("{kept}{mark}"))
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> From<&str> for Text<MAX> {
    fn from(text: &str) -> Self {
        Self::clipped(text)
    }
}

impl<const MAX: usize> From<String> for Text<MAX> {
    fn from(text: String) -> Self {
        if text.len() <= MAX { Self(text) } else { Self::clipped(text) }
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> Serialize for Text<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX {
            return Err(de::Error::custom(format_args!("a text of {} bytes; at most {MAX} are allowed", text.len())));
        }
        Ok(Self(text))
    }
}

impl<const MAX: usize> rpc::Wire for Text<MAX> {
    const FINGERPRINT: u64 = <String as rpc::Wire>::FINGERPRINT;
    const ENCODED_MIN: usize = <String as rpc::Wire>::ENCODED_MIN;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_cuts_at_a_character_and_says_so() {
        assert_eq!(clip("short", 10), "short");
        assert_eq!(clip("exactly 10", 10), "exactly 10");
        assert_eq!(clip("eleven char", 10), "eleven ...");
        for bytes_max in 0..12 {
            let cut = clip("\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}", bytes_max);
            assert!(cut.len() <= bytes_max, "{cut} in {bytes_max}");
        }
        assert_eq!(clip("\u{20ac}\u{20ac}\u{20ac}", 7), "\u{20ac}...");
    }

    #[test]
    fn text_from_a_peer_that_is_too_long_is_refused() {
        assert!(serde_json::from_str::<Text<3>>("\"abc\"").is_ok());
        let error = serde_json::from_str::<Text<3>>("\"abcd\"").unwrap_err().to_string();
        assert!(error.contains("at most 3"), "{error}");
    }
}
