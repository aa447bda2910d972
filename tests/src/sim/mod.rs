//! The seeded simulator: `rpc`'s sans-IO session between clients, a server and a kernel that fail in every way they can.
//!
//! The code under test is the real one, `session` and `wire`; the sockets, the clock, the callers and the handlers are
//! this module's, and as hostile as their like may be: cuts at any byte that one side sees before the other, stalls,
//! requests said twice, crashes of either side, draining and forgetful servers. A checker outside of all processes holds
//! what callers are told against what was in truth applied: every call is answered in time (P1), honestly (P2), and
//! applied at most once per server memory (P3).
//!
//! A world is its seed: no clock, no hash order, no thread has a say in it. A failure names its seed, and
//! `cargo run --release -p tests --bin sim -- --seed S --trace` shows it again, line by line.
//!
//! `random`, `knobs` and `env` make a world's frame; `pipe` and `net` are its kernel; `client` with its `callers` and
//! `server` with its `driver`s and `handlers` are the two halves of a lane; `faults` strike; `observe` listens, `ledger`
//! judges, `coverage` counts; `world` runs one seed, `runner` many; `plant` has the bugs that they must find.

mod callers;
mod client;
mod coverage;
mod driver;
mod env;
mod faults;
mod handlers;
mod knobs;
mod ledger;
mod memory;
mod net;
mod observe;
mod pipe;
pub mod plant;
mod random;
mod runner;
mod server;
mod streams;
mod world;
mod writing;

pub use coverage::{Coverage, REQUIRED};
pub use ledger::Violation;
pub use random::Random;
pub use runner::{Run, Summary, replay_command, run_all, run_caught, threads_default};
pub use world::{Options, Report, run};
