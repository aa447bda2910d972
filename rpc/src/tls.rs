//! TCP with mutual TLS: both sides show a certificate, and both are verified before a frame is read.
//!
//! Never lets a client in without a certificate, whatever the configuration says. Who was verified is a
//! [`Peer::Certificate`]: to policies and handlers of the server, and to the client by
//! [`Client::server`](crate::Client::server).
//!
//! The cryptography is rustls with `ring`; [`server_config`] and [`client_config`] speak TLS 1.3 only. Other configurations
//! of rustls can be given instead. Neighbours: made of what [`transport`](crate::transport) offers to everybody.
//!
//! ```no_run
//! # #[derive(serde::Serialize, serde::Deserialize, rpc::Request)]
//! # #[rpc(id = 1, ack = ())]
//! # struct Reset;
//! # #[derive(rpc::Protocol)]
//! # #[rpc(name = "calc", version = 1)]
//! # enum Calc { Reset(Reset) }
//! # struct Sums;
//! # impl CalcHandler for Sums {
//! #     async fn reset(&self, _: Reset) -> Result<(), rpc::Never> { Ok(()) }
//! # }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use rpc::tls::{self, Authorities, Identity};
//! let read = |name: &str| std::fs::read(name);
//!
//! let identity = Identity::from_pem(&read("server.pem")?, &read("server.key")?)?;
//! let config = tls::server_config(identity, &Authorities::from_pem(&read("clients-ca.pem")?)?)?;
//! let listener = tls::Listener::bind("0.0.0.0:4433", config).await?;
//! let server = rpc::Server::builder::<Calc>(Sums).serve_from("tls:0.0.0.0:4433", listener);
//!
//! let identity = Identity::from_pem(&read("client.pem")?, &read("client.key")?)?;
//! let config = tls::client_config(identity, &Authorities::from_pem(&read("servers-ca.pem")?)?)?;
//! let connector = tls::connector("calc.example.com:4433", config)?;
//! let client = rpc::Client::<Calc>::new(&rpc::Address::custom(connector));
//! # drop((server, client));
//! # Ok(())
//! # }
//! ```
//!
//! # What the promise rests on here
//! The outcomes of calls keep their meaning ([`transport`](crate::transport) says at what price). That only certain
//! processes may call rests on the authorities that were named and on the keys' secrecy, not on the kernel.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use rustls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::peer::{CertificateId, Peer};
use crate::transport::{Accept, Connector, HandshakeFault, Incoming};

/// How long a connection that was refused is kept, so that its client can read why. LIMIT: one slow round trip.
const LINGER: Duration = Duration::from_secs(1);
/// What is read of such a connection meanwhile, in bytes. LIMIT: a Hello and what may stand behind it.
const LINGER_BYTES_MAX: u64 = 256 << 10;

/// Why a configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A text in PEM could not be read, or holds none of what was looked for.
    #[error("cannot read {what} from PEM: {reason}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificates and key do not make a configuration.
    #[error("certificates and key do not make a configuration")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is no `host:port`.
    #[error("`{authority}` is no `host:port`")]
    Authority {
        /// The text.
        authority: String,
    },
}

/// Who we are: certificates, the leaf first, and the leaf's key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Whose signature we trust.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl Identity {
    /// Reads certificates and a key in PEM.
    ///
    /// # Errors
    /// [`TlsError::Pem`].
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates_of(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Pem { what: "a private key", reason: error.to_string() })?;
        Ok(Self { chain, key })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Authorities {
    /// Reads the certificates of authorities in PEM.
    ///
    /// # Errors
    /// [`TlsError`]: nothing there, or no certificate of an authority.
    pub fn from_pem(certificates: &[u8]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates_of(certificates)? {
            store.add(certificate).map_err(|error| TlsError::Config(error.into()))?;
        }
        Ok(Self(Arc::new(store)))
    }
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |reason| TlsError::Pem { what: "certificates", reason };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|failure| error(failure.to_string()))?;
    if found.is_empty() { Err(error("there is none".into())) } else { Ok(found) }
}

/// A server that shows `identity` and takes clients with a certificate of `clients`. TLS 1.3.
///
/// # Errors
/// [`TlsError::Config`]: for example a key that is not the certificate's.
pub fn server_config(identity: Identity, clients: &Authorities) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&clients.0), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Config(error.into()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| config.with_client_cert_verifier(verifier).with_single_cert(identity.chain, identity.key))
        .map_err(|error| TlsError::Config(error.into()))?;
    Ok(Arc::new(config))
}

