//! One binary.

mod adoption;
mod checker;
mod completion;
mod confinement;
mod detaching;
mod duplicates;
mod ends;
mod identity;
mod kills;
mod lane_model;
mod matrix;
mod observers;
mod processes;
mod restoring;
mod scope_events;
mod shutdown;
mod simulator;
mod snapshot;
mod soak;
mod strays;
mod tidy;
mod wake;

/// A world whose children are started from the host of the tests.
fn world() -> tests::world::World {
    tests::world::World::new(env!("CARGO_BIN_EXE_host_pod"))
}
