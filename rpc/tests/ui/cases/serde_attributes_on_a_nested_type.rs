// What is refused on a request is refused on everything inside of it, however deep.
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Deep {
    #[serde(skip_serializing_if = "Option::is_none")] //~ `#[serde(skip_serializing_if)]` cannot travel in a message: the format has no field names
    note: Option<String>,
}

#[derive(Serialize, Deserialize, rpc::Wire)]
struct Middle {
    deep: rpc::List<Option<Deep>, 4>,
}

/// Nobody has looked at its attributes.
#[derive(Serialize, Deserialize)]
struct Unchecked {
    #[serde(skip)]
    lost: u8,
}

#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Middle)]
struct Outer {
    middle: Middle,
    unchecked: rpc::List<Option<Unchecked>, 4>, //~ `Unchecked` cannot travel in a message: it is no wire type
}

#[derive(rpc::Wire)]
#[serde(variant_identifier)] //~ `#[serde(variant_identifier)]` cannot travel in a message: it is not known to leave the bytes as they are
enum Identifies {
    A,
}

#[derive(rpc::Wire)]
#[serde(field_identifier)] //~ `#[serde(field_identifier)]` cannot travel in a message: it is not known to leave the bytes as they are
enum IdentifiesFields {
    A,
}

// What says only names and bounds changes no byte.
#[derive(Serialize, Deserialize, rpc::Wire)]
#[serde(rename = "x", rename_all = "camelCase", deny_unknown_fields, expecting = "a thing", bound = "")]
struct Named {
    #[serde(rename = "y", alias = "z")]
    field_of_mine: u8,
}

#[derive(Serialize, Deserialize, rpc::Wire)]
#[serde(transparent)]
struct Transparent(u8);

fn main() {}
