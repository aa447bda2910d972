//! Any byte stream as a transport: what the client may conclude, who is let in, and what a stream that buffers needs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rpc::transport::{Accept, Connector, Incoming};
use rpc::{Address, CallContext, CallError, Cause, Client, NotDelivered, Peer, Refusal, Secret, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64)]
struct Add {
    number: u64,
}
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = String)]
struct Who;
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = ())]
struct Hold;
#[derive(rpc::Protocol)]
#[rpc(name = "sum", version = 1)]
enum Sum {
    Add(Add),
    Who(Who),
    Hold(Hold),
}

#[derive(Default)]
struct Sums {
    total: AtomicUsize,
    held: Notify,
    release: Notify,
}

impl SumHandler for Arc<Sums> {
    async fn add(&self, m: Add) -> Result<u64, rpc::Never> {
        let number = usize::try_from(m.number).unwrap();
        Ok((self.total.fetch_add(number, Ordering::SeqCst) + number) as u64)
    }
    async fn who(&self, _: Who) -> Result<String, rpc::Never> {
        Ok(CallContext::current().unwrap().peer.to_string())
    }
    async fn hold(&self, _: Hold) -> Result<(), rpc::Never> {
        self.held.notify_one();
        self.release.notified().await;
        Ok(())
    }
}

fn server() -> (Arc<Sums>, Server) {
    let sums = Arc::new(Sums::default());
    let server = Server::builder::<Sum>(Arc::clone(&sums)).start();
    (sums, server)
}

#[tokio::test]
async fn single_stream_carries_calls_and_its_end_is_an_answer() {
    let (sums, server) = server();
    let (ours, theirs) = tokio::io::duplex(256);
    server.serve_stream(theirs, Peer::own());
    let client = Client::<Sum>::new(&Address::stream("a pipe", ours));
    assert_eq!(client.call(Add { number: 2 }).await.unwrap(), 2);
    assert_eq!(client.call(Who).await.unwrap(), Peer::own().to_string());

    let held = tokio::spawn({
        let client = client.clone();
        async move { client.call(Hold).await }
    });
    sums.held.notified().await;
    drop(server);
    // There is no second stream on which it could be asked what became of it.
    let error = held.await.unwrap().unwrap_err();
    let CallError::Unknown(doubt) = error else { panic!("{error}") };
    assert_eq!(doubt.cause(), Cause::ConnectionLost);
    let error = client.call(Add { number: 1 }).await.unwrap_err();
    let CallError::NotDelivered(NotDelivered::NoListener { address, reason }) = error else { panic!("{error}") };
    assert_eq!((address.to_string().as_str(), reason.as_str()), ("a pipe", "its only stream has been used"));
}

/// A connector into `server`, whose present connection can be cut.
fn wire(server: Arc<Server>) -> (Connector, Arc<Notify>, Arc<AtomicUsize>) {
    let (cut, dialled) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let connector = Connector::new("wire", {
        let (cut, dialled) = (Arc::clone(&cut), Arc::clone(&dialled));
        move || {
            dialled.fetch_add(1, Ordering::SeqCst);
            let (ours, mut middle) = tokio::io::duplex(256);
            let (theirs, mut other_middle) = tokio::io::duplex(256);
            server.serve_stream(theirs, Peer::own());
            let cut = Arc::clone(&cut);
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut middle, &mut other_middle) => {}
                    () = cut.notified() => {}
                }
            });
            std::future::ready(Ok(ours))
        }
    });
    (connector, cut, dialled)
}

