//! Those who are compared: each listens in a process of its own, and echoes.
//!
//! All send frames of the same size. Ours carries ids, deadlines and outcomes; the others match answers to requests by
//! their order alone, and learn nothing when an answer does not come.

use std::future::Future;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use rpc::{Address, Blob, Client, Never};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::runtime_of;

/// What a call carries.
pub(crate) const PAYLOAD_BYTES: usize = 64;
/// A request of ours without its length: the header, the payload's length, the payload.
pub(crate) const FRAME_BYTES: usize = rpc::wire::header::REQUEST_BYTES + 1 + PAYLOAD_BYTES;
/// With its length.
const WIRE_BYTES: usize = rpc::wire::frame::LENGTH_BYTES + FRAME_BYTES;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
/// Keeps calling for so long; says how many calls were answered.
pub(crate) type Drive = Box<dyn FnMut(Duration) -> Result<u64, Failure>>;

/// Which tokio runtime both processes use.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Runtime {
    OneThread,
    ManyThreads,
}

/// One way to echo.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The bare tokio contender on the same runtime.
    pub(crate) bound: &'static str,
    what: What,
}

enum What {
    Rpc(Runtime),
    Tokio(Runtime),
    Blocking,
}

pub(crate) const CONTENDERS: &[Contender] = &[
    Contender { name: "rpc", bound: "tokio", what: What::Rpc(Runtime::OneThread) },
    Contender { name: "tokio", bound: "tokio", what: What::Tokio(Runtime::OneThread) },
    Contender { name: "rpc-threads", bound: "tokio-threads", what: What::Rpc(Runtime::ManyThreads) },
    Contender { name: "tokio-threads", bound: "tokio-threads", what: What::Tokio(Runtime::ManyThreads) },
    Contender { name: "blocking", bound: "tokio", what: What::Blocking },
];

impl Contender {
    pub(crate) fn serve(&self, path: &Path) -> Result<(), Failure> {
        match self.what {
            What::Rpc(runtime) => runtime_of(runtime)?.block_on(async {
                let _server = rpc::serve::<Echo>(&Address::unix(path), Mirror).await?;
                std::future::pending().await
            }),
            What::Tokio(runtime) => runtime_of(runtime)?.block_on(async {
                let listener = tokio::net::UnixListener::bind(path)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::spawn(echo_tokio(stream));
                }
            }),
            What::Blocking => {
                for stream in std::os::unix::net::UnixListener::bind(path)?.incoming() {
                    let stream = stream?;
                    std::thread::spawn(move || echo_blocking(stream));
                }
                Ok(())
            }
        }
    }

    pub(crate) fn connect(&self, path: &Path, in_flight: usize) -> io::Result<Drive> {
        Ok(match self.what {
            What::Rpc(kind) => {
                let runtime = runtime_of(kind)?;
                let client = Client::<Echo>::new(&Address::unix(path));
                Box::new(move |slice| on(&runtime, call_rpc(client.clone(), in_flight, slice)))
            }
            What::Tokio(kind) => {
                let runtime = runtime_of(kind)?;
                let stream = {
                    let _inside = runtime.enter();
                    let stream = std::os::unix::net::UnixStream::connect(path)?;
                    stream.set_nonblocking(true)?;
                    tokio::net::UnixStream::from_std(stream)?
                };
                let mut framed = Some(Framed::new(stream, LengthDelimitedCodec::new()));
                Box::new(move |slice| {
                    let mine = framed.take().ok_or("the connection failed before")?;
                    let (calls, mine) = on(&runtime, call_tokio(mine, in_flight, slice))?;
                    framed = Some(mine);
                    Ok(calls)
                })
            }
            What::Blocking => {
                let mut stream = std::os::unix::net::UnixStream::connect(path)?;
                Box::new(move |slice| call_blocking(&mut stream, in_flight, slice))
            }
        })
    }
}

/// Runs the driver of the calls as a task of the runtime, where a program has its calls too.
fn on<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    calls: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    runtime.block_on(async { tokio::spawn(calls).await? })
}

