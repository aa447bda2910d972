//! Taking connections in.
//!
//! Never ends because of an error: a full descriptor table is waited out with a growing, jittered pause. Connections
//! beyond the caps are told so and closed.
//!
//! Run by `server`, one task a listener.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::hub::Hub;
use super::listener::Listener;
use super::lock;
use super::shares::{Permit, Place};
use super::timer::now;
use crate::id::Incarnation;
use crate::peer::Peer;
use crate::service::Connect;
use crate::session::client::put_frame;
use crate::transport::{Arrival, Incoming};
use crate::wire::header::{GoodbyeCode, Kind};

/// How often forgotten lanes are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// The first and the longest pause after an error of `accept`.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until it is dropped; the listener's name goes with it.
pub(crate) async fn accept(mut listener: Listener, hub: Arc<Hub>, connect: Arc<dyn Connect>) {
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pause = PAUSE_MIN;
    loop {
        // Taking a connection in need not cost a task its turn, whatever it comes from: whoever connects faster than we accept
        // would keep everybody else on this thread from theirs.
        tokio::task::coop::consume_budget().await;
        // CANCEL SAFETY: `accept` returns a connection or leaves it in the backlog; a lost tick comes again.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = sweep.tick() => {
                hub.sweep(now());
                reap(&hub);
                continue;
            }
        };
        let incoming = match accepted {
            Ok(incoming) => incoming,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection waits in the backlog until we have room.
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept");
                let jitter = Duration::from_micros(Incarnation::random().0 % 1000 * 2);
                tokio::time::sleep(pause + jitter).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        pause = PAUSE_MIN;
        // Before the next one is made: its memory is theirs.
        reap(&hub);
        admit(&hub, &connect, incoming);
    }
}

/// Lets go of connections that have ended.
fn reap(hub: &Hub) {
    let mut tasks = lock(&hub.tasks);
    while tasks.try_join_next().is_some() {}
}

/// Serves a connection in a task of its own, if there is room for it.
pub(crate) fn admit(hub: &Arc<Hub>, connect: &Arc<dyn Connect>, incoming: Incoming) {
    let hello_by = now() + hub.limits.handshake_timeout;
    match incoming.0 {
        Arrival::Ready(mut stream) => {
            let Ok(peer) = stream.peer() else { return };
            let Some(places) = places(hub, peer) else {
                // One word, so that what the client has sent already is known as not delivered. It fits the empty buffer of
                // a new connection; were it lost, the client would be in doubt, no more.
                tracing::warn!(%peer, "refused a connection: too many");
                let mut too_many = BytesMut::new();
                put_frame(&mut too_many, Kind::Goodbye, GoodbyeCode::TooMany.number(), 0, &[]);
                hub.metrics.refused_connection(GoodbyeCode::TooMany);
                return stream.send_now(&too_many);
            };
            let serve = connect.serve(Arc::clone(hub), stream, peer, hello_by, places);
            lock(&hub.tasks).spawn(serve);
        }
        Arrival::Handshake(handshake) => {
            // Nobody knows yet who that is.
            let Some(unproven) = places(hub, Peer::Unproven) else {
                return tracing::warn!("refused a connection: too many");
            };
            let (hub, connect) = (Arc::clone(hub), Arc::clone(connect));
            let tasks = Arc::clone(&hub);
            lock(&tasks.tasks).spawn(async move {
                let stream = match tokio::time::timeout_at(hello_by.into(), handshake).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return tracing::warn!(%error, "a connection's own handshake failed"),
                    Err(_) => return tracing::warn!("a connection's own handshake took too long"),
                };
                let Ok(peer) = stream.peer() else { return };
                drop(unproven);
                let Some(places) = places(&hub, peer) else {
                    return tracing::warn!(%peer, "refused a connection: too many");
                };
                connect.serve(hub, stream, peer, hello_by, places).await;
            });
        }
    }
}

/// The places of a connection and of its handshake.
fn places(hub: &Hub, peer: Peer) -> Option<(Permit, Permit)> {
    hub.shares.take(peer, Place::Connection).zip(hub.shares.take(peer, Place::Handshake))
}
