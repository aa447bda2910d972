use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Add;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = ())]
struct Reset;

#[derive(rpc::Protocol)]
#[rpc(name = "calc")]
enum Calc {
    Add(Add),
}

fn has<P: rpc::Has<R>, R: rpc::Request>() {}

fn main() {
    has::<Calc, Reset>(); //~ the service `Calc` has no request `Reset`
}
