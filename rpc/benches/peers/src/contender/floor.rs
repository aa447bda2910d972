//! What no framework can beat: bare sockets, which match answers to requests by their order alone.
//!
//! Frames have the size of ours. [`Tokio`] is a codec and a runtime and nothing else; [`Raw`] blocks, and reads and
//! writes as many frames in a system call as there are. Long, because both halves of both are here, to be compared.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener as BlockingListener, UnixStream as BlockingStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::poll_fn;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{
    Caller, Contender, Driver, Failure, Load, LocalFuture, Reconnect, Role, Shape, Tasks, check_echo, fetched,
};
use crate::measure::lap::Lap;

/// Ours without the payload and without the length in front: the header of a request and the payload's length.
fn frame_bytes(load: &Load) -> usize {
    let length_bytes = match load.payload_bytes {
        ..=250 => 1,
        251..=65_535 => 3,
        _ => 5,
    };
    rpc::wire::header::REQUEST_BYTES + length_bytes + load.payload_bytes
}

type Frames = Framed<UnixStream, LengthDelimitedCodec>;

/// Bare tokio and a length-delimited codec.
pub(super) struct Tokio;

impl Contender for Tokio {
    fn name(&self) -> &'static str {
        "tokio floor"
    }

    fn role(&self) -> Role {
        Role::Floor
    }

    fn notes(&self) -> &'static str {
        "UnixStream and LengthDelimitedCodec, frames of the size of ours; several in flight are pipelined"
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let listener = UnixListener::bind(path)?;
            let fetched = fetched(load);
            loop {
                let stream = Framed::new(listener.accept().await?.0, codec());
                match &fetched {
                    _ if load.shape == Shape::Push => drop(tokio::spawn(answer_pushes(stream, load.payload_bytes))),
                    Some(value) => drop(tokio::spawn(answer_fetches(stream, value.clone()))),
                    None => drop(tokio::spawn(echo(stream))),
                }
            }
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            let frame = Load { payload_bytes: frame_bytes(load), ..*load };
            if load.shape == Shape::Connect {
                let path = path.to_owned();
                return Ok(Reconnect::driver(move || open(path.clone()), &frame));
            }
            let mut streams = Vec::with_capacity(load.connections);
            for _ in 0..load.connections {
                streams.push(open(path.to_owned()).await?);
            }
            if load.shape == Shape::Fetch {
                let fetch = |frames| Fetch { frames, wanted_bytes: load.payload_bytes };
                return Ok(Tasks::driver(streams.into_iter().map(fetch), load));
            }
            if load.shape == Shape::Push {
                return Ok(Tasks::driver(streams.into_iter().map(Push), load));
            }
            if load.in_flight == 1 {
                return Ok(Tasks::driver(streams, &frame));
            }
            let frames = streams.pop().ok_or("no connection")?;
            let payload = super::request(&frame);
            Ok(Box::new(Pipelined { frames: Some(frames), frame: payload, in_flight: load.in_flight })
                as Box<dyn Driver>)
        })
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(64 << 20).new_codec()
}

async fn open(path: PathBuf) -> Result<Frames, Failure> {
    Ok(Framed::new(UnixStream::connect(path).await?, codec()))
}

impl Caller for Frames {
    async fn call(&mut self, frame: &Bytes) -> Result<usize, Failure> {
        self.send(frame.clone()).await?;
        Ok(self.next().await.ok_or("the server has gone")??.len())
    }
}

async fn echo(mut frames: Frames) -> io::Result<()> {
    while let Some(frame) = frames.next().await {
        frames.feed(frame?.freeze()).await?;
        // Whatever came with it goes out with it.
        while let Some(Some(frame)) = frames.next().now_or_never() {
            frames.feed(frame?.freeze()).await?;
        }
        SinkExt::<Bytes>::flush(&mut frames).await?;
    }
    Ok(())
}

/// What a large answer is cut into: what ours cuts it into.
const CHUNK_BYTES: usize = 64 << 10;

struct Fetch {
    frames: Frames,
    wanted_bytes: usize,
}

