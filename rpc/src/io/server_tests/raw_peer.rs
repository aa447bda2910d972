//! A server to be tested, and peers that speak to it in bytes.
//!
//! A raw peer has no session: it sends what it is told to and takes frames apart, so that a test can break any rule.
//!
//! Used by the tests of the server's driver.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::address::Address;
use crate::id::{Incarnation, PeerId};
use crate::limits::Limits;
use crate::server::Server;
use crate::wire::frame::{Cut, Oversized, append, cut};
use crate::wire::header::{self, GoodbyeCode, Kind, RequestHeader};
use crate::wire::hello::{Extras, Hello, ServiceInfo, Welcome};
use crate::{Blob, Client, Never, serve_with};

/// Answers with the text, `times` times; zero times is never.
#[derive(Serialize, Deserialize, crate::Request)]
#[rpc(id = 1, ack = Blob, ack_bytes_max = 65536)]
pub(in super::super) struct Say {
    pub(in super::super) text: Blob,
    pub(in super::super) times: u32,
}

#[derive(crate::Protocol)]
#[rpc(name = "say", version = 1)]
pub(in super::super) enum Speech {
    Say(Say),
}

#[derive(Clone, Default)]
struct Speaker(Arc<AtomicU64>);

impl SpeechHandler for Speaker {
    async fn say(&self, request: Say) -> Result<Blob, Never> {
        self.0.fetch_add(1, Ordering::SeqCst);
        if request.times == 0 {
            std::future::pending::<()>().await;
        }
        Ok(Blob(request.text.0.repeat(request.times as usize).into()))
    }
}

pub(super) const SAY: (u16, u16) = (1, 1);
/// Whatever a test waits for comes within this, or the test fails.
pub(super) const SOON: Duration = Duration::from_secs(20);

pub(super) struct World {
    pub(super) server: Server,
    pub(super) applied: Arc<AtomicU64>,
    /// Somebody else, who connects when first asked.
    other: Client<Speech>,
    pub(super) path: PathBuf,
    _scratch: tempfile::TempDir,
}

impl World {
    pub(super) async fn new(limits: Limits) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("d/s");
        let speaker = Speaker::default();
        let applied = Arc::clone(&speaker.0);
        let server = serve_with::<Speech>(&Address::unix(&path), speaker, limits).await.unwrap();
        let other = Client::new(server.address());
        Self { server, applied, other, path, _scratch: scratch }
    }

    /// One more client.
    pub(super) fn client(&self) -> Client<Speech> {
        Client::new(self.server.address())
    }

    pub(super) async fn peer(&self) -> RawPeer {
        RawPeer { stream: UnixStream::connect(&self.path).await.unwrap(), unread: BytesMut::new() }
    }

    /// A peer that has done its handshake.
    pub(super) async fn welcomed(&self) -> RawPeer {
        let mut peer = self.peer().await;
        peer.sends(&hello_of(|_| ())).await;
        let (kind, _, body) = peer.expects().await;
        assert_eq!(kind, Kind::Welcome);
        Welcome::parse(&body).unwrap();
        peer
    }

    /// The server is well: somebody else is answered.
    pub(super) async fn serves_others(&self) {
        let said = tokio::time::timeout(SOON, self.other.call(Say { text: Blob("still here".into()), times: 1 })).await;
        assert_eq!(said.expect("an answer in time").unwrap().0, "still here");
    }
}

/// A peer without a session: bytes in, frames out.
pub(super) struct RawPeer {
    pub(super) stream: UnixStream,
    pub(super) unread: BytesMut,
}

impl RawPeer {
    pub(super) async fn sends(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame: its kind, its `aux`, its body. `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<(Kind, u32, Vec<u8>)> {
        loop {
            if let Cut::Frame { frame, consumed } = cut(&self.unread, 1 << 20) {
                let frame = header::parse(frame).unwrap().unwrap();
                let taken = (frame.kind, frame.aux, frame.body.to_vec());
                let _ = self.unread.split_to(consumed);
                return Some(taken);
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.unread)).await.expect("bytes in time");
            match read {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "the stream ends in mid-frame: {:?}", self.unread);
                    return None;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) async fn expects(&mut self) -> (Kind, u32, Vec<u8>) {
        self.next().await.expect("a frame, not the end")
    }

    /// One Goodbye, then the end.
    pub(super) async fn expects_goodbye(&mut self, code: GoodbyeCode) {
        let (kind, aux, _) = self.expects().await;
        assert_eq!((kind, GoodbyeCode::from_number(aux)), (Kind::Goodbye, code));
        assert_eq!(self.next().await, None, "nothing follows a Goodbye");
    }
}

pub(super) const INFO: ServiceInfo = crate::Service::<Speech>::INFO;

/// A Hello of a new peer.
pub(super) fn hello_of(change: impl FnOnce(&mut Hello<'static>)) -> BytesMut {
    let mut hello = Hello::new(PeerId::random(), Incarnation::random(), 0, 1, 1 << 20, 1024, INFO.name, INFO.version);
    change(&mut hello);
    frame_of(|out| hello.put(out, &INFO, Extras::default()))
}

/// The Hellos of one peer: its connection number `epoch`.
pub(super) fn lane() -> impl Fn(u64) -> BytesMut {
    let (peer, incarnation) = (PeerId::random(), Incarnation::random());
    move |epoch| hello_of(|h| (h.peer, h.incarnation, h.epoch) = (peer, incarnation, epoch))
}

pub(super) fn frame_of(fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    append(&mut out, usize::MAX, |out| {
        fill(out);
        Ok::<(), Oversized>(())
    })
    .unwrap();
    out
}

pub(super) fn request_of((method, version): (u16, u16), id: u64, body: &[u8]) -> BytesMut {
    let header = RequestHeader { flags: 0, id, floor: 1, method, version, remaining_ms: 60_000, credit: None };
    frame_of(|out| {
        header::put_request(out, &header);
        out.extend_from_slice(body);
    })
}

pub(super) fn say(id: u64, text: &str, times: u32) -> BytesMut {
    let mut body = BytesMut::new();
    crate::wire::body::encode(&Say { text: Blob(text.to_owned().into()), times }, &mut body).unwrap();
    request_of(SAY, id, &body)
}

pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
