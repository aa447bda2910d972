//! TCP with mutual TLS: who is let in, and what everybody else learns.
#![cfg(feature = "tls")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rpc::tls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use rpc::tls::{self, Authorities, Identity, TlsError};
use rpc::transport::{Connector, HandshakeFault};
use rpc::{Address, Blob, CallContext, CallError, CertificateId, Client, Denial, Limits, NotDelivered, Peer, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = String)]
struct Who;
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = Blob, ack_bytes_max = 1_000_000)]
struct Echo {
    bytes: Blob,
}
#[derive(rpc::Protocol)]
#[rpc(name = "who", version = 1)]
enum Asked {
    Who(Who),
    Echo(Echo),
}

#[derive(Default)]
struct Desk(AtomicUsize);

impl AskedHandler for Arc<Desk> {
    async fn who(&self, _: Who) -> Result<String, rpc::Never> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(CallContext::current().unwrap().peer.to_string())
    }
    async fn echo(&self, m: Echo) -> Result<Blob, rpc::Never> {
        Ok(m.bytes)
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Shown {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn signs(&self, name: &str) -> Shown {
        self.signs_until(name, 2999)
    }

    fn signs_until(&self, name: &str, year: i32) -> Shown {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Shown { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn trusted(&self) -> Authorities {
        Authorities::from_pem(self.0.pem().as_bytes()).unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

impl Shown {
    fn identity(&self) -> Identity {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }

    fn id(&self) -> CertificateId {
        CertificateId::of(&CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap())
    }
}

struct World {
    authority: Authority,
    shown: Shown,
    desk: Arc<Desk>,
    server: Server,
    port: u16,
}

async fn world() -> World {
    let authority = Authority::new();
    let shown = authority.signs("localhost");
    world_of(authority, shown, Limits::default()).await
}

async fn world_of(authority: Authority, shown: Shown, limits: Limits) -> World {
    let config = tls::server_config(shown.identity(), &authority.trusted()).unwrap();
    let listener = tls::Listener::bind("127.0.0.1:0", config).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let desk = Arc::new(Desk::default());
    let server = Server::builder::<Asked>(Arc::clone(&desk)).limits(limits).serve_from("tls", listener);
    World { authority, shown, desk, server, port }
}

impl World {
    fn client(&self, config: Arc<ClientConfig>) -> Client<Asked> {
        let connector = tls::connector(&format!("localhost:{}", self.port), config).unwrap();
        Client::new(&Address::custom(connector))
    }

    /// What a client with this configuration learns instead of an answer. That nothing was delivered must be true.
    #[track_caller]
    fn refused(&self, config: Arc<ClientConfig>) -> impl Future<Output = HandshakeFault> {
        let client = self.client(config);
        let desk = Arc::clone(&self.desk);
        async move {
            let result = client.call(Who).await;
            let Err(CallError::NotDelivered(NotDelivered::Handshake { fault, .. })) = result else {
                panic!("{result:?}")
            };
            assert_eq!(desk.0.load(Ordering::SeqCst), 0);
            fault
        }
    }
}

#[tokio::test]
async fn both_sides_know_each_other_by_certificate() {
    let world = world().await;
    let ours = world.authority.signs("caller");
    let client = world.client(tls::client_config(ours.identity(), &world.authority.trusted()).unwrap());
    assert_eq!(client.server(), None);
    assert_eq!(client.call(Who).await.unwrap(), Peer::Certificate(ours.id()).to_string());
    assert_eq!(client.server(), Some(Peer::Certificate(world.shown.id())));
    for _ in 0..100 {
        client.call(Who).await.unwrap();
    }
    world.server.drain().await;
    let error = client.call(Who).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(NotDelivered::NoListener { .. })), "{error}");
}

/// More than any buffer between them holds, in both directions at once.
#[tokio::test]
async fn large_and_small_calls_share_a_connection() {
    let world = world().await;
    let ours = world.authority.signs("caller");
    let client = world.client(tls::client_config(ours.identity(), &world.authority.trusted()).unwrap());
    let calls = (0..24_u8).map(|n| {
        let size = if n % 3 == 0 { 500_000 } else { 100 + usize::from(n) };
        let call = client.call(Echo { bytes: Blob(vec![n; size].into()) });
        async move {
            let bytes = call.await.unwrap();
            assert!(bytes.0.len() == size && bytes.0.iter().all(|byte| *byte == n), "{n}");
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(client.counters().connections, 1);
    world.server.drain().await;
}

#[tokio::test]
async fn server_of_a_foreign_authority_is_told_nothing() {
    let world = world().await;
    let ours = world.authority.signs("caller");
    // Of another name, and of the same name with another key.
    for foreign in [Authority::named("foreign"), Authority::new()] {
        let config = tls::client_config(ours.identity(), &foreign.trusted()).unwrap();
        assert_eq!(world.refused(config).await, HandshakeFault::UnknownIssuer);
    }
}

#[tokio::test]
async fn server_whose_certificate_has_expired_is_told_nothing() {
    let authority = Authority::new();
    let shown = authority.signs_until("localhost", 2020);
    let world = world_of(authority, shown, Limits::default()).await;
    let ours = world.authority.signs("caller");
    let config = tls::client_config(ours.identity(), &world.authority.trusted()).unwrap();
    assert_eq!(world.refused(config).await, HandshakeFault::Expired);
}

#[tokio::test]
async fn server_of_another_name_is_told_nothing() {
    let authority = Authority::new();
    let shown = authority.signs("elsewhere.example");
    let world = world_of(authority, shown, Limits::default()).await;
    let ours = world.authority.signs("caller");
    let config = tls::client_config(ours.identity(), &world.authority.trusted()).unwrap();
    assert_eq!(world.refused(config).await, HandshakeFault::WrongName);
}

#[tokio::test]
async fn client_without_a_certificate_is_told_to_bring_one() {
    let world = world().await;
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(world.authority.roots())
        .with_no_client_auth();
    assert_eq!(world.refused(config.into()).await, HandshakeFault::CertificateRequired);
}

#[tokio::test]
async fn client_of_a_foreign_authority_is_refused() {
    let world = world().await;
    for foreign in [Authority::named("foreign"), Authority::new()] {
        let theirs = foreign.signs("caller");
        let config = tls::client_config(theirs.identity(), &world.authority.trusted()).unwrap();
        let fault = world.refused(config).await;
        assert!(matches!(fault, HandshakeFault::CertificateRefused(_)), "{fault}");
    }
}

#[tokio::test]
async fn client_whose_certificate_has_expired_is_refused() {
    let world = world().await;
    let ours = world.authority.signs_until("caller", 2020);
    let config = tls::client_config(ours.identity(), &world.authority.trusted()).unwrap();
    assert_eq!(world.refused(config).await, HandshakeFault::CertificateRefused("CertificateExpired".into()));
}

#[tokio::test]
async fn certificate_can_be_refused_by_policy() {
    let authority = Authority::new();
    let (alice, bob) = (authority.signs("alice"), authority.signs("bob"));
    let config = tls::server_config(authority.signs("localhost").identity(), &authority.trusted()).unwrap();
    let listener = tls::Listener::bind("127.0.0.1:0", config).await.unwrap();
    let to = format!("localhost:{}", listener.local_addr().unwrap().port());
    let allowed = Peer::Certificate(alice.id());
    let server = Server::builder::<Asked>(Arc::new(Desk::default()))
        .authorize(move |who| if who.peer == allowed { Ok(()) } else { Err(Denial::from("not on the list")) })
        .serve_from("tls", listener);
    let client = |who: &Shown| {
        let config = tls::client_config(who.identity(), &authority.trusted()).unwrap();
        Client::<Asked>::new(&Address::custom(tls::connector(&to, config).unwrap()))
    };
    client(&alice).call(Who).await.unwrap();
    let error = client(&bob).call(Who).await.unwrap_err();
    let CallError::NotDelivered(NotDelivered::Unauthorized(why)) = error else { panic!("{error}") };
    assert_eq!(why, "not on the list");
    server.drain().await;
}

/// A configuration that does not ask for certificates lets nobody in.
#[tokio::test]
async fn server_that_does_not_ask_for_certificates_lets_nobody_in() {
    let authority = Authority::new();
    let shown = authority.signs("localhost");
    let chain = vec![CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = tls::Listener::bind("127.0.0.1:0", config.into()).await.unwrap();
    let to = format!("localhost:{}", listener.local_addr().unwrap().port());
    let desk = Arc::new(Desk::default());
    let server = Server::builder::<Asked>(Arc::clone(&desk)).serve_from("tls", listener);
    let config = tls::client_config(authority.signs("caller").identity(), &authority.trusted()).unwrap();
    let client = Client::<Asked>::new(&Address::custom(tls::connector(&to, config).unwrap()));
    let error = client.call(Who).await.unwrap_err();
    assert!(!matches!(error, CallError::Rejected(_)), "{error}");
    assert_eq!(desk.0.load(Ordering::SeqCst), 0);
    server.drain().await;
}

#[tokio::test]
async fn plain_client_at_a_tls_port_gets_no_frame() {
    let world = world().await;
    let mut plain = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    plain.write_all(b"\x00\x00\x00\x10plain as the day").await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    // At most a TLS alert (record type 21).
    assert!(answer.len() <= 7 && answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");

    let plain = Connector::tcp(&format!("127.0.0.1:{}", world.port));
    let error =
        Client::<Asked>::new(&Address::custom(plain)).call(Who).deadline(Duration::from_secs(5)).await.unwrap_err();
    assert!(!matches!(error, CallError::Rejected(_)), "{error}");
    assert_eq!(world.desk.0.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn tls_client_at_a_plain_port_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let authority = Authority::new();
    let config = tls::client_config(authority.signs("caller").identity(), &authority.trusted()).unwrap();
    let connector = tls::connector(&format!("localhost:{port}"), config).unwrap();
    let error = Client::<Asked>::new(&Address::custom(connector)).call(Who).await.unwrap_err();
    let CallError::NotDelivered(NotDelivered::Handshake { fault, .. }) = error else { panic!("{error}") };
    assert_eq!(fault, HandshakeFault::NotTls);
    plain.await.unwrap();
}

#[tokio::test]
async fn handshake_is_counted_and_ends_by_its_timeout() {
    let authority = Authority::new();
    let shown = authority.signs("localhost");
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let world = world_of(authority, shown, limits).await;
    let mut silent = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    while world.server.connections() == 0 {
        tokio::task::yield_now().await;
    }
    let started = std::time::Instant::now();
    assert_eq!(silent.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    assert!(started.elapsed() < Duration::from_secs(5));
    while world.server.connections() != 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn configuration_that_cannot_work_says_why() {
    let authority = Authority::new();
    let (one, other) = (authority.signs("a"), authority.signs("b"));
    let crossed = Identity::from_pem(one.certificate.as_bytes(), other.key.as_bytes()).unwrap();
    assert!(matches!(tls::server_config(crossed, &authority.trusted()), Err(TlsError::Config(_))));
    assert!(matches!(Identity::from_pem(b"", one.key.as_bytes()), Err(TlsError::Pem { what: "certificates", .. })));
    assert!(matches!(
        Identity::from_pem(one.certificate.as_bytes(), b"no key"),
        Err(TlsError::Pem { what: "a private key", .. })
    ));
    for text in ["localhost", "localhost:", "localhost:70000", " :1"] {
        let config = tls::client_config(one.identity(), &authority.trusted()).unwrap();
        assert!(matches!(tls::connector(text, config), Err(TlsError::Authority { .. })), "{text}");
    }
}