#[tokio::test]
async fn connector_is_asked_again_and_the_open_call_is_resolved() {
    let (sums, server) = server();
    let (connector, cut, dialled) = wire(Arc::new(server));
    let client = Client::<Sum>::new(&Address::custom(connector));
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.call(Hold).await }
    });
    sums.held.notified().await;
    cut.notify_one();
    // It runs on, and the answer comes on the second connection.
    while dialled.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    sums.release.notify_one();
    held.await.unwrap().unwrap();
    assert_eq!(dialled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn connector_that_fails_says_why_and_nothing_was_delivered() {
    let connector = Connector::new("nowhere", || async { Err::<DuplexStream, _>(io::Error::other("the moon is out")) });
    let client = Client::<Sum>::new(&Address::custom(connector));
    let error = client.call(Add { number: 1 }).await.unwrap_err().to_string();
    assert!(error.contains("was not delivered: nothing listens at nowhere (the moon is out)"), "{error}");
}

#[tokio::test]
async fn peer_without_proof_is_refused_by_default() {
    let (sums, server) = server();
    let (ours, theirs) = tokio::io::duplex(256);
    server.serve_stream(theirs, Peer::Unproven);
    let client = Client::<Sum>::new(&Address::stream("a pipe", ours));
    let error = client.call(Add { number: 1 }).await.unwrap_err();
    let CallError::NotDelivered(why) = error else { panic!("{error}") };
    assert_eq!(why, NotDelivered::Refused(Refusal::Unauthorized));
    assert_eq!(sums.total.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn plain_tcp_is_refused_by_default() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let server = Server::builder::<Sum>(Arc::new(Sums::default())).serve_from("tcp", listener);
    let client = Client::<Sum>::new(&Address::custom(Connector::tcp(&authority)));
    let error = client.call(Add { number: 1 }).await.unwrap_err();
    let CallError::NotDelivered(why) = error else { panic!("{error}") };
    assert_eq!(why, NotDelivered::Refused(Refusal::Unauthorized));
    server.drain().await;
}

#[tokio::test]
async fn peer_without_proof_is_let_in_where_the_server_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let server = Server::builder::<Sum>(Arc::new(Sums::default())).unproven().serve_from("tcp", listener);
    let client = Client::<Sum>::new(&Address::custom(Connector::tcp(&authority)));
    assert_eq!(client.call(Who).await.unwrap(), Peer::Unproven.to_string());
    server.drain().await;
}

#[tokio::test]
async fn peer_without_proof_is_let_in_with_the_secret_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::custom(Connector::tcp(&listener.local_addr().unwrap().to_string()));
    let secret = |byte| Secret::new([byte; 32]).unwrap();
    let sums = Arc::new(Sums::default());
    let server = Server::builder::<Sum>(Arc::clone(&sums)).secret(secret(7)).serve_from("tcp", listener);
    for client in [Client::<Sum>::builder(&address), Client::builder(&address).secret(secret(8))] {
        let error = client.build().call(Add { number: 1 }).await.unwrap_err();
        assert!(matches!(error, CallError::NotDelivered(_)), "{error}");
    }
    assert_eq!(sums.total.load(Ordering::SeqCst), 0);
    let client = Client::<Sum>::builder(&address).secret(secret(7)).build();
    assert_eq!(client.call(Who).await.unwrap(), Peer::Secret.to_string());
    server.drain().await;
}

#[tokio::test]
async fn source_of_connections_is_served_like_a_listener() {
    let (sender, source) = mpsc::channel(4);
    let server = Server::builder::<Sum>(Arc::new(Sums::default())).serve_from("handed over", source);
    assert_eq!(server.address().to_string(), "handed over");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (ours, theirs) = tokio::io::duplex(256);
        sender.send(Incoming::new(theirs, Peer::own())).await.unwrap();
        clients.push(Client::<Sum>::new(&Address::stream("a pipe", ours)));
    }
    for (client, sum) in clients.iter().zip([1, 2, 3]) {
        assert_eq!(client.call(Add { number: 1 }).await.unwrap(), sum);
    }
    server.drain().await;
}

/// Has one more connection whenever it is asked, which is gone before it is taken in: somebody connects and goes faster than
/// that can be done.
struct Eager;

