//! Large values in both directions, as streams of chunks, beside small calls that they never delay.
//!
//! What a client fetches is a stream that its call opens. What it uploads is a stream too: it offers the value, and the
//! server pulls it over the same connection, by calling back. Neither side ever makes a frame larger than a chunk.
#![allow(clippy::print_stdout, reason = "an example prints what it observed")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use examples::{Outcome, check, socket};
use rpc::{Blob, CallContext, Client, ItemSender, Never};
use serde::{Deserialize, Serialize};

/// The largest value that either side takes.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// I have a value: pull it. Acked with its size when it is stored whole.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = NotPulled)]
struct Put {
    name: String,
}
/// The value could not be pulled whole; nothing was stored.
#[derive(Serialize, Deserialize, rpc::Wire, Debug)]
struct NotPulled {
    why: String,
}
/// Sends a value.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = u64, rejection = Missing, item = Blob)]
struct Get {
    name: String,
}
/// No value has this name.
#[derive(Serialize, Deserialize, rpc::Wire, Debug)]
struct Missing;
/// The size of a value: a small call.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = Option<u64>)]
struct Size {
    name: String,
}
#[derive(rpc::Protocol)]
#[rpc(name = "values")]
enum Values {
    Put(Put),
    #[rpc(stream)]
    Get(Get),
    Size(Size),
}

/// What a client serves while it uploads.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = u64, rejection = Missing, item = Blob)]
struct Pull {
    name: String,
}
#[derive(rpc::Protocol)]
#[rpc(name = "values.source")]
enum Source {
    #[rpc(stream)]
    Pull(Pull),
}

#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>);

impl Shelf {
    fn find(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        self.0.lock().ok()?.get(name).cloned()
    }

    fn keep(&self, name: String, value: Vec<u8>) {
        if let Ok(mut shelf) = self.0.lock() {
            shelf.insert(name, Arc::new(value));
        }
    }

    /// Acks with the size at once and sends the value behind it.
    fn send(&self, name: &str, items: ItemSender<Blob>) -> Result<u64, Missing> {
        let value = self.find(name).ok_or(Missing)?;
        let bytes = value.len() as u64;
        tokio::spawn(async move {
            if let Err(error) = items.send_value(&value).await {
                println!("a reader has not got its value: {error}");
            }
        });
        Ok(bytes)
    }
}

impl ValuesHandler for Shelf {
    async fn put(&self, put: Put) -> Result<u64, NotPulled> {
        let not_pulled = |why: String| NotPulled { why };
        let back = CallContext::current().and_then(|context| context.caller::<Source>());
        let back = back.ok_or_else(|| not_pulled("nobody to pull it from".into()))?;
        let (bytes, items) =
            back.open(Pull { name: put.name.clone() }).await.map_err(|error| not_pulled(error.to_string()))?;
        let value = items.value(VALUE_BYTES_MAX).await.map_err(|error| not_pulled(error.to_string()))?;
        self.keep(put.name, value);
        Ok(bytes)
    }

    async fn get(&self, get: Get, items: ItemSender<Blob>) -> Result<u64, Missing> {
        self.send(&get.name, items)
    }

    async fn size(&self, size: Size) -> Result<Option<u64>, Never> {
        Ok(self.find(&size.name).map(|value| value.len() as u64))
    }
}

impl SourceHandler for Shelf {
    async fn pull(&self, pull: Pull, items: ItemSender<Blob>) -> Result<u64, Missing> {
        self.send(&pull.name, items)
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    let address = socket(directory.path());
    let server = Shelf::default();
    let _server = rpc::serve::<Values>(&address, server.clone()).await?;
    let ours = Shelf::default();
    let client = Client::<Values>::builder(&address).serves::<Source>(ours.clone()).build();

    let value: Vec<u8> = (0..32 << 20).map(|at: u32| (at % 251) as u8).collect();
    ours.keep("film".into(), value.clone());
    let name = || String::from("film");

    let upload = tokio::spawn(client.call(Put { name: name() }).deadline(std::time::Duration::from_secs(60)));
    let mut small_calls = 0;
    while client.call(Size { name: name() }).await?.is_none() {
        small_calls += 1;
    }
    let stored = upload.await??;
    println!("observed: {stored} bytes uploaded, {small_calls} small calls answered meanwhile");
    check(server.find("film").is_some_and(|stored| *stored == value), "the server has the value whole")?;
    check(small_calls > 0, "small calls were answered while it travelled")?;

    let (bytes, items) = client.open(Get { name: name() }).await?;
    check(items.value(VALUE_BYTES_MAX).await? == value && bytes == stored, "and so has who fetches it")?;
    let (_, items) = client.open(Get { name: name() }).await?;
    let refused = items.value(1 << 20).await;
    println!("observed: {refused:?}");
    check(refused.is_err(), "a reader that takes less gets an error, not a part")
}
