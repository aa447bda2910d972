//! Those who are compared: how each of them listens, connects and calls.
//!
//! Every contender echoes the same payload and checks the length of what comes back. Nothing is measured here; a
//! contender takes its pace from a [`Lap`] and knows nothing of workloads, rounds or targets.
//!
//! Run by `process`, in a server process and a client process of its own for each workload.

mod capnp;
mod floor;
mod ours;
mod remoc;
mod tarpc;
pub(crate) mod tonic;
mod ttrpc;
mod zlink;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::measure::lap::Lap;

/// Whatever went wrong; it is printed, and the others go on.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Shape {
    /// Calls that send the payload and get it back.
    Echo,
    /// A connection for each call: connect, call, close.
    Connect,
    /// An empty request that is answered with the payload: as a stream of chunks by the floor and by ours, in one message
    /// by the peers.
    Fetch,
    /// The payload, which is answered with next to nothing: as a stream of chunks by the floor and by ours, in one message by
    /// the peers.
    Push,
}

/// What a client sends, and how much of it at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) shape: Shape,
    pub(crate) payload_bytes: usize,
    pub(crate) connections: usize,
    /// Calls at the same time, on each connection.
    pub(crate) in_flight: usize,
}

/// What a contender is compared as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Bare sockets, as fast as they go; many frames a system call.
    Ceiling,
    /// Bare tokio and a length-delimited codec.
    Floor,
    /// Bare sockets that are asked until they answer.
    Spinning,
    Ours,
    /// Ours, spinning.
    OursSpinning,
    /// Ours, whose caller wants to know how far each call has come.
    OursWatching,
    /// Ours, with a message that has no heap memory of its own.
    OursWords,
    Peer,
}

/// One way to echo.
pub(crate) trait Contender: Sync {
    fn name(&self) -> &'static str;
    fn role(&self) -> Role;
    /// What was done to make it comparable, in one line.
    fn notes(&self) -> &'static str;

    /// Why it cannot do this, if it cannot.
    fn refuses(&self, _: &Load) -> Option<&'static str> {
        None
    }

    /// Listens at `path` and echoes until the process ends. `load` says how large messages may be.
    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>>;

    /// Opens the connections of `load`.
    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>>;

    /// Builds what it hands to its framework for one call, and drops it: work of the benchmark, whose allocations are
    /// taken off. Sharing `Bytes` costs none.
    fn prepare(&self, payload: &Bytes) {
        drop(payload.clone());
    }
}

/// Open connections, ready to call.
pub(crate) trait Driver {
    /// Calls for as long as `lap` says.
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>>;

    /// Calls once on each connection, one after the other.
    fn call_each(&mut self, payload: Bytes) -> LocalFuture<'_, Result<(), Failure>> {
        drop(payload);
        Box::pin(async { Err("not written for it".into()) })
    }
}

/// All of them, in the order of the tables.
pub(crate) const CONTENDERS: &[&dyn Contender] = &[
    &floor::Raw,
    &floor::Spinning,
    &floor::Tokio,
    &ours::DEFAULT,
    &ours::SPINNING,
    &ours::WATCHING,
    &ours::WORDS,
    &tarpc::Tarpc,
    &ttrpc::Ttrpc,
    &zlink::Zlink,
    &capnp::Capnp,
    &tonic::Tonic,
    &remoc::Remoc,
];

/// Whether it is there for one row alone.
pub(crate) fn is_special(role: Role) -> bool {
    matches!(role, Role::Spinning | Role::OursSpinning | Role::OursWatching | Role::OursWords)
}

pub(crate) fn find(name: &str) -> Option<&'static dyn Contender> {
    CONTENDERS.iter().copied().find(|contender| contender.name() == name)
}

/// What payloads consist of: text that needs no escapes, the best case of whoever speaks JSON.
pub(crate) const LETTER: u8 = b'x';

/// What is sent.
fn request(load: &Load) -> Bytes {
    match load.shape {
        Shape::Fetch => Bytes::new(),
        Shape::Echo | Shape::Connect | Shape::Push => Bytes::from(vec![LETTER; load.payload_bytes]),
    }
}

