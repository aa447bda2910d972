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
use rpc::{Address, Blob, Client, Limits, Never};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::runtime_of;

/// What is called, and how.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Workload {
    /// What a call carries, there and back.
    pub(crate) payload_bytes: usize,
    /// How many calls are open at a time.
    pub(crate) in_flight: usize,
}

impl Workload {
    /// A request of ours without its length: the header, the payload's length, the payload.
    pub(crate) fn frame_bytes(self) -> usize {
        let length = match self.payload_bytes {
            0..=250 => 1,
            251..=0xffff => 3,
            _ => 5,
        };
        rpc::wire::header::REQUEST_BYTES + length + self.payload_bytes
    }

    /// With its length.
    fn wire_bytes(self) -> usize {
        rpc::wire::frame::LENGTH_BYTES + self.frame_bytes()
    }
}

/// What both sides of ours are set to: the largest payload fits.
pub(crate) fn limits() -> Limits {
    Limits { frame_bytes_max: (1 << 20) + (4 << 10), ..Limits::default() }
}

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
                let _server = rpc::serve_with::<Echo>(&Address::unix(path), Mirror, limits()).await?;
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

    /// Blocking sockets write and read in turn: what does not fit the socket's buffers would wait for ever.
    pub(crate) fn can(&self, load: Workload) -> bool {
        !matches!(self.what, What::Blocking) || load.payload_bytes * load.in_flight <= 64 << 10
    }

    pub(crate) fn connect(&self, path: &Path, load: Workload) -> io::Result<Drive> {
        Ok(match self.what {
            What::Rpc(kind) => {
                let runtime = runtime_of(kind)?;
                let client = Client::<Echo>::with_limits(&Address::unix(path), limits());
                Box::new(move |slice| on(&runtime, call_rpc(client.clone(), load, slice)))
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
                    let (calls, mine) = if load.payload_bytes * load.in_flight > 64 << 10 {
                        on(&runtime, call_tokio_large(mine, load, slice))?
                    } else {
                        on(&runtime, call_tokio(mine, load, slice))?
                    };
                    framed = Some(mine);
                    Ok(calls)
                })
            }
            What::Blocking => {
                let mut stream = std::os::unix::net::UnixStream::connect(path)?;
                Box::new(move |slice| call_blocking(&mut stream, load, slice))
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
#[rpc(id = 1, ack = Blob, ack_bytes_max = 1_048_640)]
pub(crate) struct Say {
    pub(crate) payload: Blob,
}

#[derive(rpc::Protocol)]
#[rpc(name = "echo", version = 1)]
pub(crate) enum Echo {
    Say(Say),
}

struct Mirror;

impl EchoHandler for Mirror {
    async fn say(&self, request: Say) -> Result<Blob, Never> {
        Ok(request.payload)
    }
}

async fn call_rpc(client: Client<Echo>, load: Workload, slice: Duration) -> Result<u64, Failure> {
    let Workload { payload_bytes, in_flight } = load;
    let end = Instant::now() + slice;
    let payload = Bytes::from(vec![7; payload_bytes]);
    let one_after_the_other = move |client: Client<Echo>, payload: Bytes| async move {
        let mut calls = 0_u64;
        // The clock is read as seldom as by the others.
        while !calls.is_multiple_of(8) || Instant::now() < end {
            let answer = rpc::call(&client, Say { payload: Blob(payload.clone()) }).await?;
            assert_eq!(answer.0.len(), payload_bytes, "an echo");
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
async fn call_tokio(mut framed: BareStream, load: Workload, slice: Duration) -> Result<(u64, BareStream), Failure> {
    let Workload { in_flight, .. } = load;
    let end = Instant::now() + slice;
    let frame = Bytes::from(vec![7; load.frame_bytes()]);
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
            assert_eq!(echo?.len(), load.frame_bytes(), "an echo");
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

/// The same where the requests do not fit the socket's buffers: writes while it reads.
async fn call_tokio_large(framed: BareStream, load: Workload, slice: Duration) -> Result<(u64, BareStream), Failure> {
    let end = Instant::now() + slice;
    let frame = Bytes::from(vec![7; load.frame_bytes()]);
    let (mut sink, mut stream) = framed.split();
    let window = tokio::sync::Semaphore::new(load.in_flight);
    // How many were sent, once that is known.
    let sent = std::sync::OnceLock::new();
    let write = async {
        let mut count = 0_u64;
        loop {
            window.acquire().await?.forget();
            count += 1;
            let last = Instant::now() >= end;
            if last {
                // Before it is sent: its answer shows the reader that this is the end.
                let _ = sent.set(count);
            }
            sink.feed(frame.clone()).await?;
            if last || window.available_permits() == 0 {
                SinkExt::<Bytes>::flush(&mut sink).await?;
            }
            if last {
                return Ok::<_, Failure>(());
            }
        }
    };
    let read = async {
        let mut answered = 0_u64;
        while sent.get() != Some(&answered) {
            let echo = stream.next().await.ok_or("the server has gone")?;
            assert_eq!(echo?.len(), load.frame_bytes(), "an echo");
            answered += 1;
            window.add_permits(1);
        }
        Ok::<_, Failure>(answered)
    };
    let ((), answered) = futures::try_join!(write, read)?;
    Ok((answered, sink.reunite(stream)?))
}

/// Sends back whatever comes.
fn echo_blocking(mut stream: std::os::unix::net::UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}

fn call_blocking(stream: &mut std::os::unix::net::UnixStream, load: Workload, slice: Duration) -> Result<u64, Failure> {
    let (in_flight, wire_bytes) = (load.in_flight, load.wire_bytes());
    let end = Instant::now() + slice;
    let requests = vec![7; wire_bytes * in_flight];
    let mut buffer = vec![0; 128 << 10];
    let (mut sent, mut answered, mut partial) = (in_flight as u64, 0_u64, 0);
    stream.write_all(&requests)?;
    while answered < sent {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err("the server has gone".into());
        }
        let whole = (partial + read) / wire_bytes;
        partial = (partial + read) % wire_bytes;
        answered += whole as u64;
        if Instant::now() < end {
            stream.write_all(&requests[..whole * wire_bytes])?;
            sent += whole as u64;
        }
    }
    Ok(answered)
}
