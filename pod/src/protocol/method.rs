//! Everything that a pod can be asked.
//!
//! The list; each request says in its own file what its ack means.
//!
//! Served by `controller`, called by parents, children, observers and the command line.

use crate::protocol::{Cancel, ChildReady, Notify, Pause, PodEventOffer, Resume, Run, Shutdown, Status, Subscribe};

/// What a pod can be asked.
#[derive(Debug, rpc::Protocol)]
#[rpc(name = "pod", version = 1)]
pub enum Method {
    /// Do this.
    Run(Run),
    /// Know this.
    Notify(Notify),
    /// This became of what you delegated.
    PodEvent(PodEventOffer),
    /// Stop the turn.
    Cancel(Cancel),
    /// Interrupt the turn.
    Pause(Pause),
    /// Go on.
    Resume(Resume),
    /// Stop.
    Shutdown(Shutdown),
    /// Let me watch.
    #[rpc(stream)]
    Subscribe(Subscribe),
    /// How are you doing?
    Status(Status),
    /// I am your child and ready.
    ChildReady(ChildReady),
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::Protocol;

    #[test]
    fn methods_keep_their_numbers() {
        let methods: Vec<_> = Method::METHODS.iter().map(|method| (method.id, method.name, method.stream)).collect();
        let expected = [
            (1, "run", false),
            (2, "notify", false),
            (3, "pod_event_offer", false),
            (4, "cancel", false),
            (5, "pause", false),
            (6, "resume", false),
            (7, "shutdown", false),
            (8, "subscribe", true),
            (9, "status", false),
            (10, "child_ready", false),
        ];
        assert_eq!(methods, expected);
    }
}
