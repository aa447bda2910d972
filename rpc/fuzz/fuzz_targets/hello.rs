//! See `rpc_fuzz::codec::hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rpc_fuzz::codec::hello(input));
