//! A client for callers without a runtime: the same outcomes, deadlines and doubts, and streams as iterators.
//!
//! A runtime of its own lives inside, on the callers' threads: whoever waits drives. Nothing runs while nobody waits,
//! unless [`Client::drive_in_background`] was called.
//!
//! ```
//! # #[derive(serde::Serialize, serde::Deserialize, rpc::Request)]
//! # #[rpc(id = 1, ack = u64)]
//! # struct Add { a: u64, b: u64 }
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "calc", version = 1)]
//! # enum Calc { Add(Add) }
//! use std::time::Duration;
//! use rpc::{CallError, Retry};
//!
//! fn main() -> std::io::Result<()> {
//!     let client = rpc::blocking::Client::<Calc>::new(&rpc::Address::mem("calc"))?;
//!     let call = client.call(Add { a: 1, b: 2 }).deadline(Duration::from_millis(50)).retry(Retry::not_delivered());
//!     match call.wait() {
//!         Ok(sum) => println!("{sum}"),
//!         Err(CallError::Rejected(never)) => match never {},
//!         Err(CallError::NotDelivered(why)) => println!("safe to repeat: {why}"),
//!         Err(CallError::Unknown(doubt)) => println!("{:?}", client.resolve(doubt)),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Cost
//! One thread that calls pays about what an asynchronous caller pays, for there is no other thread to wake: its own
//! thread writes, waits in `epoll` and reads. With a thread that drives in the background there is: it has to be woken, and
//! to wake. `cargo bench -p rpc --bench echo` compares a blocking caller with the others.
//!
//! # While nobody waits
//! Nothing of the client runs between two calls: no ping is answered, no cancel of a dropped stream leaves, no lost
//! connection is noticed. The next call does all of that first. A server that pings its idle peers may close the
//! connection meanwhile: the next call opens another one, but a stream ends with it. Whoever holds a stream for long
//! between two reads, or [serves](crate::ClientBuilder::serves) calls of the other side, lets a thread drive.
//!
//! # Panics
//! All that waits here panics inside of an asynchronous task, with tokio's sentence "Cannot start a runtime from within a
//! runtime": it would block the thread that is to drive the task. Use [`rpc::Client`](crate::Client) there, or
//! `spawn_blocking`.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::address::Address;
use crate::client::{self, Covers, Doubt, Retry};
use crate::io::lock;
use crate::outcome::CallError;
use crate::request::{Has, Never, Protocol, Request, StreamRequest, Wire};
use crate::stream::{Event, ItemStream, StreamError};
use crate::sync::Mutex;

/// A client whose calls block their thread. Cheap to clone; several threads may call at once, and one of them drives for
/// all.
pub struct Client<P> {
    // Goes before the runtime that its lanes' drivers live in.
    client: client::Client<P>,
    engine: Arc<Engine>,
}

/// A call that has been prepared. It is sent by [`wait`](Self::wait) or [`open`](Self::open).
#[must_use = "a call is sent when it is waited for"]
pub struct Call<'a, R: Request> {
    call: client::Call<R>,
    engine: &'a Arc<Engine>,
}

/// The items of a stream. Dropping it ends the stream.
///
/// [`next`](Iterator::next) blocks until there is an item, for as long as the stream is open.
#[must_use = "dropping a stream ends it"]
pub struct Items<T, L = Never> {
    items: ItemStream<T, L>,
    engine: Arc<Engine>,
}

/// What runs the clients' tasks.
struct Engine {
    /// Only `None` while it is dropped.
    runtime: Option<Arc<Runtime>>,
    /// Ends the thread that drives in the background, if there is one.
    stop: Arc<Notify>,
    background: Mutex<bool>,
}

/// What the thread does that drives in the background.
type Driving = Box<dyn FnOnce() + Send>;

impl<P: Protocol> Client<P> {
    /// A client with the default limits. Connects when it is first used.
    ///
    /// # Errors
    /// The kernel gives no descriptors for waiting.
    pub fn new(address: &Address) -> io::Result<Self> {
        Self::of(client::Client::new(address))
    }

    /// Makes a client blocking: one from [`Client::builder`](crate::Client::builder) that was not used yet. One that was
    /// keeps the runtime in which it was first used, until that ends.
    ///
    /// # Errors
    /// The kernel gives no descriptors for waiting.
    pub fn of(client: client::Client<P>) -> io::Result<Self> {
        let runtime = Some(Arc::new(Builder::new_current_thread().enable_all().build()?));
        let engine = Engine { runtime, stop: Arc::default(), background: Mutex::new(false) };
        Ok(Self { client, engine: Arc::new(engine) })
    }

    /// Prepares a call.
    pub fn call<R: Request>(&self, request: R) -> Call<'_, R>
    where
        P: Has<R>,
    {
        Call { call: self.client.call(request), engine: &self.engine }
    }

    /// Asks what became of a request: blocks like [`Doubt::resolve`] waits.
    ///
    /// # Errors
    /// As [`Doubt::resolve`].
    ///
    /// # Panics
    /// Inside of an asynchronous task.
    pub fn resolve<R: Request>(&self, doubt: Doubt<R>) -> Result<R::Ack, CallError<R>> {
        self.engine.wait(doubt.resolve())
    }