impl Accept for Eager {
    async fn accept(&mut self) -> io::Result<Incoming> {
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

#[test]
fn source_that_never_has_to_wait_leaves_turns_to_those_that_are_connected() {
    let (answered, hears) = std::sync::mpsc::channel();
    // Never joined where it fails: its runtime has no turn left to end in.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::builder::<Sum>(Arc::new(Sums::default())).serve_from("eager", Eager);
            let (ours, theirs) = tokio::io::duplex(256);
            server.serve_stream(theirs, Peer::own());
            let client = Client::<Sum>::new(&Address::stream("a pipe", ours));
            for sum in 1..=10 {
                assert_eq!(client.call(Add { number: 1 }).await.unwrap(), sum);
            }
        });
        answered.send(()).unwrap();
    });
    hears.recv_timeout(Duration::from_secs(60)).expect("ten calls are answered");
}

#[tokio::test]
async fn unix_socket_bound_elsewhere_names_its_peers() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s");
    #[expect(clippy::disallowed_methods, reason = "the point: somebody else has bound it")]
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = Server::builder::<Sum>(Arc::new(Sums::default())).serve_from("activated", listener);
    let client = Client::<Sum>::new(&Address::unix(&path));
    assert_eq!(client.call(Who).await.unwrap(), Peer::own().to_string());
    server.drain().await;
}

/// What is written stays here until it is flushed.
struct Buffered {
    stream: DuplexStream,
    held: Vec<u8>,
}

impl AsyncRead for Buffered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.held.is_empty() {
            let sent = std::task::ready!(Pin::new(&mut this.stream).poll_write(cx, &this.held))?;
            this.held.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn stream_that_buffers_is_flushed_on_both_sides() {
    let (_, server) = server();
    // Smaller than a Hello, so that the flush itself is pending at times.
    let (ours, theirs) = tokio::io::duplex(16);
    server.serve_stream(Buffered { stream: theirs, held: Vec::new() }, Peer::own());
    let client = Client::<Sum>::new(&Address::stream("a pipe", Buffered { stream: ours, held: Vec::new() }));
    for sum in 1..=20 {
        assert_eq!(client.call(Add { number: 1 }).await.unwrap(), sum);
    }
    // Its last word is flushed too, before the stream is dropped.
    server.drain().await;
    let error = client.call(Add { number: 1 }).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(_)), "{error}");
}

/// Sends what it is given, and then says that it has failed.
struct Liar {
    stream: DuplexStream,
    lies: Arc<AtomicBool>,
}

impl AsyncRead for Liar {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.lies.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Liar {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if self.lies.load(Ordering::SeqCst) {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        } else {
            Poll::Ready(Ok(sent))
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A TLS stream does this: the first record has left when the second one fails.
#[tokio::test]
async fn request_that_a_stream_sent_before_it_failed_is_never_not_delivered() {
    let (sums, server) = server();
    let (ours, theirs) = tokio::io::duplex(4096);
    server.serve_stream(theirs, Peer::own());
    let lies = Arc::new(AtomicBool::new(false));
    let client = Client::<Sum>::new(&Address::stream("a liar", Liar { stream: ours, lies: Arc::clone(&lies) }));
    client.call(Add { number: 1 }).await.unwrap();
    lies.store(true, Ordering::SeqCst);
    let error = client.call(Add { number: 10 }).deadline(Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "{error}");
    // And rightly so.
    while sums.total.load(Ordering::SeqCst) != 11 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn address_that_can_only_be_dialled_is_not_listened_at() {
    let address = Address::custom(Connector::tcp("127.0.0.1:1"));
    let error = rpc::serve::<Sum>(&address, Arc::new(Sums::default())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`tcp:127.0.0.1:1` can only be dialled; serve a source of connections with `serve_from`"
    );
    // And where a source is served, its name leads nowhere.
    let server = Server::builder::<Sum>(Arc::new(Sums::default())).start();
    let result = Client::<Sum>::new(server.address()).call(Add { number: 1 }).await;
    assert!(matches!(result, Err(CallError::NotDelivered(NotDelivered::NoListener { .. }))), "{result:?}");
}
