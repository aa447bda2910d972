//! `rpc`, as users have it: default deadlines, cancel, limits and outcomes.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rpc::{Address, Blob, CallContext, Client, ItemSender, Limits, Never, Stage};
use serde::{Deserialize, Serialize};

use super::{
    Caller, Contender, Driver, Failure, LETTER, Load, LocalFuture, Reconnect, Role, Shape, Tasks, fetched,
    frame_bytes_max, request,
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

/// The same of 64 B that need no heap memory.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 6, ack = [u64; 8])]
struct SayWords {
    words: [u64; 8],
}

/// Answers with so many bytes, as a stream of chunks.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 4, ack = (), item = Blob)]
struct Fetch {
    bytes: u64,
}

/// Takes so many bytes, which it fetches from whoever sent this.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 5, ack = u64)]
struct Push {
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
    Push(Push),
    SayWords(SayWords),
}

/// What a client answers whose value is fetched.
#[derive(rpc::Protocol)]
#[rpc(name = "source", version = 1)]
enum Source {
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

    async fn say_words(&self, request: SayWords) -> Result<[u64; 8], Never> {
        Ok(request.words)
    }

    async fn fetch(&self, request: Fetch, items: ItemSender<Blob>) -> Result<(), Never> {
        self.send(&request, items);
        Ok(())
    }

    async fn push(&self, request: Push) -> Result<u64, Never> {
        let Some(caller) = CallContext::current().and_then(|context| context.caller::<Source>()) else { return Ok(0) };
        let Ok(((), items)) = caller.open(Fetch { bytes: request.bytes }).await else { return Ok(0) };
        let value = items.value(usize::try_from(request.bytes).unwrap_or(usize::MAX)).await;
        Ok(value.map_or(0, |value| value.len() as u64))
    }
}

impl SourceHandler for Mirror {
    async fn fetch(&self, request: Fetch, items: ItemSender<Blob>) -> Result<(), Never> {
        self.send(&request, items);
        Ok(())
    }
}

impl Mirror {
    fn send(&self, request: &Fetch, items: ItemSender<Blob>) {
        let wanted_bytes = usize::try_from(request.bytes).unwrap_or(usize::MAX);
        let value = self.0.slice(..wanted_bytes.min(self.0.len()));
        tokio::spawn(async move { items.send_value(&value).await });
    }
}

pub(super) struct Rpc {
    name: &'static str,
    role: Role,
    notes: &'static str,
    spin: Duration,
}

pub(super) const DEFAULT: Rpc = Rpc {
    name: "rpc",
    role: Role::Ours,
    notes: "default limits and deadlines, outcomes and cancel on; from 1 MiB the frame limit is raised, as for the others",
    spin: Duration::ZERO,
};

pub(super) const SPINNING: Rpc = Rpc {
    name: "rpc spinning",
    role: Role::OursSpinning,
    notes: "the same, and both sides spin for up to 50 us, which is off by default",
    spin: Duration::from_micros(50),
};

pub(super) const WATCHING: Rpc = Rpc {
    name: "rpc watching",
    role: Role::OursWatching,
    notes: "the same, and each caller waits until its call is known to have been received, then for its answer",
    spin: Duration::ZERO,
};

pub(super) const WORDS: Rpc = Rpc {
    name: "rpc words",
    role: Role::OursWords,
    notes: "the same, and the payload is eight numbers: what is allocated is the framework's",
    spin: Duration::ZERO,
};

impl Contender for Rpc {
    fn name(&self) -> &'static str {
        self.name
    }

    fn role(&self) -> Role {
        self.role
    }

    fn notes(&self) -> &'static str {
        self.notes
    }

    fn refuses(&self, load: &Load) -> Option<&'static str> {
        match (self.role, load) {
            (Role::OursSpinning, Load { shape: Shape::Echo, connections: 1, in_flight: 1, .. }) | (Role::Ours, _) => {
                None
            }
            (Role::OursWatching, Load { shape: Shape::Echo, connections: 1, payload_bytes: ..=4_000, .. }) => None,
            (Role::OursWords, Load { shape: Shape::Echo, connections: 1, payload_bytes: 64, .. }) => None,
            (Role::OursWords, _) => Some("its payload has 64 B"),
            (Role::OursWatching, _) => Some("small calls are what it is for"),
            _ => Some("a lone call is what it is for"),
        }
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mirror = Mirror(fetched(load).unwrap_or_default());
            let _server = rpc::serve_with::<Echo>(&Address::unix(path), mirror, self.limits(load)).await?;
            std::future::pending().await
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        let address = Address::unix(path);
        let limits = self.limits(load);
        Box::pin(async move {
            if load.shape == Shape::Connect {
                return Ok(Reconnect::driver(
                    move || std::future::ready(Ok(Client::<Echo>::with_limits(&address, limits.clone()))),
                    load,
                ));
            }
            let mut callers = Vec::with_capacity(load.connections * load.in_flight);
            for _ in 0..load.connections {
                let builder = Client::<Echo>::builder(&address).limits(limits.clone());
                let mut client = match load.shape {
                    Shape::Push => builder.serves::<Source>(Mirror(request(load))).build(),
                    _ => builder.build(),
                };
                // Connects.
                Caller::call(&mut client, &Bytes::from_static(&[7])).await?;
                callers.extend((0..load.in_flight).map(|_| client.clone()));
            }
            if load.shape == Shape::Fetch {
                let fetcher = |client| Fetcher { client, wanted_bytes: load.payload_bytes };
                return Ok(Tasks::driver(callers.into_iter().map(fetcher), load));
            }
            if load.shape == Shape::Push {
                return Ok(Tasks::driver(callers.into_iter().map(Pusher), load));
            }
            if self.role == Role::OursWatching {
                return Ok(Tasks::driver(callers.into_iter().map(Watcher), load));
            }
            if self.role == Role::OursWords {
                return Ok(Tasks::driver(callers.into_iter().map(Speaker), load));
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

struct Pusher(Client<Echo>);

impl Caller for Pusher {
    async fn call(&mut self, value: &Bytes) -> Result<usize, Failure> {
        let taken = self.0.call(Push { bytes: value.len() as u64 }).await?;
        // What has not arrived would have come back.
        Ok(value.len() - usize::try_from(taken)?)
    }
}

struct Speaker(Client<Echo>);

impl Caller for Speaker {
    async fn call(&mut self, _: &Bytes) -> Result<usize, Failure> {
        let words = [u64::from(LETTER); 8];
        let echo = self.0.call(SayWords { words }).await?;
        Ok(size_of_val(&echo))
    }
}

struct Watcher(Client<Echo>);

impl Caller for Watcher {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        let mut call = self.0.call(Say { payload: Blob(payload.clone()) });
        call.reached(Stage::Received).await;
        Ok(call.await?.0.len())
    }
}

impl Rpc {
    /// The defaults, as far as the payload fits them.
    fn limits(&self, load: &Load) -> Limits {
        let mut defaults = Limits { spin: self.spin, ..Limits::default() };
        let window_bytes = load.in_flight * load.payload_bytes;
        if window_bytes > defaults.queued_bytes_max / 2 {
            defaults.queued_bytes_max = 2 * window_bytes;
            defaults.answer_bytes_max = 2 * window_bytes;
            defaults.request_bytes_max = 2 * window_bytes;
        }
        if matches!(load.shape, Shape::Fetch | Shape::Push) || load.payload_bytes + 4096 <= defaults.frame_bytes_max {
            return defaults;
        }
        Limits { frame_bytes_max: frame_bytes_max(load), ..defaults }
    }
}