impl Caller for Fetch {
    async fn call(&mut self, _: &Bytes) -> Result<usize, Failure> {
        self.frames.send(Bytes::from_static(&[0; rpc::wire::header::REQUEST_BYTES])).await?;
        let mut value = Vec::new();
        while value.len() < self.wanted_bytes {
            value.extend_from_slice(&self.frames.next().await.ok_or("the server has gone")??);
        }
        Ok(value.len())
    }
}

/// Feeds `value` in chunks, and flushes.
async fn send_chunks(frames: &mut Frames, mut value: Bytes) -> io::Result<()> {
    while !value.is_empty() {
        frames.feed(value.split_to(value.len().min(CHUNK_BYTES))).await?;
    }
    SinkExt::<Bytes>::flush(frames).await
}

struct Push(Frames);

impl Caller for Push {
    async fn call(&mut self, value: &Bytes) -> Result<usize, Failure> {
        send_chunks(&mut self.0, value.clone()).await?;
        let answer = self.0.next().await.ok_or("the server has gone")??;
        Ok(answer.len() - ANSWER.len())
    }
}

/// What a whole value is answered with.
const ANSWER: &[u8] = &[0; rpc::wire::header::REQUEST_BYTES];

async fn answer_pushes(mut frames: Frames, wanted_bytes: usize) -> io::Result<()> {
    let mut value = Vec::new();
    while let Some(chunk) = frames.next().await {
        value.extend_from_slice(&chunk?);
        if value.len() == wanted_bytes {
            value = Vec::new();
            frames.send(Bytes::from_static(ANSWER)).await?;
        }
    }
    Ok(())
}

async fn answer_fetches(mut frames: Frames, value: Bytes) -> io::Result<()> {
    while let Some(request) = frames.next().await {
        request?;
        send_chunks(&mut frames, value.clone()).await?;
    }
    Ok(())
}

/// A window of requests that slides with the answers; one write for all that a read made room for.
struct Pipelined {
    frames: Option<Frames>,
    frame: Bytes,
    in_flight: usize,
}

impl Driver for Pipelined {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let frames = self.frames.take().ok_or("it failed before")?;
            let window = tokio::spawn(slide(frames, self.frame.clone(), self.in_flight, Arc::clone(lap)));
            self.frames = Some(window.await??);
            Ok(())
        })
    }
}

async fn slide(mut frames: Frames, frame: Bytes, in_flight: usize, lap: Arc<Lap>) -> Result<Frames, Failure> {
    let mut begun = VecDeque::with_capacity(in_flight);
    let mut goes_on = true;
    poll_fn(|cx| {
        loop {
            // Writing never keeps it from reading: the server stops reading while its answers are not read.
            let mut writes = true;
            while goes_on && writes && begun.len() < in_flight {
                writes = Sink::<Bytes>::poll_ready(Pin::new(&mut frames), cx)?.is_ready();
                goes_on = !writes || lap.another();
                if writes && goes_on {
                    Pin::new(&mut frames).start_send(frame.clone())?;
                    begun.push_back(lap.start());
                }
            }
            let _ = Sink::<Bytes>::poll_flush(Pin::new(&mut frames), cx)?;
            if begun.is_empty() && !goes_on {
                return Poll::Ready(Ok::<_, Failure>(()));
            }
            let mut read = false;
            while let Poll::Ready(echo) = Pin::new(&mut frames).poll_next(cx) {
                check_echo(frame.len(), echo.ok_or("the server has gone")??.len())?;
                lap.done(begun.pop_front().flatten());
                read = true;
                if begun.is_empty() {
                    break;
                }
            }
            if !read {
                return Poll::Pending;
            }
        }
    })
    .await?;
    Ok(frames)
}

/// Blocking sockets: a ping-pong with one call in flight, batches with more.
pub(super) struct Raw;

/// The same socket, asked until it answers: nobody is ever woken.
pub(super) struct Spinning;

