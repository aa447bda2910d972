use std::collections::HashMap;

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Unbounded {
    lines: Vec<String>, //~ `Vec<String>` cannot travel in a message: it is no wire type
    counts: HashMap<String, u64>, //~ `HashMap<String, u64>` cannot travel in a message: it is no wire type
    size: usize, //~ `usize` cannot travel in a message: it is no wire type
    offset: isize, //~ `isize` cannot travel in a message: it is no wire type
    wide: u128, //~ `u128` cannot travel in a message: it is no wire type
    path: std::path::PathBuf, //~ `PathBuf` cannot travel in a message: it is no wire type
    inside: Option<Vec<u8>>, //~ `Vec<u8>` cannot travel in a message: it is no wire type
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Vec<u8>)] //~ `Vec<u8>` cannot travel in a message: it is no wire type
struct Read;

fn main() {}
