//! capnp-rpc: Cap'n Proto's own encoding and level one of its protocol. Its objects stay on one thread, so that its
//! calls are tasks of a `LocalSet`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use futures::io::{BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::{Contender, Driver, Failure, Load, LocalFuture, Role, Shape, answer_bytes, check_echo, fetched, request};
use crate::measure::lap::Lap;
use crate::schema::echo_capnp::echo;

/// Gives back what it is given, or this.
struct Mirror(Option<Bytes>);

impl echo::Server for Mirror {
    async fn say(self: Rc<Self>, request: echo::SayParams, mut answer: echo::SayResults) -> Result<(), capnp::Error> {
        match &self.0 {
            Some(fetched) => answer.get().set_payload(fetched),
            None => answer.get().set_payload(request.get()?.get_payload()?),
        }
        Ok(())
    }
}

pub(super) struct Capnp;

impl Contender for Capnp {
    fn name(&self) -> &'static str {
        "capnp-rpc"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn notes(&self) -> &'static str {
        "two-party RPC with buffered reads and writes as in its examples; it has no deadlines"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let listener = UnixListener::bind(path)?;
            let client: echo::Client = capnp_rpc::new_client(Mirror(fetched(load)));
            loop {
                let network = network(listener.accept().await?.0, rpc_twoparty_capnp::Side::Server);
                spawn_local(RpcSystem::new(Box::new(network), Some(client.clone().client)));
            }
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            let payload = request(load);
            if load.shape == Shape::Connect {
                return Ok(Box::new(Reconnect { path: path.to_owned(), payload }) as Box<dyn Driver>);
            }
            let mut callers = Vec::with_capacity(load.connections * load.in_flight);
            for _ in 0..load.connections {
                let client = open(path).await?;
                callers.extend((0..load.in_flight).map(|_| client.clone()));
            }
            Ok(Box::new(LocalTasks { callers, payload, answer_bytes: answer_bytes(load) }) as Box<dyn Driver>)
        })
    }
}

type Network = twoparty::VatNetwork<BufReader<Compat<tokio::net::unix::OwnedReadHalf>>>;

fn network(stream: UnixStream, side: rpc_twoparty_capnp::Side) -> Network {
    let (input, output) = stream.into_split();
    let (input, output) = (BufReader::new(input.compat()), BufWriter::new(output.compat_write()));
    twoparty::VatNetwork::new(input, output, side, capnp::message::ReaderOptions::default())
}

async fn open(path: &Path) -> Result<echo::Client, Failure> {
    let network = network(UnixStream::connect(path).await?, rpc_twoparty_capnp::Side::Client);
    let mut system = RpcSystem::new(Box::new(network), None);
    let client = system.bootstrap(rpc_twoparty_capnp::Side::Server);
    spawn_local(system);
    Ok(client)
}

async fn call(client: &echo::Client, payload: &Bytes, answer_bytes: usize) -> Result<(), Failure> {
    let mut request = client.say_request();
    request.get().set_payload(payload);
    let answer = request.send().promise.await?;
    check_echo(answer_bytes, answer.get()?.get_payload()?.len())
}

/// Like `Tasks`, on one thread.
struct LocalTasks {
    callers: Vec<echo::Client>,
    payload: Bytes,
    answer_bytes: usize,
}

impl Driver for LocalTasks {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut tasks = Vec::with_capacity(self.callers.len());
            for client in &self.callers {
                let (client, lap) = (client.clone(), Arc::clone(lap));
                let (payload, answer_bytes) = (self.payload.clone(), self.answer_bytes);
                tasks.push(spawn_local(async move {
                    while lap.another() {
                        let started = lap.start();
                        call(&client, &payload, answer_bytes).await?;
                        lap.done(started);
                    }
                    Ok::<_, Failure>(())
                }));
            }
            for task in tasks {
                task.await??;
            }
            Ok(())
        })
    }

    fn call_each(&mut self, payload: Bytes) -> LocalFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            for client in &self.callers {
                call(client, &payload, payload.len()).await?;
            }
            Ok(())
        })
    }
}

struct Reconnect {
    path: PathBuf,
    payload: Bytes,
}

impl Driver for Reconnect {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            while lap.another() {
                let started = lap.start();
                call(&open(&self.path).await?, &self.payload, self.payload.len()).await?;
                lap.done(started);
            }
            Ok(())
        })
    }
}
