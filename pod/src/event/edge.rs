//! Where a pod's parent is.
//!
//! A value that is read again before each round of offers; it opens no connection.
//!
//! Used by `reporter`.

use std::fmt;
use std::sync::Arc;

use rpc::Address;

/// The link to the parent.
#[derive(Clone, Default)]
pub struct Edge {
    read: Option<Arc<dyn Fn() -> Option<Address> + Send + Sync>>,
}

impl Edge {
    /// No parent: nothing is reported.
    pub fn none() -> Self {
        Self { read: None }
    }

    /// The parent that listens at `address`, as long as we live.
    pub fn to(address: Address) -> Self {
        Self::read_by(move || Some(address.clone()))
    }

    /// The parent that `read` names. It is asked before each round of offers, and must not block.
    pub fn read_by(read: impl Fn() -> Option<Address> + Send + Sync + 'static) -> Self {
        Self { read: Some(Arc::new(read)) }
    }

    /// Whether there is a parent at all.
    pub fn exists(&self) -> bool {
        self.read.is_some()
    }

    /// Where it is now.
    pub fn address(&self) -> Option<Address> {
        self.read.as_ref().and_then(|read| read())
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Edge").field(&self.address().map(|address| address.to_string())).finish()
    }
}
