//! What lies between a client and a server in a test: pipes, and somebody who can cut and stall them.
//!
//! Carries bytes and knows nothing of frames. Uses no clock.
//!
//! Made by `world`.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::watch;

/// Bytes that are under way in one direction. LIMIT: like a Unix socket's default buffer.
const PIPE_BYTES: usize = 64 << 10;

/// A length that no frame may have, and some bytes.
const GARBAGE: &[u8] = b"\xff\xff\xff\xffnot a frame of this protocol";

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Requests.
    ToServer,
    /// Answers.
    ToClient,
}

/// What has been asked of the wire.
#[derive(Clone, Debug, Default)]
struct Orders {
    to_server_stalled: bool,
    to_client_stalled: bool,
    /// How often it was cut.
    cuts: u64,
    /// How often garbage was put on it.
    garbage: u64,
}

impl Orders {
    fn is_stalled(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.to_server_stalled,
            Direction::ToClient => self.to_client_stalled,
        }
    }
}

/// The control of every connection between one client and one server.
#[derive(Debug)]
pub(super) struct Wire {
    orders: watch::Sender<Orders>,
}

impl Wire {
    pub(super) fn new() -> Self {
        Self { orders: watch::Sender::new(Orders::default()) }
    }

    pub(super) fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    pub(super) fn garbage(&self) {
        self.orders.send_modify(|orders| orders.garbage += 1);
    }

    pub(super) fn set_stalled(&self, direction: Direction, stalled: bool) {
        self.orders.send_modify(|orders| match direction {
            Direction::ToServer => orders.to_server_stalled = stalled,
            Direction::ToClient => orders.to_client_stalled = stalled,
        });
    }

    /// A new connection: the client's end and the server's.
    pub(super) fn connect(&self) -> (DuplexStream, DuplexStream) {
        let (ours, near) = tokio::io::duplex(PIPE_BYTES);
        let (theirs, far) = tokio::io::duplex(PIPE_BYTES);
        let orders = self.orders.subscribe();
        tokio::spawn(carry(near, far, orders));
        (ours, theirs)
    }
}

async fn carry(near: DuplexStream, far: DuplexStream, mut orders: watch::Receiver<Orders>) {
    let cuts = orders.borrow_and_update().cuts;
    let mut cutter = orders.clone();
    let (from_client, to_client) = tokio::io::split(near);
    let (from_server, to_server) = tokio::io::split(far);
    tokio::select! {
        // A cut comes first: what is still under way is lost.
        biased;
        _ = cutter.wait_for(|orders| orders.cuts != cuts) => {}
        () = copy(Direction::ToServer, from_client, to_server, orders.clone()) => {}
        () = copy(Direction::ToClient, from_server, to_client, orders.clone()) => {}
    }
}

/// Until either end has gone.
async fn copy(
    direction: Direction,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut orders: watch::Receiver<Orders>,
) {
    let mut bytes = vec![0; PIPE_BYTES];
    let mut garbage = orders.borrow().garbage;
    loop {
        // The control may be gone: then nothing is ordered any more.
        let _ = orders.wait_for(|orders| !orders.is_stalled(direction)).await;
        tokio::select! {
            // CANCEL SAFETY: a read that is dropped has taken nothing.
            read = from.read(&mut bytes) => {
                let Ok(count @ 1..) = read else { return };
                let _ = orders.wait_for(|orders| !orders.is_stalled(direction)).await;
                if to.write_all(bytes.get(..count).unwrap_or_default()).await.is_err() {
                    return;
                }
            }
            Ok(()) = orders.changed() => {
                let ordered = orders.borrow_and_update().garbage;
                if direction == Direction::ToClient && ordered != garbage {
                    garbage = ordered;
                    if to.write_all(GARBAGE).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
