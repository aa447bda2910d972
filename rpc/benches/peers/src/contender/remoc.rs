//! remoc: a remote trait over a multiplexed connection, in its own binary encoding; the payload as `Bytes`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use remoc::rch::base;
use remoc::rtc::{CallError, ServerShared};
use tokio::net::{UnixListener, UnixStream};

use super::{Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, fetched};

/// Gives back what it is given.
#[remoc::rtc::remote]
pub(super) trait Echo {
    async fn say(&self, payload: Bytes) -> Result<Bytes, CallError>;
}

/// Gives back what it is given, or this.
struct Mirror(Option<Bytes>);

impl Echo for Mirror {
    async fn say(&self, payload: Bytes) -> Result<Bytes, CallError> {
        Ok(self.0.clone().unwrap_or(payload))
    }
}

pub(super) struct Remoc;

impl Contender for Remoc {
    fn name(&self) -> &'static str {
        "remoc"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn notes(&self) -> &'static str {
        "a remote trait, its default codec and configuration, payload as Bytes"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let listener = UnixListener::bind(path)?;
            let mirror = Arc::new(Mirror(fetched(load)));
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(answer(stream, Arc::clone(&mirror)));
            }
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            if load.shape == Shape::Connect {
                let path = path.to_owned();
                return Ok(Reconnect::driver(move || open(path.clone()), load));
            }
            let mut callers = Vec::with_capacity(load.connections * load.in_flight);
            for _ in 0..load.connections {
                let client = open(path.to_owned()).await?;
                callers.extend((0..load.in_flight).map(|_| client.clone()));
            }
            Ok(Tasks::driver(callers, load))
        })
    }
}

async fn answer(stream: UnixStream, mirror: Arc<Mirror>) -> Result<(), Failure> {
    let (input, output) = stream.into_split();
    let (connection, mut to_client, _from_client): (_, base::Sender<EchoClient>, base::Receiver<()>) =
        remoc::Connect::io(remoc::Cfg::default(), input, output).await?;
    tokio::spawn(connection);
    let (server, client) = EchoServerShared::new(mirror);
    to_client.send(client).await?;
    server.serve().await.map_err(|error| error.to_string().into())
}

async fn open(path: PathBuf) -> Result<EchoClient, Failure> {
    let (input, output) = UnixStream::connect(path).await?.into_split();
    let (connection, _to_server, mut from_server): (_, base::Sender<()>, base::Receiver<EchoClient>) =
        remoc::Connect::io(remoc::Cfg::default(), input, output).await?;
    tokio::spawn(connection);
    Ok(from_server.recv().await?.ok_or("the server offers nothing")?)
}

impl Caller for EchoClient {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        Ok(self.say(payload.clone()).await?.len())
    }
}
