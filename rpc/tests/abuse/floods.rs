//! Frames in numbers: calls that are opened and cancelled, pings, tiny frames, ids that nobody knows, Hellos.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rpc::wire::header::{self, IGNORABLE, Kind};
use rpc::{Address, Blob, Client, Limits, Server};

use crate::counting::{live, take_peak};
use crate::figure;
use crate::raw::{RawPeer, control, frame, hello, ping, request};
use crate::world::{Abused, Echo, HELD, Handler, Hold, Latencies, PATIENCE, World, alone, is_quiet};

/// Sends `count` pieces that `piece` makes of their number, as fast as they are taken, and reads all answers; an honest
/// client calls meanwhile. The flood costs no more memory than `bytes_max`.
fn check_flood(what: &str, count: u64, bytes_max: isize, mut piece: impl FnMut(u64) -> BytesMut + Send + 'static) {
    let w = World::new(Limits::default());
    let client = w.client();
    let quiet = w.honest(&client, Duration::from_millis(300));
    let mut peer = RawPeer::welcomed(&w.path);
    let answers = peer.drains();
    // Made before, so that it comes faster than the server can take it.
    let mut script = Vec::new();
    for number in 1..=count {
        script.extend_from_slice(&piece(number));
    }
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let before = live();
    take_peak();
    let flood = std::thread::spawn(move || {
        let start = Instant::now();
        peer.stream.write_all(&script).unwrap();
        // All of it has been taken up once this is answered, behind it.
        peer.stream.write_all(&ping(1)).unwrap();
        peer.stream.write_all(&control(Kind::Goodbye, 1, 0)).unwrap();
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        let answered = answers.join().unwrap();
        is_done.store(true, Ordering::SeqCst);
        (start.elapsed(), answered)
    });
    let during = w.honest_until(&client, || done.load(Ordering::SeqCst));
    let (took, answered) = flood.join().unwrap();
    let peak = take_peak() - before;
    figure!(
        "{what}: {count} in {took:.2?} ({:.0} k/s), {} KiB of answers; peak {} KiB; honest p99 {:?}, without {:?}",
        count as f64 / took.as_secs_f64() / 1e3,
        answered >> 10,
        peak >> 10,
        during.p99(),
        quiet.p99()
    );
    assert!(peak < bytes_max, "{what}: {peak} bytes");
    assert!(answered < count * ANSWER_BYTES_MAX, "{what}: {answered} bytes of answers");
    check_honest(&during, what);
}

/// LIMIT: the largest answer that a flood gets to a frame of its own: a failure or a refusal without a text, and the next
/// frame's `Received`.
const ANSWER_BYTES_MAX: u64 = 64;

/// All honest calls were answered, or we were not here. How fast is for quiet machines: one batch of the flood is taken
/// at a time, and between two of them others have their turn.
fn check_honest(during: &Latencies, what: &str) {
    if is_quiet() {
        assert!(during.p99() < Duration::from_millis(50), "{what}: an honest client's p99 is {:?}", during.p99());
        assert!(during.calls() > 20, "{what}: {} honest calls", during.calls());
    }
}

