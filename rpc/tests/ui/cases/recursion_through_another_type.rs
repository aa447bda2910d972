use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)] //~ cycle detected
struct Folder {
    entries: rpc::List<Entry, 8>,
}

#[derive(Serialize, Deserialize, rpc::Wire)]
enum Entry {
    File(u64),
    Folder(Folder),
}

fn main() {}