impl Contender for Spinning {
    fn name(&self) -> &'static str {
        "raw spinning"
    }

    fn role(&self) -> Role {
        Role::Spinning
    }

    fn notes(&self) -> &'static str {
        "a ping-pong over sockets that do not block; both sides ask theirs until something is there"
    }

    fn refuses(&self, load: &Load) -> Option<&'static str> {
        match load {
            Load { shape: Shape::Echo, connections: 1, in_flight: 1, payload_bytes: ..=4096 } => None,
            _ => Some("a ping-pong of small frames"),
        }
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        let wire_bytes = wire_bytes(load);
        Box::pin(async move {
            for stream in BlockingListener::bind(path)?.incoming() {
                let stream = stream?;
                stream.set_nonblocking(true)?;
                std::thread::spawn(move || echo_spinning(&stream, wire_bytes));
            }
            Ok(())
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            let frame = frame_of(wire_bytes(load));
            let stream = BlockingStream::connect(path)?;
            stream.set_nonblocking(true)?;
            Ok(Box::new(PingPong { stream, echo: vec![0; frame.len()], frame }) as Box<dyn Driver>)
        })
    }
}

/// After so long without a byte its socket blocks: others take turns with it.
const SPINS_FOR: Duration = Duration::from_millis(1);

/// Reads until `bytes` are full. `false`: the other side has gone.
fn fill(mut stream: &BlockingStream, mut bytes: &mut [u8]) -> io::Result<bool> {
    let (mut asked, mut since, mut blocks) = (0_u32, None, false);
    while !bytes.is_empty() {
        match stream.read(bytes) {
            Ok(0) => return Ok(false),
            Ok(read) => {
                bytes = &mut bytes[read..];
                if std::mem::take(&mut blocks) {
                    stream.set_nonblocking(true)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                asked += 1;
                if asked.is_multiple_of(64) && since.get_or_insert_with(Instant::now).elapsed() > SPINS_FOR {
                    stream.set_nonblocking(false)?;
                    blocks = true;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn echo_spinning(mut stream: &BlockingStream, wire_bytes: usize) -> io::Result<()> {
    let mut frame = vec![0; wire_bytes];
    while fill(stream, &mut frame)? {
        stream.write_all(&frame)?;
    }
    Ok(())
}

struct PingPong {
    stream: BlockingStream,
    frame: Vec<u8>,
    echo: Vec<u8>,
}

impl Driver for PingPong {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            while lap.another() {
                let started = lap.start();
                self.stream.write_all(&self.frame)?;
                if !fill(&self.stream, &mut self.echo)? {
                    return Err("the server has gone".into());
                }
                lap.done(started);
                check_echo(self.frame.len(), self.echo.len())?;
            }
            Ok(())
        })
    }
}

/// What is written before anything is read must fit the socket: both sides block.
const WINDOW_BYTES_MAX: usize = 144 << 10;

impl Contender for Raw {
    fn name(&self) -> &'static str {
        "raw batch"
    }

    fn role(&self) -> Role {
        Role::Ceiling
    }

    fn notes(&self) -> &'static str {
        "blocking reads and writes, as many frames in one as there are, each looked at and copied; one in flight is a blocking ping-pong"
    }

    fn refuses(&self, load: &Load) -> Option<&'static str> {
        match load {
            Load { shape: Shape::Fetch | Shape::Push | Shape::Connect, .. } => Some("not written for it"),
            Load { connections: 2.., .. } => Some("it would need a thread for each connection"),
            Load { in_flight: 2.., .. } if load.in_flight * wire_bytes(load) > WINDOW_BYTES_MAX => {
                Some("both sides would block: the window does not fit the socket's buffer")
            }
            _ => None,
        }
    }

    fn serve<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<(), Failure>> {
        let wire_bytes = wire_bytes(load);
        Box::pin(async move {
            for stream in BlockingListener::bind(path)?.incoming() {
                let stream = stream?;
                std::thread::spawn(move || echo_blocking(stream, wire_bytes));
            }
            Ok(())
        })
    }

    fn connect<'a>(&'a self, path: &'a Path, load: &'a Load) -> LocalFuture<'a, Result<Box<dyn Driver>, Failure>> {
        Box::pin(async move {
            let (wire_bytes, in_flight) = (wire_bytes(load), load.in_flight);
            let buffer = vec![0; wire_bytes.max(64 << 10)];
            let (frame, requests) = (frame_of(wire_bytes), Vec::with_capacity(wire_bytes * in_flight));
            let stream = BlockingStream::connect(path)?;
            Ok(Box::new(Batches { stream, frame, requests, buffer, in_flight }) as Box<dyn Driver>)
        })
    }
}

