//! See `rpc_fuzz::client::run`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rpc_fuzz::client::run(input));
