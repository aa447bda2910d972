//! Opening a connection.
//!
//! Retries only what the kernel asks to be retried (a full backlog), with growing pauses; the caller's deadline ends
//! it from outside. Nothing listening is an answer, at once.
//!
//! Used by `io::client`.

use std::io;
use std::time::Duration;

use super::mem::{self, MemRefusal};
use super::socket::Socket;
use super::stream::Stream;
use crate::address::Address;
use crate::limits::TICK;
use crate::outcome::{NotDelivered, Refusal};
use crate::transport::HandshakeFault;

/// The longest pause between two attempts at a full backlog.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Connects. CANCEL SAFETY: nothing is sent; a dropped dial leaves no trace but a closed connection.
pub(crate) async fn dial(address: &Address) -> Result<Stream, NotDelivered> {
    let mut pause = TICK;
    loop {
        let no_listener = |reason: String| NotDelivered::NoListener { address: address.clone(), reason };
        let full = match address {
            Address::Unix(path) => match Socket::connect(path) {
                Ok(socket) => return admit(Ok(Stream::Unix(socket))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                Err(error) => return Err(no_listener(error.to_string())),
            },
            Address::Mem(name) => match mem::connect(name) {
                Ok(stream) => return admit(Ok(Stream::Mem(stream))),
                Err(MemRefusal::BacklogFull) => true,
                Err(MemRefusal::NoListener) => {
                    return Err(no_listener("no service of that name in this process".into()));
                }
            },
            // Its maker has said whom it reaches.
            Address::Custom(connector) => {
                return connector.dial().await.map_err(|error| match HandshakeFault::of(&error) {
                    Some(fault) => NotDelivered::Handshake { address: address.clone(), fault },
                    None => no_listener(error.to_string()),
                });
            }
        };
        debug_assert!(full, "every other way out returns");
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// Who listens must be us: a socket that someone else put in our place learns nothing.
fn admit(stream: io::Result<Stream>) -> Result<Stream, NotDelivered> {
    let unknown = |_| NotDelivered::Refused(Refusal::Unauthorized);
    let stream = stream.map_err(unknown)?;
    let peer = stream.peer().map_err(unknown)?;
    if peer.is_trusted_by_default() {
        Ok(stream)
    } else {
        Err(NotDelivered::Unauthorized(format!("the listener belongs to {peer}, not to us")))
    }
}
