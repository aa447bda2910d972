//! See `rpc_fuzz::server::run`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rpc_fuzz::server::run(input));
