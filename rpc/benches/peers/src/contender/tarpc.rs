//! tarpc: bincode in length-delimited frames, the payload as `Bytes`, which is its fastest way to carry one.

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport, server};

use super::{
    Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, fetched, frame_bytes_max,
};

#[tarpc::service]
trait Echo {
    /// Gives back what it is given.
    async fn say(payload: Bytes) -> Bytes;
}

/// Gives back what it is given, or this.
#[derive(Clone)]
struct Mirror(Option<Bytes>);

impl Echo for Mirror {
    async fn say(self, _: context::Context, payload: Bytes) -> Bytes {
        self.0.unwrap_or(payload)
    }
}

pub(super) struct Tarpc;

impl Contender for Tarpc {
    fn name(&self) -> &'static str {
        "tarpc"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn notes(&self) -> &'static str {
        "bincode over its Unix transport, payload as Bytes, default deadline of 10 s, queues of 4 096"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut incoming = serde_transport::unix::listen(path, Bincode::default).await?;
            incoming.config_mut().max_frame_length(frame_bytes_max(load));
            let mirror = Mirror(fetched(load));
            while let Some(transport) = incoming.next().await {
                let config = server::Config { pending_response_buffer: 4096 };
                let calls = BaseChannel::new(config, transport?).execute(mirror.clone().serve());
                tokio::spawn(calls.for_each(|call| async move { drop(tokio::spawn(call)) }));
            }
            Ok(())
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            let (path, frame_bytes_max) = (path.to_owned(), frame_bytes_max(load));
            let open = move || {
                let path = path.clone();
                async move {
                    let mut connecting = serde_transport::unix::connect(path, Bincode::default);
                    connecting.config_mut().max_frame_length(frame_bytes_max);
                    // Its default of 100 would hold back the larger workloads.
                    let mut config = client::Config::default();
                    config.max_in_flight_requests = 4096;
                    config.pending_request_buffer = 4096;
                    Ok::<_, Failure>(EchoClient::new(config, connecting.await?).spawn())
                }
            };
            if load.shape == Shape::Connect {
                return Ok(Reconnect::driver(open, load));
            }
            let mut callers = Vec::with_capacity(load.connections * load.in_flight);
            for _ in 0..load.connections {
                let client = open().await?;
                callers.extend((0..load.in_flight).map(|_| client.clone()));
            }
            Ok(Tasks::driver(callers, load))
        })
    }
}

impl Caller for EchoClient {
    async fn call(&mut self, payload: &Bytes) -> Result<usize, Failure> {
        Ok(self.say(context::current(), payload.clone()).await?.len())
    }
}
