use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Add;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
struct Reset;

#[derive(rpc::Protocol)]
enum Nameless { //~ a protocol needs `#[rpc(name = "..")]`
    Add(Add),
}

#[derive(rpc::Protocol)]
#[rpc(name = "structure")]
struct Structure(Add); //~ a protocol is an enum with one variant for each request

#[derive(rpc::Protocol)]
#[rpc(name = "empty")]
enum Empty {} //~ a protocol has at least one request

#[derive(rpc::Protocol)]
#[rpc(name = "fields")]
enum Fields {
    Add { add: Add }, //~ a variant of a protocol holds one request: `Add(Add)`
}

#[derive(rpc::Protocol)]
#[rpc(name = "twice")]
enum Twice {
    Add(Add),
    Again(Add), //~ `Add` and `Again` carry the same request
}

#[derive(rpc::Protocol)]
#[rpc(name = "names")]
enum Names {
    AddTo(Add),
    Add_To(Reset), //~ `AddTo` and `Add_To` would both be the handler's `add_to`
}

#[derive(rpc::Protocol)]
#[rpc(name = "unknown")]
enum Unknown {
    #[rpc(strea)] //~ a variant of a protocol knows `stream`
    Add(Add),
}

fn main() {}
