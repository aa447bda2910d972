//! What pods say to each other: methods, acks, rejections, events and status.
//!
//! Wire types only: they are never the state of anything, and they never change once shipped (a new method id or
//! version takes their place). No text in them is longer than its type says.
//!
//! Spoken by `controller` and `event`, carried by `rpc`.

mod adopt;
mod child;
mod control;
mod discovery;
mod event;
mod method;
mod observe;
mod rewind;
mod status;
mod text;
mod tools;
mod work;

pub use adopt::{Adopt, AdoptRejection, Adopted};
pub use child::{CHILD_CONFIG_BYTES_MAX, ChildReady, ChildRejection, Detach, DetachRejection, Go};
pub use control::{Cancel, ControlAck, ControlRejection, Pause, Resume, Shutdown, ShutdownMode, Stopping};
pub use discovery::{
    AttachOrRestorePod, Attached, COMPLETIONS_MAX, ChildOf, Completion, CompletionKind, Completions, FindRejection,
    InspectPod, LAST_ENTRIES_MAX, LastEntry, LifeHolder, ListCompletions, ListVisiblePods, OpenWork, ParentOf,
    PodReport, REPORT_LINES_MAX, Restore, RestoreRejection, StoreFacts, VisiblePage, VisiblePod,
};
pub use event::{
    Disposition, EventAck, EventRejection, FailureKind, LocalEvent, LostReason, PodEvent, PodEventOffer,
    SCOPE_RULES_MAX, TurnResult, WorkResult,
};
pub use method::{Method, MethodCall, MethodHandler, MethodService};
pub use observe::{
    ARGUMENTS, CALLS_MAX, CallInFlight, DELTA_BYTES_MAX, ENTRY_BYTES_MAX, Glimpse, InFlight, KIND_BYTES_MAX, Observed,
    PIECE_BYTES_MAX, PIECES_MAX, PROGRESS_BYTES_MAX, PieceInFlight, Subscribe, SubscribeRejection, Subscribed,
    TOOL_BYTES_MAX,
};
pub use rewind::{
    Compact, Compacting, ListRewindTargets, REWIND_CHILDREN_MAX, REWIND_INPUT_BYTES_MAX, REWIND_TARGETS_MAX, RewindAck,
    RewindChildren, RewindRejection, RewindTarget, RewindTargets, RewindTo, Rewound,
};
pub use status::{ChildStatus, LastFailure, PodState, PodStatus, STATUS_CHILDREN_MAX, Status};
pub use text::{Text, clip};
pub use tools::{
    Kept, LifeEnd, ListPods, ListRejection, NAMES_BESIDE_MAX, Next, OUTPUT_ENTRIES_MAX, OUTPUT_PAGE_BYTES_MAX,
    OutputCursor, OutputEntry, OutputPage, OutputPiece, PODS_PAGE_MAX, PodLine, PodPage, Produced, QUOTE_BYTES_MAX,
    RIGHT_PATH_BYTES_MAX, ReadPodOutput, ReadRejection, RestartKind, RestartPolicy, SendKind, SendRejection, SendToPod,
    Sent, SpawnCap, SpawnPod, SpawnRejection, Spawned, StopOutcome, StopPod, StopRejection, Stopped, TargetFault, Told,
    WORKER_BYTES_MAX,
};
pub use work::{
    Accepted, NOTE_BYTES_MAX, Notify, NotifyRejection, Queued, RUN_INPUT_BYTES_MAX, Run, RunRejection, TurnCap,
};

#[cfg(test)]
mod wire_tests;
