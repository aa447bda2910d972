//! `rpc`, as users have it: default deadlines, cancel, limits and outcomes.

use std::path::Path;

use bytes::Bytes;
use rpc::{Address, Blob, Client, ItemSender, Limits, Never};
use serde::{Deserialize, Serialize};

use super::{
    Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, fetched, frame_bytes_max,
};

/// Gives back what it is given. The answer of a method is as large as it declares, at most; 4 KiB if it says nothing.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Blob)]
struct Say {
    payload: Blob,
}

/// The same, for larger ones.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 2, ack = Blob, ack_bytes_max = 65_600)]
struct SayPage {
    payload: Blob,
}

/// The same, for the largest.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 3, ack = Blob, ack_bytes_max = 1_048_640)]
struct SayBook {
    payload: Blob,
}

/// Answers with so many bytes, as a stream of chunks.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = (), item = Blob)]
struct Fetch {
    bytes: u64,
}

#[derive(rpc::Protocol)]
#[rpc(name = "echo", version = 1)]
enum Echo {
    Say(Say),
    SayPage(SayPage),
    SayBook(SayBook),
    #[rpc(stream)]
    Fetch(Fetch),
}

/// Gives back what it is given; of this as much as is fetched.
struct Mirror(Bytes);

impl EchoHandler for Mirror {
    async fn say(&self, request: Say) -> Result<Blob, Never> {
        Ok(request.payload)
    }

    async fn say_page(&self, request: SayPage) -> Result<Blob, Never> {
        Ok(request.payload)
    }

    async fn say_book(&self, request: SayBook) -> Result<Blob, Never> {
        Ok(request.payload)
    }

    async fn fetch(&self, request: Fetch, items: ItemSender<Blob>) -> Result<(), Never> {
        let wanted_bytes = usize::try_from(request.bytes).unwrap_or(usize::MAX);
        let value = self.0.slice(..wanted_bytes.min(self.0.len()));
        tokio::spawn(async move { items.send_value(&value).await });
        Ok(())
    }
}

pub(super) struct Rpc;

impl Contender for Rpc {
    fn name(&self) -> &'static str {
        "rpc"
    }

    fn role(&self) -> Role {
        Role::Ours
    }

    fn notes(&self) -> &'static str {
        "default limits and deadlines, outcomes and cancel on; from 1 MiB the frame limit is raised, as for the others"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mirror = Mirror(fetched(load).unwrap_or_default());
            let _server = rpc::serve_with::<Echo>(&Address::unix(path), mirror, limits(load)).await?;
            std::future::pending().await
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        let address = Address::unix(path);
        let limits = limits(load);
        Box::pin(async move {
            if load.shape == Shape::Connect {
                return Ok(Reconnect::driver(
                    move || std::future::ready(Ok(Client::<Echo>::with_limits(&address, limits.clone()))),
                    load,
                ));
            }
            let mut callers = Vec::with_capacity(load.connections * load.in_flight);
            for _ in 0..load.connections {
                let mut client = Client::<Echo>::with_limits(&address, limits.clone());
                // Connects.
                Caller::call(&mut client, &Bytes::from_static(&[7])).await?;
                callers.extend((0..load.in_flight).map(|_| client.clone()));
            }
            if load.shape == Shape::Fetch {
                let fetcher = |client| Fetcher { client, wanted_bytes: load.payload_bytes };
                return Ok(Tasks::driver(callers.into_iter().map(fetcher), load));
            }
            Ok(Tasks::driver(callers, load))
        })
    }
}

impl Caller for Client<Echo> {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        let payload = Blob(payload.clone());
        let echo = match payload.len() {
            ..=4_000 => rpc::call(self, Say { payload }).await?,
            4_001..=65_536 => rpc::call(self, SayPage { payload }).await?,
            65_537.. => rpc::call(self, SayBook { payload }).await?,
        };
        Ok(echo.0.len())
    }
}

struct Fetcher {
    client: Client<Echo>,
    wanted_bytes: usize,
}

impl Caller for Fetcher {
    async fn call(&mut self, _: &Bytes) -> Result<usize, Failure> {
        let ((), items) = self.client.open(Fetch { bytes: self.wanted_bytes as u64 }).await?;
        Ok(items.value(self.wanted_bytes).await?.len())
    }
}

/// The defaults, as far as the payload fits them.
fn limits(load: &Load) -> Limits {
    let defaults = Limits::default();
    if load.shape == Shape::Fetch || load.payload_bytes + 4096 <= defaults.frame_bytes_max {
        return defaults;
    }
    Limits { frame_bytes_max: frame_bytes_max(load), ..defaults }
}
