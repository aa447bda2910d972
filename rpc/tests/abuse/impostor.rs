//! A process that says that it is another one: with its PeerId, its incarnation, its lane, and a higher epoch.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use rpc::wire::header::{Kind, ResolutionCode};
use rpc::{Blob, Incarnation, Limits, PeerId};

use crate::raw::{RawPeer, control, request};
use crate::world::{Echo, HELD, Hold, World, hears, process, wait_for_the_end};

/// The calls of the victim: one whose answer is kept, and one that runs.
const ANSWERED: u64 = 1;
const RUNNING: u64 = 2;

/// Takes the lane over, as far as it is let, and says what it has learned.
#[allow(clippy::print_stdout, reason = "what the process that started this one reads")]
pub fn takes_over(path: &Path, identity: &str) {
    let (peer_id, incarnation) = identity.split_once(' ').unwrap();
    let peer_id = PeerId(u128::from_str_radix(peer_id, 16).unwrap().to_be_bytes());
    let incarnation = Incarnation(u64::from_str_radix(incarnation, 16).unwrap());
    let mut peer = RawPeer::welcomed_as(path, peer_id, incarnation, 2);
    peer.stream.write_all(&control(Kind::Cancel, 0, RUNNING)).unwrap();
    let learned = [ANSWERED, RUNNING].map(|id| resolution(&mut peer, id));
    println!("learned {learned:?}.");
    wait_for_the_end();
}

fn resolution(peer: &mut RawPeer, id: u64) -> ResolutionCode {
    peer.stream.write_all(&control(Kind::Resolve, 0, id)).unwrap();
    loop {
        match peer.next().expect("a resolution") {
            (Kind::Resolution, code, about) => {
                assert_eq!(about, id);
                return ResolutionCode::from_number(code);
            }
            (Kind::Received, ..) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn echo(peer: &mut RawPeer, id: u64) {
    peer.stream.write_all(&request(id, 1, &Echo(Blob::from(b"a secret".to_vec())))).unwrap();
    while !matches!(peer.next().expect("an answer"), (Kind::Ack, _, about) if about == id) {}
}

#[test]
fn process_that_says_it_is_another_one_gets_a_lane_of_its_own_and_learns_and_ends_nothing() {
    let w = World::new(Limits::default());
    let (peer_id, incarnation) = (PeerId::random(), Incarnation::random());
    let mut victim = RawPeer::welcomed_as(&w.path, peer_id, incarnation, 1);
    let held = HELD.load(Ordering::SeqCst);
    echo(&mut victim, ANSWERED);
    victim.stream.write_all(&request(RUNNING, 1, &Hold(Blob::from(vec![1])))).unwrap();
    w.until("the second call runs", |_| HELD.load(Ordering::SeqCst) == held + 1);

    let mut impostor = process(&format!("impostor {peer_id} {incarnation:?}"), &w.path);
    let learned = hears(&mut impostor, "].");
    assert!(learned.contains("learned [NeverSeen, NeverSeen]."), "{learned}");
    assert_eq!((w.server.lanes(), w.server.connections()), (2, 2), "each has a lane of its own");

    // Neither fenced, nor cancelled, nor burnt.
    assert_eq!(resolution(&mut victim, ANSWERED), ResolutionCode::Applied);
    assert_eq!(resolution(&mut victim, RUNNING), ResolutionCode::Running);
    echo(&mut victim, 3);
    drop(impostor.stdin.take());
    assert!(impostor.wait().unwrap().success());

    // In the same process it is the same peer, on its next connection.
    let mut next = RawPeer::welcomed_as(&w.path, peer_id, incarnation, 2);
    assert_eq!(resolution(&mut next, ANSWERED), ResolutionCode::Applied);
    // And the connection before it is fenced.
    while let Some((kind, ..)) = victim.next() {
        assert_eq!(kind, Kind::Received);
    }
}
