use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Add;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Reset;

#[derive(rpc::Protocol)]
#[rpc(name = "calc")]
enum Calc {
    Add(Add),
    Reset(Reset), //~ `Calc::Reset` has the method id and version of an earlier variant; every request of a service has its own
}

fn main() {}
