//! See `rpc_fuzz::chunking::run`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rpc_fuzz::chunking::run(input));
