//! A connected Unix socket that is watched for what a call waits for: bytes to read.
//!
//! A socket that is also watched for room to write wakes its owner each time the peer has read: one wake and one system call
//! more for each call, for nothing. Room is watched only when a write has found none, or was large: the peer then reads
//! for as long as our thread needs to get up, and so finds it awake with its answer, instead of waking it for that. The same
//! descriptor is registered anew, for both. Never takes a second descriptor: a peer that does not read would cost two.
//!
//! While its owner spins, the socket is asked directly, whatever the runtime believes of it, and remembers nobody to wake.
//!
//! Used by `stream` and `spin`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::peer::Process;

/// Small writes that find room at once before the room is no longer watched. LIMIT: a bulk transfer fills the socket more
/// often than that; watching again costs two system calls.
const UNWATCHED_AFTER: u8 = 64;

/// From this size on a write is large. LIMIT: to copy it takes the peer about as long as it takes to wake a thread that
/// sleeps.
const WATCHED_WRITE_BYTES: usize = 32 << 10;

/// What the first read of a new connection takes at most. LIMIT: a Hello with many methods and a small first call.
const FIRST_READ_BYTES: usize = 1024;

/// What a question can be answered with. LIMIT: on the stack; whoever has more to send is not waited for by spinning.
const ASKED_BYTES: usize = 4 << 10;

#[cfg(test)]
thread_local! {
    /// Questions that this thread has asked of its sockets.
    pub(super) static ASKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A connected socket. One task reads and writes it.
#[derive(Debug)]
pub(crate) struct Socket {
    watched: Watched,
    process: Process,
    /// Small writes that found room at once, since one did not or was large.
    found_room: u8,
    /// Nothing has been read yet from a peer that connected to us: its first bytes are mostly there before the
    /// runtime has looked for them.
    unread: bool,
    asking: Asking,
    /// Something has been read, or that there is no more, since its owner last wanted to know.
    came: bool,
}

/// What the one descriptor is registered for.
#[derive(Debug)]
enum Watched {
    /// Tokio's only reader that is registered for reading alone. It reads, and does not mind that this is no pipe.
    Bytes(pipe::Receiver),
    /// While writes find the socket full.
    BytesAndRoom(UnixStream),
    /// It could not be registered again: the connection is lost.
    Nothing,
}

/// Whether reading asks the socket, instead of the runtime whether the socket is worth asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asking {
    No,
    /// The last question has emptied it: the next one needs not be asked.
    Emptied,
    Yes,
}

