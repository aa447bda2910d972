//! How a server is set up before it listens.
//!
//! A value: nothing is opened until [`serve`](ServerBuilder::serve) or [`serve_calls`](ServerBuilder::serve_calls).
//!
//! Read by `io::hub`, which applies what is set here to each connection.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use super::{Calls, Denial, ListenError, Newcomer, Pass, Policy, Secret, Server, start};
use crate::address::Address;
use crate::io::listener::Listener;
use crate::limits::Limits;
use crate::peer::Peer;
use crate::request::{Has, MethodInfo, Protocol, Request};
use crate::responder::RawResponder;
use crate::service::{Answer, Service};
use crate::transport::Accept;

/// A server that does not listen yet. Made by [`Server::builder`] or [`Server::actor`].
#[must_use = "a builder opens nothing until it is told to serve"]
pub struct ServerBuilder<P, H = Service<P>> {
    handlers: H,
    options: Options,
    _protocol: PhantomData<fn() -> P>,
}

/// What takes the place of handlers in a builder whose calls go to an actor.
#[derive(Debug)]
pub struct Actor(());

/// Everything that can be set before a server listens.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) policy: Policy,
    /// Methods that may have so many running handlers only.
    pub(crate) methods: Vec<((u16, u16), usize)>,
}

impl Server {
    /// Sets up a server whose requests go to `handler`.
    pub fn builder<P: Protocol>(handler: impl Into<P::Service>) -> ServerBuilder<P> {
        ServerBuilder::new(handler.into().into())
    }

    /// Sets up a server of a service that is there already, for example one made by [`Service::new`].
    pub fn of<P: Protocol>(service: Service<P>) -> ServerBuilder<P> {
        ServerBuilder::new(service)
    }

    /// Sets up a server whose requests go, with their responders, to whoever receives them from a queue: see
    /// [`ServerBuilder::serve_calls`].
    pub fn actor<P: Protocol>() -> ServerBuilder<P, Actor> {
        ServerBuilder::new(Actor(()))
    }
}

impl<P, H> ServerBuilder<P, H> {
    pub(crate) fn new(handlers: H) -> Self {
        Self { handlers, options: Options::default(), _protocol: PhantomData }
    }

    /// Limits other than the default ones.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// For how long after a connection's last bytes it asks its socket again before it sleeps; at most a millisecond, zero for
    /// never: [`Limits::spin`] alone, which says what that costs. Say it after [`limits`](Self::limits).
    pub fn spin(mut self, bound: Duration) -> Self {
        self.options.limits.spin = bound;
        self
    }

