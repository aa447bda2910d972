//! See `rpc_fuzz::codec::header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rpc_fuzz::codec::header(input));
