//! Any byte stream as a transport, on both sides.
//!
//! A client is given a [`Connector`], which makes a new stream for each connection; a server a source of streams
//! ([`Accept`]), or single ones ([`Server::serve_stream`](crate::Server::serve_stream)). Never decides who may connect: a
//! transport says what it has proof of ([`Peer`]), the server's policy judges it.
//!
//! # What holds on a transport of your own
//! The outcomes of a call keep their meaning on every transport that delivers its bytes in order and unchanged, or not at
//! all, and that delivers nothing any more once it has been dropped. Not delivered is claimed more rarely: what was offered to
//! the stream counts as sent, whether it says that it took it or not, because it may buffer, encrypt and send in part.
//! Such calls are resolved on the next connection. Whoever holds old connections back, a proxy for example, must not do so
//! for longer than the server remembers a lane ([`Limits::lane_retention`](crate::Limits::lane_retention), less its
//! handshake timeout).
//!
//! Who is at the other end is as certain as the transport's proof: the kernel's word about processes exists on `unix:`
//! and `mem:` only.
//!
//! ```
//! # #[derive(serde::Serialize, serde::Deserialize, rpc::Request)]
//! # #[rpc(id = 1, ack = u64)]
//! # struct Double { number: u64 }
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "double", version = 1)]
//! # enum Doubles { Double(Double) }
//! # struct Doubling;
//! # impl DoublesHandler for Doubling {
//! #     async fn double(&self, m: Double) -> Result<u64, rpc::Never> { Ok(m.number * 2) }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = rpc::Server::builder::<Doubles>(Doubling).start();
//! let (ours, theirs) = tokio::io::duplex(4096);
//! server.serve_stream(theirs, rpc::Peer::own());
//! let client = rpc::Client::<Doubles>::new(&rpc::Address::stream("a pipe", ours));
//! assert_eq!(client.call(Double { number: 21 }).await?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! Neighbours: `io::dial` and `io::accept` use what is made here; `tls` (with the feature of that name) is one such
//! transport.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::io::stream::Stream;
use crate::peer::Peer;

/// A byte stream in both directions. Implemented for everything that can be one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// Why a connection was not let through before the first frame. What was sent on it was not delivered.
///
/// A connector reports one as an [`io::Error`] with this inside (`io::Error::other(fault)`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFault {
    /// The server's certificate comes from nobody whom we trust.
    #[error("the server's certificate is not signed by an authority that we trust")]
    UnknownIssuer,
    /// The server's certificate is not valid at this time.
    #[error("the server's certificate has expired or is not valid yet")]
    Expired,
    /// The server's certificate is for another name.
    #[error("the server's certificate is for another name")]
    WrongName,
    /// The server wants a certificate of us, and we have none.
    #[error("the server requires a client certificate; give the client an identity")]
    CertificateRequired,
    /// The server does not accept our certificate. Holds its reason.
    #[error("the server does not accept our certificate: {0}")]
    CertificateRefused(String),
    /// Who is there does not speak TLS.
    #[error("who listens there does not speak TLS")]
    NotTls,
    /// Something else.
    #[error("{0}")]
    Other(String),
}

impl HandshakeFault {
    /// What a transport's error says, if it speaks of a handshake.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        if let Some(fault) = inner.downcast_ref::<Self>() {
            return Some(fault.clone());
        }
        #[cfg(feature = "tls")]
        if let Some(error) = inner.downcast_ref::<rustls::Error>() {
            return Some(crate::tls::fault(error));
        }
        None
    }

    /// Whether it is the server's own word that it let us not through. Everything else may be the doing of somebody in the
    /// middle, after the server has read what we sent.
    pub(crate) fn is_the_servers_word(&self) -> bool {
        matches!(self, Self::CertificateRequired | Self::CertificateRefused(_))
    }
}

type Dialling = BoxFuture<'static, io::Result<Stream>>;

/// Makes connections to one service.
///
/// Cheap to clone. Two are equal if one was cloned from the other.
#[derive(Clone)]
pub struct Connector {
    name: Arc<str>,
    dial: Arc<dyn Fn() -> Dialling + Send + Sync>,
}

