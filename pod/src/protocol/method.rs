//! Everything that a pod can be asked.
//!
//! The list; each request says in its own file what its ack means.
//!
//! Served by `controller`, called by parents, children, observers and the command line.

use crate::protocol::{
    Adopt, AttachOrRestorePod, Cancel, ChildReady, Compact, Detach, InspectPod, ListCompletions, ListPods,
    ListRewindTargets, ListVisiblePods, Notify, Pause, PodEventOffer, ReadPodOutput, Resume, RewindTo, Run, SendToPod,
    Shutdown, SpawnPod, Status, StopPod, Subscribe,
};

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
    /// Make the context shorter.
    Compact(Compact),
    /// To where can you go back?
    ListRewindTargets(ListRewindTargets),
    /// Go back there.
    RewindTo(RewindTo),
    /// Take over a child of a dead pod.
    Adopt(Adopt),
    /// Go on when I, your parent, am gone.
    Detach(Detach),
    /// Start a child.
    SpawnPod(SpawnPod),
    /// Know this, do this next, or do this instead.
    SendToPod(SendToPod),
    /// What has a child produced?
    ReadPodOutput(ReadPodOutput),
    /// End a child.
    StopPod(StopPod),
    /// Which children are there?
    ListPods(ListPods),
    /// Which pods are below you?
    ListVisiblePods(ListVisiblePods),
    /// What is there to know of one of them?
    InspectPod(InspectPod),
    /// Reach a child, or start it again.
    AttachOrRestorePod(AttachOrRestorePod),
    /// What could be meant by this word?
    ListCompletions(ListCompletions),
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
            (11, "compact", false),
            (12, "list_rewind_targets", false),
            (13, "rewind_to", false),
            (20, "adopt", false),
            (22, "detach", false),
            (30, "spawn_pod", false),
            (31, "send_to_pod", false),
            (32, "read_pod_output", false),
            (33, "stop_pod", false),
            (34, "list_pods", false),
            (35, "list_visible_pods", false),
            (36, "inspect_pod", false),
            (37, "attach_or_restore_pod", false),
            (38, "list_completions", false),
        ];
        assert_eq!(methods, expected);
    }
}
