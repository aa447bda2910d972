use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Pair<T> {
    both: Option<Box<(T, T)>>,
}

#[derive(Serialize, Deserialize, rpc::Wire)] //~ cycle detected
struct Knot {
    pair: Pair<Loop>,
}

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Loop(rpc::List<Knot, 4>);

fn main() {}
