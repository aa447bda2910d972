//! Frames in numbers: calls that are opened and cancelled, pings, tiny frames, ids that nobody knows, Hellos.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rpc::wire::header::{self, IGNORABLE, Kind};
use rpc::{Blob, Limits};

use crate::counting::{live, take_peak};
use crate::figure;
use crate::raw::{RawPeer, control, frame, hello, ping, request};
use crate::world::{Hold, World};

/// Sends `count` pieces that `piece` makes of their number, in batches, and reads all answers; an honest client calls
/// meanwhile. The flood costs no more memory than `bytes_max`.
fn check_flood(what: &str, count: u64, bytes_max: isize, mut piece: impl FnMut(u64) -> BytesMut + Send + 'static) {
    let w = World::new(Limits::default());
    let client = w.client();
    let quiet = w.honest(&client, Duration::from_millis(300));
    let mut peer = RawPeer::welcomed(&w.path);
    let answers = peer.drains();
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let before = live();
    take_peak();
    let flood = std::thread::spawn(move || {
        let start = Instant::now();
        let mut batch = Vec::with_capacity(1 << 17);
        for number in 1..=count {
            batch.extend_from_slice(&piece(number));
            if batch.len() > 1 << 16 {
                peer.stream.write_all(&batch).unwrap();
                batch.clear();
            }
        }
        peer.stream.write_all(&batch).unwrap();
        // All of it has been taken up once this is answered, behind it.
        peer.stream.write_all(&ping(1)).unwrap();
        peer.stream.write_all(&control(Kind::Goodbye, 1, 0)).unwrap();
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        let answered = answers.join().unwrap();
        is_done.store(true, Ordering::SeqCst);
        (start.elapsed(), answered)
    });
    let during = w.block_on(async {
        let mut all: Option<crate::world::Latencies> = None;
        while !done.load(Ordering::SeqCst) {
            let some = crate::world::honest(&client, Duration::from_millis(100)).await;
            all = Some(match all {
                Some(before) => before.merge(some),
                None => some,
            });
        }
        all.unwrap()
    });
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
    // One batch of 64 KiB is taken at a time; between two of them others have their turn.
    assert!(during.p99() < Duration::from_millis(250), "{what}: an honest client's p99 is {:?}", during.p99());
    assert!(during.calls() > 20, "{what}: {} honest calls in {took:?}", during.calls());
}

#[test]
fn million_calls_that_are_opened_and_cancelled() {
    let body = Hold(Blob::from(vec![1; 8]));
    check_flood("open and cancel", 1_000_000, 8 << 20, move |id| {
        let mut both = request(id, id.saturating_sub(100).max(1), &body);
        both.extend_from_slice(&control(Kind::Cancel, 0, id));
        both
    });
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
    let during = w.block_on(async {
        let mut all = crate::world::honest(&client, Duration::from_millis(50)).await;
        while !done.load(Ordering::SeqCst) {
            all = all.merge(crate::world::honest(&client, Duration::from_millis(50)).await);
        }
        all
    });
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
    assert!(during.p99() < Duration::from_millis(250), "{:?}", during.p99());
}
