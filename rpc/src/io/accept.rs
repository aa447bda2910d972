//! Taking connections in.
//!
//! Never ends because of an error: a full descriptor table is waited out with a growing, jittered pause. Connections
//! beyond the caps are closed.
//!
//! Run by `server`, one task a listener.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::hub::Hub;
use super::listener::Listener;
use super::lock;
use super::timer::now;
use crate::id::Incarnation;
use crate::service::Connect;

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
        // CANCEL SAFETY: `accept` returns a connection or leaves it in the backlog; a lost tick comes again.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = sweep.tick() => {
                hub.sweep(now());
                while lock(&hub.tasks).try_join_next().is_some() {}
                continue;
            }
        };
        let stream = match accepted {
            Ok(stream) => stream,
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
        let Ok(peer) = stream.peer() else { continue };
        let full = hub.connections.load(Ordering::Acquire) >= hub.limits.connections_max
            || hub.handshakes.load(Ordering::Acquire) >= hub.limits.handshakes_max;
        if full {
            // Closed without a word: writing one could block, and the client says *connection lost*, not delivered.
            tracing::warn!(?peer, "refused a connection: too many");
            continue;
        }
        hub.connections.fetch_add(1, Ordering::AcqRel);
        let serve = connect.serve(Arc::clone(&hub), stream, peer);
        lock(&hub.tasks).spawn(serve);
    }
}
