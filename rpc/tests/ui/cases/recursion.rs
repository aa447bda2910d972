use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Tree {
    children: rpc::List<Tree, 8>, //~ a type that contains itself cannot travel in a message: a few kilobytes of nesting would overflow
}

#[derive(Serialize, Deserialize, rpc::Wire)]
enum Expression {
    Number(u64),
    Not(Box<Self>), //~ a type that contains itself cannot travel in a message: a few kilobytes of nesting would overflow
}

fn main() {}
