//! Code that the peers' own generators made from `echo.proto` and `echo.capnp`, kept so that no generator, `protoc` or
//! `capnp` is needed to build. `README.md` says how it was made.
#![allow(warnings, clippy::all, reason = "generated")]

pub(crate) mod echo;
pub(crate) mod echo_capnp;
pub(crate) mod echo_grpc;
pub(crate) mod echo_ttrpc;
