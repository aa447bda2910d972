//! Bodies that are small on the wire and large, or endless, in memory.

use std::time::Duration;

use rpc::wire::body;
use rpc::wire::header::{Kind, NackCode};
use rpc::{Blob, Limits, Request, Wire};
use rustix::time::{ClockId, clock_gettime};

use crate::counting::own_peak;
use crate::figure;
use crate::raw::{RawPeer, request_of};
use crate::world::{BOMB_MAX, Bomb, Echo, Element, World, alone};

/// A length as the codec writes it, and then `rest`.
fn announced(length: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![253];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

/// LIMIT: what a list's first reservation and an error's text may cost.
const SLACK: isize = 16 << 10;

/// LIMIT: a tick of the server's clock; three times what the costliest of these takes without optimisation.
const CPU_MAX: Duration = Duration::from_millis(1);

/// What this thread has had of a processor: other processes take none of it away.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// The processor time of the cheapest of some attempts, and the most that any of them allocated.
fn decode<R: Request>(bytes: &[u8]) -> (Duration, isize, bool) {
    let mut best = (Duration::MAX, 0, false);
    for _ in 0..10 {
        let start = cpu();
        let (peak, decoded) = own_peak(|| body::decode::<R>(bytes).is_ok());
        best = (best.0.min(cpu() - start), best.1.max(peak), decoded);
    }
    best
}

#[test]
fn bombs_are_refused_at_once_and_cost_what_their_types_allow() {
    let _alone = alone();
    let elements = vec![0; 1 << 20];
    // What the type allows; 72 bytes an element, and three times that while the list grows.
    assert_eq!(Bomb::HEAP_PER_BYTE, 3 * size_of::<Element>() + 1);
    let list_max = isize::try_from(BOMB_MAX * Bomb::HEAP_PER_BYTE).unwrap() + SLACK;
    let bombs: [(&str, Vec<u8>, isize); 6] = [
        ("a list that announces 2^64 - 1 elements", announced(u64::MAX, &[]), SLACK),
        ("a list that announces more than a frame of them", announced(1 << 30, &elements), SLACK),
        ("a million elements in a frame of a mebibyte", announced(1 << 20, &elements), SLACK),
        ("one element more than may be", announced(BOMB_MAX as u64 + 1, &elements[..=BOMB_MAX]), SLACK),
        ("as many as may be, and bytes left over", announced(BOMB_MAX as u64, &elements), list_max),
        ("as many as may be, and the last one missing", announced(BOMB_MAX as u64, &elements[1..BOMB_MAX]), list_max),
    ];
    for (what, bytes, bytes_max) in &bombs {
        let (took, peak, decoded) = decode::<Bomb>(bytes);
        figure!("bomb: {what}: refused in {took:?}, {} KiB allocated", peak >> 10);
        assert!(!decoded, "{what}");
        assert!(took < CPU_MAX, "{what}: {took:?}");
        assert!(peak <= *bytes_max, "{what}: {peak} bytes");
    }
    for (what, bytes) in [
        ("a byte string of 2^63 bytes", announced(1 << 63, &elements[..64])),
        ("a byte string of a gibibyte in a mebibyte", announced(1 << 30, &elements)),
    ] {
        let (took, peak, decoded) = decode::<Echo>(&bytes);
        figure!("bomb: {what}: refused in {took:?}, {peak} B allocated");
        assert!(!decoded && peak <= SLACK, "{what}: {peak} bytes");
        assert!(took < CPU_MAX, "{what}: {took:?}");
    }
    // The largest that is valid: what it costs is what the type says.
    let (took, peak, decoded) = decode::<Bomb>(&announced(BOMB_MAX as u64, &elements[..BOMB_MAX]));
    figure!("largest valid list: {} KiB of {BOMB_MAX} bytes, in {took:?}", peak >> 10);
    assert!(decoded && peak <= list_max, "{peak}");
}

#[test]
fn bomb_is_answered_and_the_connection_goes_on() {
    let w = World::new(Limits::default());
    let mut peer = RawPeer::welcomed(&w.path);
    let mut sends = |bytes: &[u8]| std::io::Write::write_all(&mut peer.stream, bytes).unwrap();
    for id in 1..=100 {
        sends(&request_of(Bomb::ID, id, 1, &announced(u64::MAX - id, &[0; 100])));
    }
    sends(&crate::raw::request(101, 1, &Echo(Blob::from(vec![1]))));
    let mut refused = 0;
    loop {
        match peer.next().expect("an answer") {
            (Kind::Nack, code, _) if NackCode::from_number(code) == NackCode::BadBody => refused += 1,
            (Kind::Ack, _, 101) => break,
            (Kind::Received, ..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 100);
}
