//! What a pod may read and write.
//!
//! The rules as they are written and delegated. Nothing here opens a file or decides about one.
//!
//! Carried by `protocol`, kept by `store`.

use serde::{Deserialize, Serialize};

use crate::protocol::Text;

/// One right: what, how, and whether below it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct ScopeRule {
    /// An absolute path.
    pub target: Text<4096>,
    /// How it may be used.
    pub permission: Permission,
    /// Whether everything below it is meant, too.
    pub recursive: bool,
}

/// How a target may be used. Who may write may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, rpc::Wire)]
pub enum Permission {
    /// Read it.
    Read,
    /// Read and change it.
    Write,
}