/// In one thread, so that what happens between a call and its answer can be counted: the server, and an honest client; the
/// flood comes from another thread, as fast as it is taken.
#[test]
fn between_a_call_and_its_answer_a_flood_gets_a_few_turns_and_not_dozens() {
    const FLOOD: u64 = 300_000;
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("d/s");
    let address = Address::unix(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = Hold(Blob::from(vec![1; 8]));
    let script: Vec<u8> = (1..=FLOOD).flat_map(|id| open_and_cancel(id, &body)).collect();
    let held_before = HELD.load(Ordering::SeqCst);
    runtime.block_on(async {
        let server = Server::builder::<Abused>(Handler).serve(&address).await.unwrap();
        let client = Client::<Abused>::new(&address);
        let call = || client.call(Echo(Blob::from(vec![1]))).deadline(PATIENCE);
        call().await.unwrap();
        let flood = std::thread::spawn(move || {
            let mut peer = RawPeer::welcomed(&path);
            let answers = peer.drains();
            peer.stream.write_all(&script).unwrap();
            (peer, answers)
        });
        let mut most = 0;
        while HELD.load(Ordering::SeqCst) < held_before + FLOOD {
            let before = HELD.load(Ordering::SeqCst);
            call().await.unwrap();
            most = most.max(HELD.load(Ordering::SeqCst) - before);
        }
        figure!("between an honest call and its answer: at most {most} calls of a flood");
        // LIMIT: a turn takes two reads at most, of 700 calls each. A connection that does not give way gets 61 turns.
        assert!(most < 20 * 1_400, "{most} calls of the flood were served between a call and its answer");
        drop((client, server));
        let (peer, answers) = flood.join().unwrap();
        peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
        answers.join().unwrap();
    });
}

#[test]
fn million_calls_that_are_opened_and_cancelled() {
    let body = Hold(Blob::from(vec![1; 8]));
    check_flood("open and cancel", 1_000_000, 8 << 20, move |id| open_and_cancel(id, &body));
}

fn open_and_cancel(id: u64, body: &Hold) -> BytesMut {
    let mut both = request(id, id.saturating_sub(100).max(1), body);
    both.extend_from_slice(&control(Kind::Cancel, 0, id));
    both
}

#[test]
fn flood_of_pings() {
    check_flood("pings", 400_000, 4 << 20, |_| ping(1));
}

#[test]
fn flood_of_tiny_frames() {
    // Of a kind that nobody knows and that may be skipped.
    let tiny = frame(|out| {
        header::put_common(out, Kind::Pong, IGNORABLE, 0, 0);
        out[4] = 200;
    });
    check_flood("tiny frames", 400_000, 4 << 20, move |_| tiny.clone());
}

#[test]
fn flood_of_unknown_ids() {
    check_flood("unknown ids", 400_000, 4 << 20, |number| match number % 3 {
        0 => control(Kind::Cancel, 0, number),
        1 => frame(|out| {
            header::put_common(out, Kind::Credit, 0, 7, number);
            out.extend_from_slice(&7_u32.to_le_bytes());
        }),
        // Within the window, so that it must be remembered as refused; below and far above it.
        _ => control(Kind::Resolve, 0, number % 2_000),
    });
}

#[test]
fn flood_of_hellos() {
    const HELLOS: u64 = 10_000;
    let w = World::new(Limits { lanes_max: 4_000, ..Limits::default() });
    let client = w.client();
    let quiet = w.honest(&client, Duration::from_millis(300));
    let path = w.path.clone();
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let before = live();
    let flood = std::thread::spawn(move || {
        let start = Instant::now();
        let (mut welcomed, mut refused) = (0, 0);
        for _ in 0..HELLOS {
            // A peer of its own each time, and no word when it goes.
            let mut peer = RawPeer::connect(&path);
            peer.stream.write_all(&hello()).unwrap();
            match peer.next() {
                Some((Kind::Welcome, ..)) => welcomed += 1,
                Some((Kind::Goodbye, ..)) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        is_done.store(true, Ordering::SeqCst);
        (start.elapsed(), welcomed, refused)
    });
    let during = w.honest_until(&client, || done.load(Ordering::SeqCst));
    let (took, welcomed, refused) = flood.join().unwrap();
    let held = live() - before;
    figure!(
        "Hellos: {:.0} k/s; {welcomed} lanes, {refused} refused; {} B a lane; honest p99 {:?}, without {:?}",
        HELLOS as f64 / took.as_secs_f64() / 1e3,
        held / welcomed as isize,
        during.p99(),
        quiet.p99()
    );
    assert!((3_000..=3_400).contains(&welcomed), "one process has four fifths of the lanes: {welcomed}");
    assert_eq!(welcomed + refused, HELLOS as i32);
    assert!(held < 4_000 * 4_096, "{held} bytes for {welcomed} lanes");
    check_honest(&during, "Hellos");
}