/// A client that shows `identity` and takes servers with a certificate of `servers`. TLS 1.3.
///
/// # Errors
/// [`TlsError::Config`]: for example a key that is not the certificate's.
pub fn client_config(identity: Identity, servers: &Authorities) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| {
            config.with_root_certificates(Arc::clone(&servers.0)).with_client_auth_cert(identity.chain, identity.key)
        })
        .map_err(|error| TlsError::Config(error.into()))?;
    Ok(Arc::new(config))
}

/// A TCP port behind which TLS is spoken: a source of connections for
/// [`ServerBuilder::serve_from`](crate::ServerBuilder::serve_from).
///
/// Handshakes run beside each other, each within the server's handshake timeout. A client without a verified certificate
/// gets no further than that, even if the configuration does not ask for one.
pub struct Listener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener {
    /// Listens on a port. Port 0 is one that is free: see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(to: impl ToSocketAddrs, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(to).await?, config))
    }

    /// Speaks TLS on a listener that is already there.
    pub fn new(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { tcp, acceptor: config.into() }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl Accept for Listener {
    async fn accept(&mut self) -> io::Result<Incoming> {
        let (tcp, _) = self.tcp.accept().await?;
        // A peer that is gone already is found out by its handshake.
        let _ = tcp.set_nodelay(true);
        let handshake = self.acceptor.accept(tcp).into_fallible();
        Ok(Incoming::after(async move {
            match handshake.await {
                Ok(stream) => {
                    let peer = peer_of(stream.get_ref().1.peer_certificates());
                    let peer = peer.ok_or_else(|| io::Error::other("the client shows no certificate"))?;
                    Ok((stream, peer))
                }
                Err((error, tcp)) => {
                    linger(tcp).await;
                    Err(error)
                }
            }
        }))
    }
}

/// Closing a socket that has unread input resets it, and the alert that says why may be lost with it.
async fn linger(mut tcp: TcpStream) {
    let rest = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut (&mut tcp).take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Connects to `authority` (`host:port`) and verifies that whoever answers is `host`.
///
/// Failed handshakes end the calls that wait as
/// [`NotDelivered::Handshake`](crate::NotDelivered::Handshake). A client whose own certificate is refused learns it a
/// little later than the rest, behind its first frames (TLS 1.3 has it so); they were not delivered either.
///
/// # Errors
/// [`TlsError::Authority`].
pub fn connector(authority: &str, config: Arc<ClientConfig>) -> Result<Connector, TlsError> {
    let no_authority = || TlsError::Authority { authority: authority.to_owned() };
    let (host, port) = authority.rsplit_once(':').ok_or_else(no_authority)?;
    port.parse::<u16>().map_err(|_| no_authority())?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| no_authority())?;
    let (to, tls) = (authority.to_owned(), TlsConnector::from(config));
    Ok(Connector::with_peer(&format!("tls:{authority}"), move || {
        let (to, tls, name) = (to.clone(), tls.clone(), name.clone());
        async move {
            let tcp = TcpStream::connect(to).await?;
            tcp.set_nodelay(true)?;
            let stream = tls.connect(name, tcp).await?;
            let peer = peer_of(stream.get_ref().1.peer_certificates()).unwrap_or(Peer::Unproven);
            Ok((stream, peer))
        }
    }))
}

/// Who has shown these certificates, the leaf first.
fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<Peer> {
    certificates?.first().map(|leaf| Peer::Certificate(CertificateId::of(leaf)))
}

impl CertificateId {
    /// The id of a certificate, given as DER.
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut id = [0; 32];
        for (to, from) in id.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(id)
    }
}

/// What an error of rustls says about a handshake.
pub(crate) fn fault(error: &rustls::Error) -> HandshakeFault {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            // The second one: an authority of the same name and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => HandshakeFault::UnknownIssuer,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => HandshakeFault::Expired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                HandshakeFault::WrongName
            }
            error => HandshakeFault::Other(format!("the server's certificate is not valid: {error}")),
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => HandshakeFault::CertificateRequired,
        // A server sends these about a client's certificate, and before it reads anything else.
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // A signature of the handshake, not of a record: RFC 8446, section 6.2.
            | AlertDescription::DecryptError),
        ) => HandshakeFault::CertificateRefused(format!("{alert:?}")),
        rustls::Error::InvalidMessage(_) => HandshakeFault::NotTls,
        error => HandshakeFault::Other(error.to_string()),
    }
}
