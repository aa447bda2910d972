use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(ack = ())]
struct WithoutId; //~ a request needs `#[rpc(id = 1, ..)]`

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1)]
struct WithoutAck; //~ a request needs `#[rpc(ack = Type, ..)]`

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 70000, ack = ())] //~ number too large
struct WideId;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, id = 2, ack = ())] //~ this is given twice
struct TwoIds;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (), reject = u8)] //~ a request knows `id`, `ack`
struct Misspelt;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (), name = "two words")] //~ a name is 1 to 64 visible ASCII characters long
struct Named;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (), ack_bytes_max = 100000000)] //~ an ack has at most 67108864 bytes; a larger answer is a stream
struct HugeAck;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = (f64, f64), ack_bytes_max = 15)] //~ `TightAck`: `ack_bytes_max` is less than the smallest ack needs
struct TightAck;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Generic<T> { //~ a request has no generic parameters
    of: T,
}

fn main() {}
