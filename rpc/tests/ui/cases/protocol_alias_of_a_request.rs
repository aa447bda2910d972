use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Add;

type Alias = Add;

#[derive(rpc::Protocol)] //~ conflicting implementations of trait `Has<Add>`
#[rpc(name = "calc")]
enum Calc {
    Add(Add),
    Reset(Alias), //~ `Calc::Reset` has the method id and version of an earlier variant
}

fn main() {}