    /// Lets a thread drive the client also while nobody waits, for as long as the client lives. Each call then wakes that
    /// thread and is woken by it. Said again, it changes nothing.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn drive_in_background(&self) -> io::Result<()> {
        self.engine.drive_in_background(|driving| {
            std::thread::Builder::new().name("rpc-client".into()).spawn(driving).map(|_| ())
        })
    }

    /// The asynchronous client inside: its address, its lanes and their counters.
    pub fn inner(&self) -> &client::Client<P> {
        &self.client
    }
}

impl<R: Request> Call<'_, R> {
    /// As [`Call::deadline`](crate::Call::deadline).
    pub fn deadline(mut self, timeout: Duration) -> Self {
        self.call = self.call.deadline(timeout);
        self
    }

    /// As [`Call::retry`](crate::Call::retry).
    pub fn retry<S: Covers<R>>(mut self, retry: Retry<S>) -> Self {
        self.call = self.call.retry(retry);
        self
    }

    /// Sends the request and blocks until its outcome is known, at most until its deadline.
    ///
    /// # Errors
    /// [`CallError`], like any call.
    ///
    /// # Panics
    /// Inside of an asynchronous task.
    pub fn wait(self) -> Result<R::Ack, CallError<R>> {
        self.engine.wait(self.call)
    }

    /// Sends a request whose ack opens a stream, and blocks until it is open.
    ///
    /// # Errors
    /// [`CallError`], like any call.
    ///
    /// # Panics
    /// Inside of an asynchronous task.
    #[expect(clippy::type_complexity, reason = "the ack and its stream, as in `rpc::Opened`")]
    pub fn open(self) -> Result<(R::Ack, Items<R::Item, R::Lossy>), CallError<R>>
    where
        R: StreamRequest,
    {
        let (ack, items) = self.engine.wait(self.call.open())?;
        Ok((ack, Items { items, engine: Arc::clone(self.engine) }))
    }
}

/// What a stream brings next; `None` is its end.
pub type Next<T, L> = Option<Result<Event<T, L>, StreamError>>;

impl<T: Wire + DeserializeOwned, L: Wire + DeserializeOwned> Items<T, L> {
    /// Blocks until the stream brings something. `None`: its end.
    ///
    /// # Errors
    /// [`StreamError`]; nothing follows it.
    ///
    /// # Panics
    /// Inside of an asynchronous task.
    pub fn event(&mut self) -> Next<T, L> {
        self.engine.wait(self.items.event())
    }

    /// As [`event`](Self::event), and gives up after `timeout`: `Err` of the time that it was given. Nothing is lost by that.
    ///
    /// # Errors
    /// `timeout`: nothing has come.
    ///
    /// # Panics
    /// Inside of an asynchronous task.
    pub fn event_within(&mut self, timeout: Duration) -> Result<Next<T, L>, Duration> {
        let items = &mut self.items;
        self.engine.wait(async { tokio::time::timeout(timeout, items.event()).await }).map_err(|_| timeout)
    }
}

impl<T: Wire + DeserializeOwned> Iterator for Items<T> {
    type Item = Result<T, StreamError>;

    /// The next item. A producer that drops what a slow reader has not taken is for [`event`](Items::event), which says
    /// so.
    ///
    /// # Panics
    /// Inside of an asynchronous task.
    fn next(&mut self) -> Option<Self::Item> {
        let items = &mut self.items;
        self.engine.wait(futures::StreamExt::next(items))
    }
}

impl Engine {
    fn wait<F: Future>(&self, future: F) -> F::Output {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            // INVARIANT: taken by `drop`, behind which nobody waits.
            None => unreachable!("an engine that is being dropped"),
        }
    }

    fn drive_in_background(&self, spawn: impl FnOnce(Driving) -> io::Result<()>) -> io::Result<()> {
        let mut background = lock(&self.background);
        let Some(runtime) = self.runtime.as_ref().filter(|_| !*background) else { return Ok(()) };
        let (runtime, stop) = (Arc::clone(runtime), Arc::clone(&self.stop));
        let driving = Box::new(move || {
            runtime.block_on(stop.notified());
            shut_down(runtime);
        });
        spawn(driving)?;
        // Not before there is one: who asks again after a failure is not told that all is well.
        *background = true;
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.notify_one();
        self.runtime.take().into_iter().for_each(shut_down);
    }
}

/// Ends the runtime with its last user. Without waiting, so that a client may be dropped anywhere.
fn shut_down(runtime: Arc<Runtime>) {
    if let Some(runtime) = Arc::into_inner(runtime) {
        runtime.shutdown_background();
    }
}

impl<P> Clone for Client<P> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), engine: Arc::clone(&self.engine) }
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("blocking::Client").field(&self.client).finish()
    }
}

impl<R: Request> fmt::Debug for Call<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

impl<T, L> fmt::Debug for Items<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_could_not_be_had_is_asked_for_again() {
        let runtime = Some(Arc::new(Builder::new_current_thread().build().unwrap()));
        let engine = Engine { runtime, stop: Arc::default(), background: Mutex::default() };
        let refused = engine.drive_in_background(|_| Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut driven = 0;
        for _ in 0..2 {
            let spawn = |_| {
                driven += 1;
                Ok(())
            };
            engine.drive_in_background(spawn).unwrap();
        }
        assert_eq!(driven, 1);
    }
}
