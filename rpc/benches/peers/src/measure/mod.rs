//! What is measured, and how: laps, allocations, system calls, memory, processes.

pub(crate) mod alloc;
pub(crate) mod lap;
pub(crate) mod usage;