impl Socket {
    /// Connects to `path`. `WouldBlock`: so many others connect that the listener's backlog is full.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // A Unix socket is connected at once or not at all: there is nothing to wait for, and so nothing to watch yet.
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Takes the next connection of a listener that does not block.
    pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::accept_with(listener, flags)?;
        Ok(Self { unread: true, ..Self::new(socket)? })
    }

    /// A connected socket that does not block.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let process = Process::at_other_end_of(socket.as_fd())?;
        let watched = Watched::bytes(socket)?;
        Ok(Self { watched, process, found_room: 0, unread: false, asking: Asking::No, came: false })
    }

    /// Who connected, or listens, by the kernel's word.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.watched {
            Watched::Bytes(reader) => Ok(reader.as_fd()),
            Watched::BytesAndRoom(stream) => Ok(stream.as_fd()),
            Watched::Nothing => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends at once what there is room for.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.fd()?, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.unread) {
            // What else is there, and the end, the runtime reports: it watches since before this.
            let first = buffer.initialize_unfilled_to(buffer.remaining().min(FIRST_READ_BYTES));
            match rustix::net::recv(self.fd()?, first, RecvFlags::DONTWAIT) {
                Ok((count, _)) if count > 0 => {
                    buffer.advance(count);
                    self.came = true;
                    return Poll::Ready(Ok(()));
                }
                _ => {}
            }
        }
        let read = match self.asking {
            Asking::No => self.poll_read_watched(cx, buffer),
            Asking::Emptied => {
                self.asking = Asking::Yes;
                Poll::Pending
            }
            Asking::Yes => self.ask(buffer),
        };
        self.came |= read.is_ready();
        read
    }

    fn poll_read_watched(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.watched {
            Watched::Bytes(reader) => Pin::new(reader).poll_read(cx, buffer),
            Watched::BytesAndRoom(stream) => Pin::new(stream).poll_read(cx, buffer),
            Watched::Nothing => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// From now on a read that is pending wakes nobody: its owner asks again.
    pub(super) fn begin_asking(&mut self) {
        if self.asking == Asking::No {
            self.asking = Asking::Yes;
        }
    }

    /// Whether it was asked until now, so that nobody would be woken unless it is read once more.
    pub(super) fn stop_asking(&mut self) -> bool {
        std::mem::replace(&mut self.asking, Asking::No) != Asking::No
    }

    /// Whether bytes have come, or their end, since this was last asked.
    pub(super) fn take_came(&mut self) -> bool {
        std::mem::take(&mut self.came)
    }

    fn ask(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        #[cfg(test)]
        ASKED.set(ASKED.get() + 1);
        let fd = self.fd()?;
        let mut bytes = [MaybeUninit::uninit(); ASKED_BYTES];
        let asked = buffer.remaining().min(ASKED_BYTES);
        match rustix::net::recv(fd, &mut bytes[..asked], RecvFlags::DONTWAIT) {
            Ok(((read, _), _)) => {
                buffer.put_slice(read);
                if read.len() < ASKED_BYTES {
                    self.asking = Asking::Emptied;
                } else if let Ok((more, _)) = rustix::net::recv(fd, buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
                    buffer.advance(more);
                }
                Poll::Ready(Ok(()))
            }
            Err(Errno::AGAIN | Errno::INTR) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(
            cx,
            |socket| rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            |stream, cx| stream.poll_write(cx, bytes),
        )
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(
            cx,
            |socket| {
                let mut nothing = SendAncillaryBuffer::default();
                rustix::net::sendmsg(socket, slices, &mut nothing, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            },
            |stream, cx| stream.poll_write_vectored(cx, slices),
        )
    }

    /// No more will be written.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.fd()?, rustix::net::Shutdown::Write)?)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(BorrowedFd<'_>) -> Result<usize, Errno>,
        send_watched: impl FnOnce(Pin<&mut UnixStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        while !matches!(self.watched, Watched::BytesAndRoom(_)) {
            match send(self.fd()?) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.watch(cx, Watched::bytes_and_room)?,
                Ok(sent) if sent >= WATCHED_WRITE_BYTES => {
                    // What was sent was sent; if this fails, the next use says so.
                    let _ = self.watch(cx, Watched::bytes_and_room);
                    return Poll::Ready(Ok(sent));
                }
                sent => return Poll::Ready(Ok(sent?)),
            }
        }
        let Watched::BytesAndRoom(stream) = &mut self.watched else { return Poll::Pending };
        let sent = send_watched(Pin::new(stream), cx);
        let small = matches!(sent, Poll::Ready(Ok(sent)) if sent < WATCHED_WRITE_BYTES);
        self.found_room = if small { self.found_room.saturating_add(1) } else { 0 };
        if self.found_room >= UNWATCHED_AFTER {
            self.found_room = 0;
            // As above.
            let _ = self.watch(cx, Watched::bytes);
        }
        sent
    }

    /// Registers the descriptor anew. Whoever waited for bytes is to wait for them again.
    fn watch(&mut self, cx: &mut Context<'_>, register: impl FnOnce(OwnedFd) -> io::Result<Watched>) -> io::Result<()> {
        let fd = match std::mem::replace(&mut self.watched, Watched::Nothing) {
            Watched::Bytes(reader) => reader.into_nonblocking_fd()?,
            Watched::BytesAndRoom(stream) => OwnedFd::from(stream.into_std()?),
            Watched::Nothing => return Err(io::ErrorKind::NotConnected.into()),
        };
        self.watched = register(fd)?;
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl Watched {
    fn bytes(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Bytes(pipe::Receiver::from_owned_fd_unchecked(fd)?))
    }

    fn bytes_and_room(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::BytesAndRoom(UnixStream::from_std(fd.into())?))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn socket(stream: UnixStream) -> Socket {
        Socket::new(stream.into_std().unwrap().into()).unwrap()
    }

    #[tokio::test]
    async fn writes_that_find_the_socket_full_wait_for_room_and_lose_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = socket(ours);
        let sent: Vec<u8> = (0..1_u32 << 22).map(|n| (n >> 8) as u8).collect();
        let mut received = vec![0; sent.len()];
        let write = async {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let (first, second) = rest.split_at(rest.len() / 3);
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                let written = poll_fn(|cx| ours.poll_write_vectored(cx, &slices)).await.unwrap();
                rest = &rest[written..];
            }
            assert!(matches!(ours.watched, Watched::BytesAndRoom(_)), "it was full, and room is watched");
            ours
        };
        let (mut ours, read) = tokio::join!(write, theirs.read_exact(&mut received));
        read.unwrap();
        assert!(received == sent);
        for _ in 0..UNWATCHED_AFTER {
            assert_eq!(poll_fn(|cx| ours.poll_write(cx, b"x")).await.unwrap(), 1);
        }
        assert!(matches!(ours.watched, Watched::Bytes(_)), "a call waits for bytes to read alone");
    }

    #[tokio::test]
    async fn large_writes_watch_for_room_until_small_ones_follow() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = socket(ours);
        let mut into = vec![0; WATCHED_WRITE_BYTES];
        for size in [1, WATCHED_WRITE_BYTES - 1, WATCHED_WRITE_BYTES] {
            assert!(matches!(ours.watched, Watched::Bytes(_)), "nothing large was written yet");
            let written = poll_fn(|cx| ours.poll_write(cx, &vec![7; size])).await.unwrap();
            theirs.read_exact(&mut into[..written]).await.unwrap();
        }
        for _ in 0..UNWATCHED_AFTER {
            assert!(matches!(ours.watched, Watched::BytesAndRoom(_)));
            assert_eq!(poll_fn(|cx| ours.poll_write(cx, b"x")).await.unwrap(), 1);
        }
        assert!(matches!(ours.watched, Watched::Bytes(_)));
    }

    /// Descriptors of this process that are this socket.
    fn descriptors_of(socket: &Socket) -> usize {
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket.fd().unwrap());
        let name = |number: &str| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
        let this = name(&number.to_string()).unwrap();
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let all = all.filter_map(|entry| name(entry.unwrap().file_name().to_str().unwrap()));
        all.filter(|name| *name == this).count()
    }

    #[tokio::test]
    async fn full_socket_has_one_descriptor_and_a_reader_that_waits_is_woken_all_the_same() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = socket(ours);
        let mut into = [0; 8];
        let mut full = false;
        // As a driver does: each turn writes what it can, then reads.
        let driver = poll_fn(|cx| {
            while let Poll::Ready(written) = ours.poll_write(cx, &[0; 4096]) {
                assert!(!full, "nobody has read");
                written.unwrap();
            }
            full = true;
            assert_eq!(descriptors_of(&ours), 1);
            let mut buffer = ReadBuf::new(&mut into);
            ours.poll_read(cx, &mut buffer).map(|read| read.map(|()| buffer.filled().len()))
        });
        let (read, written) = tokio::join!(driver, theirs.write_all(b"word"));
        written.unwrap();
        assert_eq!((read.unwrap(), &into[..4]), (4, &b"word"[..]));
    }

    #[tokio::test]
    async fn asked_socket_loses_nothing_and_wakes_its_owner_once_it_is_asked_no_more() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = socket(ours);
        let sent: Vec<u8> = (0..1_u32 << 20).map(|n| (n >> 8) as u8).collect();
        let mut received = Vec::new();
        let mut turns = 0_u32;
        let read = poll_fn(|cx| {
            // Asked or woken, in turn, for some reads each.
            turns += 1;
            let asks = turns.is_multiple_of(2);
            if asks {
                ours.begin_asking();
            } else {
                ours.stop_asking();
            }
            for _ in 0..turns % 7 {
                let mut bytes = [0; 10_000];
                let mut buffer = ReadBuf::new(&mut bytes);
                if ours.poll_read(cx, &mut buffer).is_ready() {
                    received.extend_from_slice(buffer.filled());
                }
            }
            if received.len() == sent.len() {
                return Poll::Ready(());
            }
            if asks || turns.is_multiple_of(7) {
                cx.waker().wake_by_ref();
            }
            let mut bytes = [0; 1];
            let mut buffer = ReadBuf::new(&mut bytes);
            if ours.poll_read(cx, &mut buffer).is_ready() {
                received.extend_from_slice(buffer.filled());
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        let write = async { tokio::io::AsyncWriteExt::write_all(&mut theirs, &sent).await.unwrap() };
        tokio::time::timeout(std::time::Duration::from_secs(20), async { tokio::join!(read, write) }).await.unwrap();
        assert!(received == sent);
        drop(theirs);
        ours.begin_asking();
        let mut bytes = [0; 1];
        let mut buffer = ReadBuf::new(&mut bytes);
        let end = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            ours.poll_read(cx, &mut buffer)
        });
        end.await.unwrap();
        assert!(buffer.filled().is_empty() && ours.take_came() && !ours.take_came(), "the end is something too");
    }

    #[tokio::test]
    async fn write_to_a_peer_that_has_gone_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = socket(ours);
        drop(theirs);
        let error = poll_fn(|cx| ours.poll_write(cx, b"x")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn write_that_waits_for_room_ends_when_the_peer_goes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = socket(ours);
        while ours.send_now(&[0; 4096]).is_ok() {}
        let mut write = std::pin::pin!(poll_fn(|cx| ours.poll_write(cx, b"x")));
        assert!(futures::poll!(write.as_mut()).is_pending());
        drop(theirs);
        assert!(write.await.is_err());
    }
}
