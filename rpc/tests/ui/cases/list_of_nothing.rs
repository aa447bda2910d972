use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Marker;

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Units {
    units: rpc::List<(), 8>, //~~ the element of an `rpc::List` may occupy no bytes on the wire; send a count
}

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Markers {
    markers: rpc::List<Marker, 8>,
}

fn main() {}