    /// Asks `policy` about each connection, when its Hello has been read and before any of its requests is looked at. It
    /// sees whom the kernel has let through: only our own user, unless [`any_user`](Self::any_user) says otherwise. Who is
    /// denied is told why; its calls end as not delivered. Without a policy everybody of our user is let in.
    ///
    /// It runs in the connection's task: it must not block.
    pub fn authorize<A>(mut self, policy: A) -> Self
    where
        A: Fn(&Newcomer<'_>) -> Result<(), Denial> + Send + Sync + 'static,
    {
        self.options.policy.admission = Some(Arc::new(move |newcomer: &Newcomer<'_>| policy(newcomer).map(|()| None)));
        self
    }

    /// Like [`authorize`](Self::authorize), whose place it takes, and what `policy` returns is asked about each request of that
    /// connection, before its body is decoded: what is dear to find out about a peer is found out once. `None` is all
    /// requests. A call that is denied ends as not delivered (unauthorized), with the reason.
    ///
    /// Both run in the connection's task: they must not block.
    pub fn authorize_connections<A, C>(mut self, policy: A) -> Self
    where
        A: Fn(&Newcomer<'_>) -> Result<Option<C>, Denial> + Send + Sync + 'static,
        C: Fn(&MethodInfo) -> Result<(), Denial> + Send + Sync + 'static,
    {
        let boxed = |pass: C| Box::new(pass) as Box<Pass>;
        self.options.policy.admission =
            Some(Arc::new(move |newcomer: &Newcomer<'_>| policy(newcomer).map(|pass| pass.map(boxed))));
        self
    }

    /// Asks `policy` about each request, before its body is decoded and its handler made. A call that is denied ends as
    /// not delivered (unauthorized), with the reason.
    ///
    /// It runs in the connection's task, for each request: it must be fast and must not block.
    pub fn authorize_calls<A>(mut self, policy: A) -> Self
    where
        A: Fn(&Peer, &MethodInfo) -> Result<(), Denial> + Send + Sync + 'static,
    {
        self.options.policy.permission = Some(Arc::new(policy));
        self
    }

    /// Lets in only who shows `secret`. For transports without credentials; see [`Secret`] for what it does not do.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.options.policy.secret = Some(secret);
        self
    }

    /// Leaves it to the policy which users may connect, instead of letting in our own only. The mode of a Unix socket keeps
    /// everybody else but root out all the same.
    pub fn any_user(mut self) -> Self {
        self.options.policy.any_user = true;
        self
    }

    /// Listens to peers of whom their transport proves nothing ([`Peer::Unproven`]), and leaves it to the policy whom to let in.
    /// Without one, that is everybody who can open a connection.
    pub fn unproven(mut self) -> Self {
        self.options.policy.unproven = true;
        self
    }

    /// Runs at most `running_max` handlers of the method `R` at once, for all clients together. Further calls end as not
    /// delivered (overloaded), before they are decoded, and are told when to try again: the time in which as many handlers
    /// of `R` ended lately as run now, from a millisecond to a second. Said twice, the smaller number counts.
    pub fn method_limit<R: Request>(mut self, running_max: usize) -> Self
    where
        P: Has<R>,
    {
        let method = (R::ID, R::VERSION);
        match self.options.methods.iter_mut().find(|(known, _)| *known == method) {
            Some((_, known_max)) => *known_max = running_max.min(*known_max),
            None => self.options.methods.push((method, running_max)),
        }
        self
    }

    /// Opens a descriptor of each peer's process for the time of its handshake: see [`Newcomer::pidfd`].
    pub fn pidfds(mut self) -> Self {
        self.options.policy.pidfds = true;
        self
    }
}

impl<P: Protocol> ServerBuilder<P> {
    #[cfg(feature = "tower")]
    pub(crate) fn map_service(self, map: impl FnOnce(Service<P>) -> Service<P>) -> Self {
        Self { handlers: map(self.handlers), ..self }
    }

    /// Listens at `address` and serves it until the [`Server`] is drained or dropped.
    ///
    /// # Errors
    /// [`ListenError`] names the path, the reason and the remedy; nothing is left behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn serve(self, address: &Address) -> Result<Server, ListenError> {
        Ok(start(Listener::bind(address)?, self.handlers, self.options))
    }

    /// Serves the connections that `source` brings: any transport. `name` is for people; it stands in errors and logs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve_from(self, name: &str, source: impl Accept) -> Server {
        start(Listener::source(name, Box::new(source)), self.handlers, self.options)
    }

    /// Starts a server that listens nowhere: it serves the connections that are given to it with
    /// [`Server::serve_stream`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> Server {
        start(Listener::nowhere(), self.handlers, self.options)
    }
}

impl<P: Protocol> ServerBuilder<P, Actor> {
    /// Serves `address` by giving every call, with its responder, to whoever receives from the returned queue. Up to
    /// `queue` calls wait in it, in the order in which each client sent them; further ones wait with their handlers'
    /// permits, within their deadlines. A `queue` of 0 counts as 1.
    ///
    /// # Errors
    /// Like [`ServerBuilder::serve`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn serve_calls(self, address: &Address, queue: usize) -> Result<(Server, Calls<P>), ListenError> {
        let (service, calls) = queued(queue);
        Ok((start(Listener::bind(address)?, service, self.options), calls))
    }

    /// Like [`ServerBuilder::serve_from`], with a queue of calls as in [`serve_calls`](Self::serve_calls).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve_calls_from(self, name: &str, source: impl Accept, queue: usize) -> (Server, Calls<P>) {
        let (service, calls) = queued(queue);
        (start(Listener::source(name, Box::new(source)), service, self.options), calls)
    }
}

/// A service that puts its calls in a queue.
fn queued<P: Protocol>(queue: usize) -> (Service<P>, Calls<P>) {
    let (sender, receiver) = mpsc::channel(queue.clamp(1, Semaphore::MAX_PERMITS));
    let service = Service::<P>::of_queue(move |request: P, raw: RawResponder| {
        let sender = sender.clone();
        async move {
            match sender.reserve().await {
                Ok(permit) => {
                    let begin = raw.begin();
                    permit.send((request.into_call(raw), begin));
                    Answer::Deferred
                }
                Err(_) => Answer::unavailable("the service has stopped taking calls"),
            }
        }
    });
    (service, Calls { queue: receiver })
}

impl<P: Protocol, H> fmt::Debug for ServerBuilder<P, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("service", &P::NAME)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
