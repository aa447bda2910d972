// Every serde attribute that a format without field names cannot carry, wherever it stands.
// (Without serde's own derives, which would complain about some of the combinations themselves.)
use rpc::Wire;

#[derive(Wire)]
#[serde(untagged)] //~ `#[serde(untagged)]` cannot travel in a message: it can be encoded and then not decoded
enum Untagged {
    A(u8),
}

#[derive(Wire)]
#[serde(tag = "kind", content = "value")] //~ `#[serde(tag)]` cannot travel in a message: it can be encoded and then not decoded //~ `#[serde(content)]` cannot travel in a message: it can be encoded
enum Tagged {
    A(u8),
}

#[derive(Wire)]
#[serde(default, remote = "Other")] //~ `#[serde(default)]` cannot travel in a message: the format cannot leave a field out //~ `#[serde(remote)]` cannot travel in a message: its bytes are those of some other type
struct OnType {
    a: u8,
}

#[derive(Wire)]
#[serde(from = "u8", into = "u8")] //~ `#[serde(from)]` cannot travel in a message: its bytes are those of the other type //~ `#[serde(into)]` cannot travel in a message: its bytes are those of the other type
struct Converted(u8);

#[derive(Wire)]
#[serde(try_from = "u8", into = "u8")] //~ `#[serde(try_from)]` cannot travel in a message: its bytes are those of the other type //~ `#[serde(into)]` cannot travel in a message: its bytes are those of the other type
struct Checked(u8);

#[derive(Wire)]
enum OnVariant {
    #[serde(skip)] //~ `#[serde(skip)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    Skipped,
    #[serde(skip_serializing)] //~ `#[serde(skip_serializing)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    SkippedOut,
    #[serde(skip_deserializing)] //~ `#[serde(skip_deserializing)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    SkippedIn,
    #[serde(with = "module")] //~ `#[serde(with)]` cannot travel in a message: its bytes are those of some other type
    With(u8),
    #[serde(other)] //~ `#[serde(other)]` cannot travel in a message: an unknown variant's fields
    Other,
    Struct {
        #[serde(flatten)] //~ `#[serde(flatten)]` cannot travel in a message: it makes a map of the fields
        inner: u8,
    },
    Tuple(#[serde(skip)] u8), //~ `#[serde(skip)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
}

#[derive(Wire)]
struct OnField {
    #[serde(skip)] //~ `#[serde(skip)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    a: u8,
    #[serde(skip_serializing)] //~ `#[serde(skip_serializing)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    b: u8,
    #[serde(skip_deserializing)] //~ `#[serde(skip_deserializing)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    c: u8,
    #[serde(skip_serializing_if = "Option::is_none")] //~ `#[serde(skip_serializing_if)]` cannot travel in a message: the format has no field names, so everything behind a part that is left out is read in its place
    d: Option<u8>,
    #[serde(default)] //~ `#[serde(default)]` cannot travel in a message: the format cannot leave a field out
    e: u8,
    #[serde(default = "five")] //~ `#[serde(default)]` cannot travel in a message: the format cannot leave a field out
    f: u8,
    #[serde(flatten)] //~ `#[serde(flatten)]` cannot travel in a message: it makes a map
    g: u8,
    #[serde(with = "module")] //~ `#[serde(with)]` cannot travel in a message: its bytes are those of some other type
    h: u8,
    #[serde(serialize_with = "f")] //~ `#[serde(serialize_with)]` cannot travel in a message: its bytes are those of some other type
    i: u8,
    #[serde(deserialize_with = "f")] //~ `#[serde(deserialize_with)]` cannot travel in a message: its bytes are those of some other type
    j: u8,
    #[serde(getter = "f")] //~ `#[serde(getter)]` cannot travel in a message: its bytes are those of some other type
    k: u8,
    #[serde(borrow)] //~ `#[serde(borrow)]` cannot travel in a message: a message outlives the buffer
    l: u8,
    #[serde(of_tomorrow)] //~ `#[serde(of_tomorrow)]` cannot travel in a message: it is not known to leave the bytes as they are
    m: u8,
    #[serde(rename = "fine", alias = "fine_too")]
    n: u8,
}

fn main() {}
