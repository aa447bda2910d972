//! Whose a store is: the pod that its events are for, by name.
//!
//! Written when the first life begins, and compared at the beginning of each further one: the name, the stream and the
//! history behind it are one parent's, alive or dead, buried or not. Only an adoption moves them.
//!
//! `open` writes and compares; `handle`, `start` and `discovery` look before anything is made.

use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::id::PodName;
use crate::store::error::StoreError;
use crate::store::tx::{Reads, Tx};

const KEY: &str = "parent";

/// To whom the lives of a pod belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// To nobody: it is a root.
    Nobody,
    /// To the pod of that name.
    Parent(PodName),
}

impl Owner {
    fn from_text(text: &str) -> Result<Self, StoreError> {
        if text.is_empty() {
            return Ok(Self::Nobody);
        }
        let unreadable =
            |error: &dyn fmt::Display| StoreError::Unreadable { what: "a parent's name", detail: error.to_string() };
        text.parse().map(Self::Parent).map_err(|error| unreadable(&error))
    }

    fn text(&self) -> &str {
        match self {
            Self::Nobody => "",
            Self::Parent(name) => name.as_str(),
        }
    }

    /// What whoever wants the pod `pod` as something else may do.
    pub(crate) fn remedy(&self, pod: &str) -> String {
        match self {
            Self::Nobody => format!("`pod restore {pod}` runs it; choose another name for a child"),
            Self::Parent(_) => format!(
                "only that starts it, and `pod restore {pod}` asks it to; let another pod take it over with `pod adopt`, or \
                 choose another name"
            ),
        }
    }
}

/// Completes "pod `a` is ..".
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("a root"),
            Self::Parent(name) => write!(f, "a child of pod `{name}`"),
        }
    }
}

impl Reads<'_> {
    /// Whose the store is; none if no life has begun with it since owners are recorded.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn owner(&self) -> Result<Option<Owner>, StoreError> {
        self.meta_text(KEY)?.as_deref().map(Owner::from_text).transpose()
    }
}

impl Tx<'_> {
    /// Gives the pod to another parent: for an adoption that is decided, and nothing else.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn move_to(&self, parent: &PodName) -> Result<(), StoreError> {
        self.set_meta_text(KEY, Some(parent.as_str()))
    }
}

/// Makes the store `wanted`'s if it is nobody's yet, and refuses it if it is another's.
pub(super) fn claim(path: &Path, conn: &Connection, pod: &PodName, wanted: &Owner) -> Result<(), StoreError> {
    let found = conn
        .query_row("SELECT value FROM meta WHERE key = ?1", [KEY], |row| row.get::<_, String>(0))
        .optional()
        .map_err(|error| StoreError::sqlite("read", error))?;
    let Some(found) = found.as_deref().map(Owner::from_text).transpose()? else {
        conn.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (KEY, wanted.text()))
            .map_err(|error| StoreError::sqlite("initialize", error))?;
        return Ok(());
    };
    if found == *wanted {
        return Ok(());
    }
    let (path, pod, wanted) = (path.to_owned(), pod.clone(), wanted.clone());
    Err(StoreError::OtherParent { path, pod, wanted, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions, StoreReader, fixture};

    fn owned_by(owner: Owner) -> StoreOptions {
        fixture::options("b").owned_by(owner)
    }

    fn parent(name: &str) -> Owner {
        Owner::Parent(name.parse().unwrap())
    }

    #[tokio::test]
    async fn store_is_opened_for_its_first_owner_and_refused_to_all_others_until_it_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let found = || StoreReader::open(&path).unwrap().look(|reads| reads.owner()).unwrap();
        // What is opened for no life says nothing.
        Store::open(&path, fixture::options("b")).unwrap().close().await;
        assert_eq!(found(), None);
        let store = Store::open(&path, owned_by(parent("p"))).unwrap();
        let stream = store.stream();
        store.close().await;
        for other in [parent("q"), Owner::Nobody] {
            let error = Store::open(&path, owned_by(other)).unwrap_err();
            assert!(matches!(&error, StoreError::OtherParent { found, .. } if *found == parent("p")), "{error}");
            let text = error.to_string();
            assert!(text.contains("`b` is a child of pod `p`") && text.contains("pod restore b"), "{text}");
        }
        let store = Store::open(&path, owned_by(parent("p"))).unwrap();
        store.write(|tx| tx.move_to(&"q".parse().unwrap())).await.unwrap();
        store.close().await;
        assert_eq!(found(), Some(parent("q")));
        assert!(Store::open(&path, owned_by(parent("p"))).is_err());
        let store = Store::open(&path, owned_by(parent("q"))).unwrap();
        assert_eq!(store.stream(), stream);
        store.close().await;
    }

    #[tokio::test]
    async fn root_is_nobodys_child_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Store::open(&path, owned_by(Owner::Nobody)).unwrap().close().await;
        let error = Store::open(&path, owned_by(parent("p"))).unwrap_err().to_string();
        assert!(error.contains("`b` is a root") && error.contains("pod restore b"), "{error}");
        Store::open(&path, owned_by(Owner::Nobody)).unwrap().close().await;
    }
}
