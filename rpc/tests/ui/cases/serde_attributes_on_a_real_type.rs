use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Report {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")] //~ `#[serde(default)]` cannot travel in a message: the format cannot leave a field out //~ `#[serde(skip_serializing_if)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    note: Option<String>,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
#[serde(tag = "kind")] //~ `#[serde(tag)]` cannot travel in a message: it can be encoded
enum Order {
    Start { name: String },
}

fn main() {}