/// Gives back what it is given.
#[derive(Serialize, Deserialize, rpc::Request)]
#[rpc(id = 1, ack = Blob)]
struct Say {
    payload: Blob,
}

#[derive(rpc::Protocol)]
#[rpc(name = "echo", version = 1)]
enum Echo {
    Say(Say),
}

struct Mirror;

impl EchoHandler for Mirror {
    async fn say(&self, request: Say) -> Result<Blob, Never> {
        Ok(request.payload)
    }
}

async fn call_rpc(client: Client<Echo>, in_flight: usize, slice: Duration) -> Result<u64, Failure> {
    let end = Instant::now() + slice;
    let payload = Bytes::from_static(&[7; PAYLOAD_BYTES]);
    let one_after_the_other = move |client: Client<Echo>, payload: Bytes| async move {
        let mut calls = 0_u64;
        // The clock is read as seldom as by the others.
        while !calls.is_multiple_of(8) || Instant::now() < end {
            let answer = rpc::call(&client, Say { payload: Blob(payload.clone()) }).await?;
            assert_eq!(answer.0.len(), PAYLOAD_BYTES, "an echo");
            calls += 1;
        }
        Ok::<_, Failure>(calls)
    };
    if in_flight == 1 {
        return one_after_the_other(client, payload).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        tasks.spawn(one_after_the_other(client.clone(), payload.clone()));
    }
    let mut calls = 0;
    while let Some(task) = tasks.join_next().await {
        calls += task??;
    }
    Ok(calls)
}

type BareStream = Framed<tokio::net::UnixStream, LengthDelimitedCodec>;

async fn echo_tokio(stream: tokio::net::UnixStream) -> io::Result<()> {
    let mut framed = Framed::new(stream, LengthDelimitedCodec::new());
    while let Some(frame) = framed.next().await {
        framed.feed(frame?.freeze()).await?;
        // Whatever came with it goes out with it.
        while let Some(Some(frame)) = framed.next().now_or_never() {
            framed.feed(frame?.freeze()).await?;
        }
        SinkExt::<Bytes>::flush(&mut framed).await?;
    }
    Ok(())
}

/// A window of requests that slides with the answers; one write for all that a read made room for.
async fn call_tokio(mut framed: BareStream, in_flight: usize, slice: Duration) -> Result<(u64, BareStream), Failure> {
    let end = Instant::now() + slice;
    let frame = Bytes::from_static(&[7; FRAME_BYTES]);
    let (mut sent, mut answered) = (0_u64, 0_u64);
    for _ in 0..in_flight {
        framed.feed(frame.clone()).await?;
        sent += 1;
    }
    SinkExt::<Bytes>::flush(&mut framed).await?;
    while answered < sent {
        let mut answer = framed.next().await;
        let goes_on = Instant::now() < end;
        while let Some(echo) = answer {
            assert_eq!(echo?.len(), FRAME_BYTES, "an echo");
            answered += 1;
            if goes_on {
                framed.feed(frame.clone()).await?;
                sent += 1;
            }
            answer = if answered < sent { framed.next().now_or_never().flatten() } else { None };
        }
        SinkExt::<Bytes>::flush(&mut framed).await?;
    }
    Ok((answered, framed))
}

fn echo_blocking(mut stream: std::os::unix::net::UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let whole = filled - filled % WIRE_BYTES;
        stream.write_all(&buffer[..whole])?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

fn call_blocking(
    stream: &mut std::os::unix::net::UnixStream,
    in_flight: usize,
    slice: Duration,
) -> Result<u64, Failure> {
    let end = Instant::now() + slice;
    let requests = vec![7; WIRE_BYTES * in_flight];
    let mut buffer = vec![0; 64 << 10];
    let (mut sent, mut answered, mut partial) = (in_flight as u64, 0_u64, 0);
    stream.write_all(&requests)?;
    while answered < sent {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err("the server has gone".into());
        }
        let whole = (partial + read) / WIRE_BYTES;
        partial = (partial + read) % WIRE_BYTES;
        answered += whole as u64;
        if Instant::now() < end {
            stream.write_all(&requests[..whole * WIRE_BYTES])?;
            sent += whole as u64;
        }
    }
    Ok(answered)
}
