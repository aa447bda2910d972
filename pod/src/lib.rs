//! The runtime of a pod and of its children: agent processes that delegate work to each other, in which no child's
//! end is ever missed.
//!
//! A pod is a process with a name, a store and a socket. It gives work to children, which are processes too; what
//! becomes of that work is an event in the child's store until it is committed, once and in order, in the parent's.
//! A child that dies without a word is found out by the kernel, and becomes [`Lost`](Terminal::Lost) after every event
//! that it had committed.
//!
//! ```standalone_crate
//! use futures::future::BoxFuture;
//! use pod::{PodController, PodOptions, Roots, SpawnPod, Terminal, TurnContext, TurnEnd, TurnResult, WorkEnd};
//! use pod::{Worker, WorkerError, WorkerSpec, Workers};
//!
//! struct Shout;
//! impl Worker for Shout {
//!     fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
//!         Box::pin(async move {
//!             let input = cx.input().ok_or_else(|| WorkerError::new("nothing to shout"))?.to_uppercase();
//!             cx.output(&input).await?;
//!             Ok(TurnEnd::Finished)
//!         })
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let workers = Workers::builtin().with("shout", |_| Ok(Box::new(Shout)));
//!     pod::host(&workers); // becomes the child, if this process was started as one
//!     let directory = tempfile::tempdir()?;
//!     let roots = Roots::at(&directory.path().join("pods"))?;
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let options = PodOptions::new("boss".parse()?, WorkerSpec::ledger()).roots(roots).workers(workers);
//!         let boss = PodController::spawn(options).await?;
//!         let child = boss.spawn_pod(SpawnPod::new("clerk".parse()?, WorkerSpec::of_kind("shout"))).await?;
//!         match child.run("a report that is not lost").await?.ended().await {
//!             WorkEnd::TurnEnded(result) => assert_eq!(result, TurnResult::Finished),
//!             WorkEnd::Errored { message } => panic!("{message}"),
//!             WorkEnd::Lost(reason) => panic!("the child died: {reason}"),
//!             WorkEnd::Settled(result) => panic!("settled without a word: {result:?}"),
//!         }
//!         assert_eq!(child.stop(std::time::Duration::from_secs(10)).await?, Terminal::ShutDown);
//!         boss.shutdown().await;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # What is promised
//! An acked event is committed in the parent's store, exactly once, and survives `kill -9` of either process; events of
//! one pod are applied in the order in which they were raised; every life of a child ends in exactly one terminal event;
//! an event that the agent should see is in its next request or starts a turn, and is kept otherwise.
//!
//! # What is not
//! Delivery to a parent that never comes back (the child keeps its events), an order between different children, and
//! protection from a process of the same user that writes a pod's files.
//!
//! # Where to look
//! The modules below stand in the order in which data flows.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "`pod` runs on Linux only for now: the death and the identity of its children are the Linux kernel's word"
);

pub mod failpoint;
pub mod id;
pub mod scope;

pub mod protocol;

pub mod life_lock;
pub mod manifest;
pub mod runtime_dir;

pub mod store;

pub mod registry;

pub mod event;

pub mod controller;
pub mod notify_buffer;

pub mod attach;
pub mod spawn;
pub mod worker;

mod admission;
mod delegation;
pub mod error;
pub mod handle;
mod start;

#[cfg(test)]
mod fixture;

pub mod discovery;
pub mod doctor;
pub mod signals;
pub mod tools;

pub use handle::{
    Child, PodController, PodHandle, PodOptions, RunError, SpawnError, SpawnPod, StartError, StopError, Work,
};
pub use id::{PodId, PodName, WorkId};
pub use manifest::WorkerSpec;
pub use protocol::{LostReason, Method, PodStatus, TurnResult, WorkResult};
pub use runtime_dir::Roots;
pub use spawn::{ChildPhase, ChildStatus, WorkEnd};
pub use store::{Durability, Lifetime, Restart, RestartWhen, StoreReader, Terminal};
pub use worker::{TurnContext, TurnEnd, Worker, WorkerError, Workers, host};