/// How much comes back.
fn answer_bytes(load: &Load) -> usize {
    if load.shape == Shape::Push { 0 } else { load.payload_bytes }
}

/// What a server answers instead of what it was sent.
fn fetched(load: &Load) -> Option<Bytes> {
    match load.shape {
        Shape::Echo | Shape::Connect => None,
        Shape::Fetch => Some(Bytes::from(vec![LETTER; load.payload_bytes])),
        Shape::Push => Some(Bytes::new()),
    }
}

/// Frames of this size must pass.
fn frame_bytes_max(load: &Load) -> usize {
    (4 * load.payload_bytes).max(1 << 20)
}

fn check_echo(payload_bytes: usize, answer_bytes: usize) -> Result<(), Failure> {
    if payload_bytes == answer_bytes {
        return Ok(());
    }
    Err(format!("{answer_bytes} bytes came back for {payload_bytes}").into())
}

/// A handle through which calls can be made, one at a time; one for each call in flight.
trait Caller: Send + 'static {
    /// Calls once; the number of bytes that came back.
    fn call(&mut self, payload: &Bytes) -> impl Future<Output = Result<usize, Failure>> + Send;
}

/// A task for each call in flight, which calls again as soon as it was answered.
struct Tasks<C> {
    /// `None` while its task has it.
    callers: Vec<Option<C>>,
    request: Bytes,
    answer_bytes: usize,
}

impl<C: Caller> Tasks<C> {
    fn driver(callers: impl IntoIterator<Item = C>, load: &Load) -> Box<dyn Driver> {
        let callers = callers.into_iter().map(Some).collect();
        Box::new(Self { callers, request: request(load), answer_bytes: answer_bytes(load) })
    }
}

impl<C: Caller> Driver for Tasks<C> {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut tasks = Vec::with_capacity(self.callers.len());
            for caller in &mut self.callers {
                let mut caller = caller.take().ok_or("it failed before")?;
                let (lap, request, answer_bytes) = (Arc::clone(lap), self.request.clone(), self.answer_bytes);
                tasks.push(tokio::spawn(async move {
                    while lap.another() {
                        let started = lap.start();
                        let bytes = caller.call(&request).await?;
                        lap.done(started);
                        check_echo(answer_bytes, bytes)?;
                    }
                    Ok::<_, Failure>(caller)
                }));
            }
            for (task, caller) in tasks.into_iter().zip(&mut self.callers) {
                *caller = Some(task.await??);
            }
            Ok(())
        })
    }

    fn call_each(&mut self, payload: Bytes) -> LocalFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            for slot in &mut self.callers {
                let mut caller = slot.take().ok_or("it failed before")?;
                let payload = payload.clone();
                let called = tokio::spawn(async move {
                    check_echo(payload.len(), caller.call(&payload).await?)?;
                    Ok::<_, Failure>(caller)
                });
                *slot = Some(called.await??);
            }
            Ok(())
        })
    }
}

/// A connection for each call, one after the other.
struct Reconnect<F> {
    connect: F,
    payload: Bytes,
}

impl<F, C, Opened> Reconnect<F>
where
    F: FnMut() -> Opened + Send + Clone + 'static,
    Opened: Future<Output = Result<C, Failure>> + Send,
    C: Caller,
{
    fn driver(connect: F, load: &Load) -> Box<dyn Driver> {
        Box::new(Self { connect, payload: request(load) })
    }
}

impl<F, C, Opened> Driver for Reconnect<F>
where
    F: FnMut() -> Opened + Send + Clone + 'static,
    Opened: Future<Output = Result<C, Failure>> + Send,
    C: Caller,
{
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        let (lap, payload, mut connect) = (Arc::clone(lap), self.payload.clone(), self.connect.clone());
        Box::pin(async move {
            tokio::spawn(async move {
                while lap.another() {
                    let started = lap.start();
                    let mut caller = connect().await?;
                    let answer_bytes = caller.call(&payload).await?;
                    drop(caller);
                    lap.done(started);
                    check_echo(payload.len(), answer_bytes)?;
                }
                Ok::<_, Failure>(())
            })
            .await?
        })
    }
}
