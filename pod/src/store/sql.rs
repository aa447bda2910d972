//! How our values stand in columns.
//!
//! Ids are text that a person can paste into a query; counted ids are integers; everything structured is JSON.
//! Never panics on what a column holds: a row that cannot be read is an error that says so.
//!
//! Used by every other file of this folder.

use std::path::{Path, PathBuf};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{CallId, Incarnation, NoteKey, PodName, Seq, StreamId, TurnId, WorkId};
use crate::store::clock::UnixMillis;
use crate::store::error::StoreError;

macro_rules! as_text {
    ($($id:ty),*) => {$(
        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.to_string().into())
            }
        }

        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|error| FromSqlError::Other(Box::new(error)))
            }
        }
    )*};
}

macro_rules! as_integer {
    ($($id:ident),*) => {$(
        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                // Counted from 0 or 1 by ourselves: nothing reaches the sign bit.
                Ok(i64::try_from(self.0).unwrap_or(i64::MAX).into())
            }
        }

        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let number = value.as_i64()?;
                u64::try_from(number).map($id).map_err(|_| FromSqlError::OutOfRange(number))
            }
        }
    )*};
}

as_text!(PodName, Incarnation, StreamId, WorkId, NoteKey);
as_integer!(CallId, Seq, TurnId, UnixMillis);

/// `value` as JSON.
pub(crate) fn to_json<T: Serialize + ?Sized>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unreadable { what, detail: error.to_string() })
}

/// What the JSON in a column says.
pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable { what, detail: error.to_string() })
}

/// A path as text. Our own directories are known to be UTF-8; another path is refused rather than changed.
pub(crate) fn path_text(path: &Path) -> Result<&str, StoreError> {
    path.to_str().ok_or_else(|| StoreError::Contradiction(format!("path `{}` is not UTF-8", path.display())))
}

/// The path that a column holds.
pub(crate) fn path_of(text: String) -> PathBuf {
    PathBuf::from(text)
}

/// A number of rows, or anything else that SQLite counts.
pub(crate) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A number for SQLite, which knows no `u64`.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

macro_rules! stored_word {
    ($type:ty, $what:literal, $($variant:ident = $word:literal),* $(,)?) => {
        impl $type {
            /// The word that stands for it in the store and in tables.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl rusqlite::types::ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok((*self).word().into())
            }
        }

        impl rusqlite::types::FromSql for $type {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                match value.as_str()? {
                    $($word => Ok(Self::$variant),)*
                    other => Err(rusqlite::types::FromSqlError::Other(
                        format!(concat!("`{}` is no ", $what), other).into(),
                    )),
                }
            }
        }
    };
}
pub(crate) use stored_word;