impl Connector {
    /// Calls `dial` for each connection. `name` is for people: it stands in errors and logs.
    ///
    /// A client connects when it needs to, and again after a connection was lost; then it asks what became of the calls that
    /// were open. `dial` is trusted: whoever it reaches is given the requests. It is dropped, wherever it waits, when nobody
    /// wants the connection any more.
    ///
    /// Errors of `dial` end the calls that wait for it as not delivered.
    pub fn new<F, T>(name: &str, dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Transport,
    {
        Self::with_peer(name, move || {
            let dialling = dial();
            async move { Ok((dialling.await?, Peer::Unproven)) }
        })
    }

    /// Like [`new`](Self::new), where the transport knows whom it has reached.
    pub fn with_peer<F, T>(name: &str, dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<(T, Peer)>> + Send + 'static,
        T: Transport,
    {
        let dial = move || -> Dialling {
            let dialling = dial();
            Box::pin(async move {
                let (stream, peer) = dialling.await?;
                Ok(Stream::opaque(stream, peer))
            })
        };
        Self { name: name.into(), dial: Arc::new(dial) }
    }

    /// A stream that is already there: it is used once. When it ends there is no second one, so what was open then ends as
    /// in doubt or as not delivered, like with a server that has gone.
    pub fn once(name: &str, stream: impl Transport) -> Self {
        let stream = Mutex::new(Some(stream));
        Self::new(name, move || {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "its only stream has been used");
            std::future::ready(stream.ok_or_else(gone))
        })
    }

    /// TCP to `authority` (`host:port`), without proof of anything: for a tunnel or a network that is trusted.
    /// The server needs a policy or a secret that lets [`Peer::Unproven`] in.
    pub fn tcp(authority: &str) -> Self {
        let to = authority.to_owned();
        Self::new(&format!("tcp:{authority}"), move || {
            let to = to.clone();
            async move {
                let stream = TcpStream::connect(to).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        })
    }

    /// The name of something that cannot be dialled: where a server is that takes its connections from elsewhere.
    pub(crate) fn unreachable(name: &str) -> Self {
        Self::new(name, || {
            std::future::ready(Err::<tokio::io::DuplexStream, _>(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "it takes its connections from a source of its own; use a connector that reaches that",
            )))
        })
    }

    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dial(&self) -> impl Future<Output = io::Result<Stream>> + Send + use<> {
        (self.dial)()
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dial, &other.dial)
    }
}

impl Eq for Connector {}

impl Hash for Connector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.name).finish()
    }
}

/// A source of connections for a server.
pub trait Accept: Send + 'static {
    /// The next connection.
    ///
    /// After an error the server pauses and asks again. A source that has ended waits for ever.
    ///
    /// # Cancel safety
    /// Must be cancel safe: the server drops the future to look after something else, and no connection may be lost
    /// with it.
    fn accept(&mut self) -> impl Future<Output = io::Result<Incoming>> + Send;
}

/// A connection that somebody has opened to us.
pub struct Incoming(pub(crate) Arrival);

pub(crate) enum Arrival {
    Ready(Stream),
    Handshake(Dialling),
}

impl Incoming {
    /// A stream, and who is at its other end.
    pub fn new(stream: impl Transport, peer: Peer) -> Self {
        Self(Arrival::Ready(Stream::opaque(stream, peer)))
    }

    /// A connection whose own handshake comes first. It runs beside the source, is counted among the server's handshakes,
    /// and must end within [`Limits::handshake_timeout`](crate::Limits::handshake_timeout), the Hello included.
    pub fn after<T: Transport>(handshake: impl Future<Output = io::Result<(T, Peer)>> + Send + 'static) -> Self {
        Self(Arrival::Handshake(Box::pin(async move {
            let (stream, peer) = handshake.await?;
            Ok(Stream::opaque(stream, peer))
        })))
    }

    pub(crate) fn stream(stream: Stream) -> Self {
        Self(Arrival::Ready(stream))
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// Connections that somebody else accepts, for example a process that hands out descriptors.
impl Accept for mpsc::Receiver<Incoming> {
    async fn accept(&mut self) -> io::Result<Incoming> {
        match self.recv().await {
            Some(incoming) => Ok(incoming),
            None => std::future::pending().await,
        }
    }
}

/// Plain TCP: [`Peer::Unproven`], so a server refuses it unless its policy or its secret says otherwise.
impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<Incoming> {
        let (stream, _) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(Incoming::new(stream, Peer::Unproven))
    }
}

/// A Unix socket that was bound elsewhere, for example by a service manager. Peers are known by `SO_PEERCRED`; that nobody
/// else can have the socket's name is the binder's business.
impl Accept for tokio::net::UnixListener {
    async fn accept(&mut self) -> io::Result<Incoming> {
        let (stream, _) = Self::accept(self).await?;
        Ok(Incoming::stream(Stream::unix(stream)?))
    }
}

/// A source whose type has been forgotten.
pub(crate) trait DynAccept: Send {
    fn accept_boxed(&mut self) -> BoxFuture<'_, io::Result<Incoming>>;
}

impl<A: Accept> DynAccept for A {
    fn accept_boxed(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(Accept::accept(self))
    }
}