/// A frame and its length.
fn wire_bytes(load: &Load) -> usize {
    rpc::wire::frame::LENGTH_BYTES + frame_bytes(load)
}

/// Takes every whole frame of `bytes`, with its length; how many bytes and how many frames they were.
fn each_frame(bytes: &[u8], mut whole: impl FnMut(&[u8])) -> (usize, usize) {
    const LENGTH_BYTES: usize = rpc::wire::frame::LENGTH_BYTES;
    let (mut at, mut frames) = (0, 0);
    while let Some(length) = bytes.get(at..at + LENGTH_BYTES) {
        let frame_bytes = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let Some(frame) = bytes.get(at..at + LENGTH_BYTES + frame_bytes) else { break };
        whole(frame);
        at += frame.len();
        frames += 1;
    }
    (at, frames)
}

/// A frame with its length in front, little endian.
fn frame_of(wire_bytes: usize) -> Vec<u8> {
    const LENGTH_BYTES: usize = rpc::wire::frame::LENGTH_BYTES;
    let mut frame = vec![super::LETTER; wire_bytes];
    let length = (wire_bytes - LENGTH_BYTES).to_le_bytes();
    frame[..LENGTH_BYTES].copy_from_slice(&length[..LENGTH_BYTES]);
    frame
}

fn echo_blocking(mut stream: BlockingStream, wire_bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; wire_bytes.max(64 << 10)];
    let mut answers = Vec::with_capacity(buffer.len());
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        answers.clear();
        let (whole_bytes, _) = each_frame(&buffer[..filled], |frame| answers.extend_from_slice(frame));
        stream.write_all(&answers)?;
        buffer.copy_within(whole_bytes..filled, 0);
        filled -= whole_bytes;
    }
}

struct Batches {
    stream: BlockingStream,
    frame: Vec<u8>,
    requests: Vec<u8>,
    buffer: Vec<u8>,
    in_flight: usize,
}

impl Batches {
    fn call(&mut self, lap: &Lap) -> Result<(), Failure> {
        let mut begun: VecDeque<(Option<Instant>, usize)> = VecDeque::new();
        let (mut room, mut waiting, mut filled) = (self.in_flight, 0, 0);
        loop {
            let next = usize::try_from(lap.several(room as u64))?;
            if next > 0 {
                begun.push_back((lap.start(), next));
                self.requests.clear();
                for _ in 0..next {
                    self.requests.extend_from_slice(&self.frame);
                }
                self.stream.write_all(&self.requests)?;
                waiting += next;
            }
            if waiting == 0 {
                return Ok(());
            }
            room = 0;
            while room == 0 {
                let read = self.stream.read(&mut self.buffer[filled..])?;
                if read == 0 {
                    return Err("the server has gone".into());
                }
                filled += read;
                let mut right = true;
                let (whole_bytes, frames) =
                    each_frame(&self.buffer[..filled], |echo| right &= echo.len() == self.frame.len());
                if !right {
                    return Err("something else came back".into());
                }
                room = frames;
                self.buffer.copy_within(whole_bytes..filled, 0);
                filled -= whole_bytes;
            }
            waiting -= room;
            for _ in 0..room {
                let Some((started, left)) = begun.front_mut() else { break };
                lap.done(*started);
                *left -= 1;
                if *left == 0 {
                    begun.pop_front();
                }
            }
        }
    }
}

impl Driver for Batches {
    fn run<'a>(&'a mut self, lap: &'a Arc<Lap>) -> LocalFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.call(lap) })
    }
}
