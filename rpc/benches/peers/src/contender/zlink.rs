//! zlink: Varlink, JSON objects that end in a zero byte; answers come in the order of their calls.
//!
//! A connection is used by one caller. Several calls in flight are a chain, its own way to pipeline: all of them are
//! written at once, then all answers are read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zlink::Call;
use zlink::tokio::unix;

use super::{
    Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, check_echo, fetched, request,
};
use crate::measure::lap::Lap;

#[derive(Debug, Serialize)]
#[serde(tag = "method", content = "parameters")]
enum Method<'a> {
    #[serde(rename = "org.example.Echo.Say")]
    Say { payload: &'a str },
}

/// The answer as it is given.
#[derive(Debug, Serialize, zlink::introspect::Type)]
struct Say {
    payload: String,
}

/// The answer as it is read: text without escapes needs no copy.
#[derive(Debug, Deserialize)]
struct Said<'a> {
    payload: &'a str,
}

#[derive(Debug, zlink::ReplyError)]
#[zlink(interface = "org.example.Echo")]
enum Refused {
    Never,
}

/// Gives back what it is given, or this.
struct Mirror(Option<String>);

#[zlink::service(interface = "org.example.Echo")]
impl Mirror {
    async fn say(&mut self, payload: String) -> Say {
        Say { payload: self.0.clone().unwrap_or(payload) }
    }
}

pub(super) struct Zlink;

impl Contender for Zlink {
    fn name(&self) -> &'static str {
        "zlink"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn notes(&self) -> &'static str {
        "JSON, the payload as a string without escapes; several in flight are chains; it has no deadlines"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let fetched = fetched(load).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            Ok(zlink::Server::new(unix::bind(path)?, Mirror(fetched)).run().await?)
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            if load.shape == Shape::Connect {
                let path = path.to_owned();
                return Ok(Reconnect::driver(move || open(path.clone()), load));
            }
            let mut connections = Vec::with_capacity(load.connections);
            for _ in 0..load.connections {
                connections.push(open(path.to_owned()).await?);
            }
            if load.in_flight == 1 {
                return Ok(Tasks::driver(connections, load));
            }
            let connection = connections.pop().ok_or("no connection")?;
            let chains = Chains { connection: Some(connection), payload: request(load), in_flight: load.in_flight };
            Ok(Box::new(chains) as Box<dyn Driver>)
        })
    }
}

async fn open(path: PathBuf) -> Result<unix::Connection, Failure> {
    Ok(unix::connect(path).await?)
}

impl Caller for unix::Connection {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        let call = Call::new(Method::Say { payload: std::str::from_utf8(payload)? });
        let (answer, _) = self.call_method::<_, Said<'_>, Refused>(&call, Vec::new()).await?;
        let said = answer.map_err(|refused| format!("{refused:?}"))?.into_parameters();
        Ok(said.ok_or("an answer without parameters")?.payload.len())
    }
}

struct Chains {
    connection: Option<unix::Connection>,
    payload: Bytes,
    in_flight: usize,
}

impl Driver for Chains {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let connection = self.connection.take().ok_or("it failed before")?;
            let (lap, payload, in_flight) = (Arc::clone(lap), self.payload.clone(), self.in_flight);
            let chains = tokio::spawn(async move { chain(connection, &payload, in_flight, &lap).await });
            self.connection = Some(chains.await??);
            Ok(())
        })
    }
}

async fn chain(
    connection: unix::Connection,
    payload: &Bytes,
    in_flight: usize,
    lap: &Lap,
) -> Result<unix::Connection, Failure> {
    let call = Call::new(Method::Say { payload: std::str::from_utf8(payload)? });
    let (mut input, mut output) = connection.split();
    loop {
        let calls = lap.several(in_flight as u64);
        if calls == 0 {
            return Ok(unix::Connection::join(input, output));
        }
        let started = lap.start();
        for _ in 0..calls {
            output.enqueue_call(&call, Vec::new())?;
        }
        // Reading must not wait for writing: the server does not read while its answers are not read.
        let read = async {
            for _ in 0..calls {
                let (answer, _) = input.receive_reply::<Said<'_>, Refused>().await?;
                let said = answer.map_err(|refused| format!("{refused:?}"))?.into_parameters();
                check_echo(payload.len(), said.ok_or("an answer without parameters")?.payload.len())?;
                lap.done(started);
            }
            Ok::<_, Failure>(())
        };
        let (written, read) = futures::join!(output.flush(), read);
        written?;
        read?;
    }
}
