//! Peers without a session: they send the bytes that they are told to, and may break any rule. Blocking sockets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use rpc::wire::frame::{Cut, Oversized, append, cut};
use rpc::wire::header::{self, Kind, RequestHeader};
use rpc::wire::hello::{Extras, Hello, ServiceInfo};
use rpc::{Incarnation, PeerId};

pub struct RawPeer {
    pub stream: UnixStream,
    unread: BytesMut,
}

impl RawPeer {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, unread: BytesMut::new() }
    }

    /// The other end of the next connection.
    pub fn accepted(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, unread: BytesMut::new() }
    }

    /// Connected, and its handshake done.
    pub fn welcomed(path: &Path) -> Self {
        Self::welcomed_as(path, PeerId::random(), Incarnation::random(), 1)
    }

    /// The same, as whom it says that it is.
    pub fn welcomed_as(path: &Path, peer_id: PeerId, incarnation: Incarnation, epoch: u64) -> Self {
        let mut peer = Self::connect(path);
        peer.stream.write_all(&hello_as(peer_id, incarnation, epoch)).unwrap();
        let (kind, code, _) = peer.next().unwrap();
        assert_eq!(kind, Kind::Welcome, "{code}");
        peer
    }

    /// The next frame: its kind, its `aux`, its id. `None` at the end.
    pub fn next(&mut self) -> Option<(Kind, u32, u64)> {
        loop {
            if let Cut::Frame { frame, consumed } = cut(&self.unread, 1 << 24) {
                let frame = header::parse(frame).unwrap().unwrap();
                let taken = (frame.kind, frame.aux, frame.id);
                let _ = self.unread.split_to(consumed);
                return Some(taken);
            }
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.unread.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads and counts bytes until the end, on a thread of its own.
    pub fn drains(&self) -> std::thread::JoinHandle<u64> {
        let mut stream = self.stream.try_clone().unwrap();
        stream.set_read_timeout(None).unwrap();
        std::thread::spawn(move || {
            let (mut bytes, mut total) = (vec![0; 256 << 10], 0);
            while let Ok(read @ 1..) = stream.read(&mut bytes) {
                total += read as u64;
            }
            total
        })
    }
}

pub fn frame(fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    append(&mut out, usize::MAX, |out| {
        fill(out);
        Ok::<(), Oversized>(())
    })
    .unwrap();
    out
}

/// The Hello of a new peer. It lists no methods: none is checked.
pub fn hello() -> BytesMut {
    hello_as(PeerId::random(), Incarnation::random(), 1)
}

fn hello_as(peer_id: PeerId, incarnation: Incarnation, epoch: u64) -> BytesMut {
    let service = ServiceInfo { name: "abused", version: 1, methods: &[] };
    let hello = Hello::new(peer_id, incarnation, 0, epoch, 1 << 20, 1024, "abused", 1);
    frame(|out| hello.put(out, &service, Extras::default()))
}

pub fn control(kind: Kind, aux: u32, id: u64) -> BytesMut {
    frame(|out| header::put_common(out, kind, 0, aux, id))
}

pub fn ping(floor: u64) -> BytesMut {
    frame(|out| {
        header::put_common(out, Kind::Ping, 0, 0, 1);
        out.extend_from_slice(&floor.to_le_bytes());
    })
}

pub fn request<R: rpc::Request>(id: u64, floor: u64, request: &R) -> BytesMut {
    let mut body = BytesMut::new();
    rpc::wire::body::encode(request, &mut body).unwrap();
    request_of(R::ID, id, floor, &body)
}

pub fn request_of(method: u16, id: u64, floor: u64, body: &[u8]) -> BytesMut {
    open_of(method, id, floor, body, None)
}

/// The same; with credit, items and bytes, it opens a stream.
pub fn open_of(method: u16, id: u64, floor: u64, body: &[u8], credit: Option<(u32, u32)>) -> BytesMut {
    let header = RequestHeader { flags: 0, id, floor, method, version: 1, remaining_ms: 600_000, credit };
    frame(|out| {
        header::put_request(out, &header);
        out.extend_from_slice(body);
    })
}
