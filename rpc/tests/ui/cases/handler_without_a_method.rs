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
    Reset(Reset),
}

struct Sums;

impl CalcHandler for Sums { //~ missing: `reset`
    async fn add(&self, _: Add) -> Result<(), rpc::Never> {
        Ok(())
    }
}

fn main() {}
