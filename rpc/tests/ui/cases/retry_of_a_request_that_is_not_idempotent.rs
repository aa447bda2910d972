use rpc::Retry;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Add;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = (), idempotent)]
struct Reset;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = (), idempotent, idempotent)] //~ this is given twice
struct Twice;

#[derive(rpc::Protocol)]
#[rpc(name = "calc")]
enum Calc {
    Add(Add),
    Reset(Reset),
}

fn calls(client: &rpc::Client<Calc>) {
    let _ = client.call(Add).retry(Retry::not_delivered().and_resolve());
    let _ = client.call(Reset).retry(Retry::idempotent());
    let _ = client.call(Add).retry(Retry::idempotent()); //~ the request `Add` is not declared idempotent
}

fn main() {}
