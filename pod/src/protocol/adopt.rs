//! Taking over a child whose parent is dead.
//!
//! Asked of the pod that is to be the child's parent; answered when that is so in both parents' stores.
//!
//! Answered by `spawn::adopt`, asked by the command line.

use serde::{Deserialize, Serialize};

use crate::id::{PodId, PodName, Seq};
use crate::protocol::Text;

/// Become the parent of a child of a pod that is dead. Asked again, it changes nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Request)]
#[rpc(id = 20, ack = Adopted, rejection = AdoptRejection)]
pub struct Adopt {
    /// Which child.
    pub child: PodName,
    /// Whose it is, or was.
    pub from: PodName,
}

/// The child reports here from now on, as soon as it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire)]
pub struct Adopted {
    /// Its life.
    pub child: PodId,
    /// The last of its events that its old parent has; the next one comes here.
    pub watermark: Seq,
    /// Works that it was given by its old parent and that are open: they are this pod's now.
    pub works: u32,
}

/// Why it does not become this pod's child. It is then still its old parent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, rpc::Wire, thiserror::Error)]
pub enum AdoptRejection {
    /// Its parent lives.
    #[error("its parent lives: {holder}; stop that first, or leave the child to it")]
    ParentLives {
        /// Who.
        holder: Text<256>,
    },
    /// There is no such parent, or it has no such child that lives or is yet to be buried.
    #[error("{reason}")]
    NoSuchChild {
        /// What is missing.
        reason: Text<256>,
    },
    /// This pod has a child of that name that is not over, or a pod would become its own parent.
    #[error("{reason}")]
    NameTaken {
        /// Who has it.
        reason: Text<256>,
    },
    /// This pod is stopping.
    #[error("the pod is stopping")]
    Stopping,
    /// This pod could not have started it: it is below the child, has less than the child, or its tree is full.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: Text<512>,
    },
    /// It could not be committed here, or in the old parent's store. What was begun is tried again, and the child may become this
    /// pod's yet; asked again, it goes on where it had come to.
    #[error("it could not be recorded: {reason}")]
    Unavailable {
        /// Why.
        reason: Text<256>,
    },
}
