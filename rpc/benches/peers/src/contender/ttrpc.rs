//! ttrpc: protobuf messages with a small header, asynchronous; the payload as `Bytes`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ttrpc::asynchronous::{Client, Server, TtrpcContext};

use super::{Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, fetched};
use crate::schema::echo::Payload;
use crate::schema::echo_ttrpc::{Echo, EchoClient, create_echo};

/// Gives back what it is given, or this.
struct Mirror(Option<Bytes>);

#[async_trait::async_trait]
impl Echo for Mirror {
    async fn say(&self, _: &TtrpcContext, request: Payload) -> ttrpc::Result<Payload> {
        Ok(match &self.0 {
            Some(fetched) => Payload { payload: fetched.clone(), ..request },
            None => request,
        })
    }
}

pub(super) struct Ttrpc;

impl Contender for Ttrpc {
    fn name(&self) -> &'static str {
        "ttrpc"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn notes(&self) -> &'static str {
        "asynchronous, rust-protobuf messages with Bytes, a timeout of 10 s for each call"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let server = Server::new().bind(&format!("unix://{}", path.display()))?;
            let mut server = server.register_service(create_echo(Arc::new(Mirror(fetched(load)))));
            server.start().await?;
            std::future::pending().await
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

async fn open(path: PathBuf) -> Result<EchoClient, Failure> {
    Ok(EchoClient::new(Client::connect(&format!("unix://{}", path.display())).await?))
}

impl Caller for EchoClient {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        let request = Payload { payload: payload.clone(), ..Payload::default() };
        let context = ttrpc::context::with_duration(std::time::Duration::from_secs(10));
        Ok(self.say(context, &request).await?.payload.len())
    }
}
