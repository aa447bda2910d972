//! The way of an event: from the child's outbox to the parent's store, and to the agent's eyes.
//!
//! `reporter` offers what the outbox holds, in order, until the parent has it; `apply` is the parent's one transaction
//! per event; `terminal` gives each child's life its one end; `render` is what an agent reads. None of them trusts a
//! sender: who it is was settled by the kernel before anything here is called.
//!
//! Used by `controller` on both sides, and by `spawn` when a child dies.

mod apply;
mod counters;
mod delivery;
mod edge;
mod outbox;
mod render;
mod reporter;
mod terminal;

pub use apply::{Applied, Offer, apply_event_side_effects, receive_event};
pub use counters::{OutcomeCounts, ReporterCounters};
pub use edge::Edge;
pub use render::{REPORT_BYTES_MAX, render_event};
pub use reporter::{
    Delivery, DeliveryError, Drained, Raised, Reporter, fire_and_forget, send_pod_event, send_pod_event_awaited,
};
pub(crate) use terminal::settle_dead_child_and;
pub use terminal::{ChildEnd, end_child, settle_dead_child};
