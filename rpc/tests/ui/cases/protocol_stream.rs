use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = ())]
struct Add;

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = (), item = u8)]
struct Watch;

#[derive(rpc::Protocol)] //~ the request `Add` opens no stream
#[rpc(name = "marked")]
enum Marked {
    #[rpc(stream)]
    Add(Add), //~ the request `Add` opens no stream
}

#[derive(rpc::Protocol)]
#[rpc(name = "unmarked")]
enum Unmarked {
    Watch(Watch), //~ the ack of `Unmarked::Watch` opens a stream: mark it with `#[rpc(stream)]`
}

fn main() {}
