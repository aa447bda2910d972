//! tonic: gRPC over HTTP/2, prost messages with `Bytes`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::{Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, fetched};
use crate::schema::echo_grpc::echo_client::EchoClient;
use crate::schema::echo_grpc::echo_server::{Echo, EchoServer};

/// As in `echo.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) payload: Bytes,
}

/// Gives back what it is given, or this.
struct Mirror(Option<Bytes>);

#[tonic::async_trait]
impl Echo for Mirror {
    async fn say(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(match &self.0 {
            Some(fetched) => Payload { payload: fetched.clone() },
            None => request.into_inner(),
        }))
    }
}

pub(super) struct Tonic;

impl Contender for Tonic {
    fn name(&self) -> &'static str {
        "tonic"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn notes(&self) -> &'static str {
        "HTTP/2 over the Unix socket, prost messages with Bytes, a timeout of 10 s for each call, up to 4 096 streams"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let listener = tokio::net::UnixListener::bind(path)?;
            let incoming = futures::stream::unfold(listener, |listener| async {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            });
            let server =
                Server::builder().max_concurrent_streams(4096).add_service(EchoServer::new(Mirror(fetched(load))));
            Ok(server.serve_with_incoming(incoming).await?)
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

async fn open(path: PathBuf) -> Result<EchoClient<Channel>, Failure> {
    let endpoint = Endpoint::new(format!("unix://{}", path.display()))?.timeout(std::time::Duration::from_secs(10));
    Ok(EchoClient::new(endpoint.connect().await?))
}

impl Caller for EchoClient<Channel> {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        Ok(self.say(Payload { payload: payload.clone() }).await?.into_inner().payload.len())
    }
}
