//! Who holds how much of what a server has for all: connections, handshakes, lanes.
//!
//! A process may hold up to [`SHARE`] times what is still free, so that however much a few of them take, something is left
//! for the next one. With one holder that is four fifths of the whole; with `n` greedy ones each gets `4 / (4 n + 1)` of
//! it, and `1 / (4 n + 1)` stays free. Never counts a process by its word: uid and pid are the kernel's.
//!
//! Asked by `accept` and `hub`; each permit gives itself back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::load::Doing;
use super::lock;
use crate::peer::{CertificateId, Peer, Process};
use crate::sync::Mutex;

/// How many times the free places a process may hold. LIMIT: one process alone can use most of the server, and ten
/// greedy ones still leave a fortieth of it.
const SHARE: usize = 4;

/// What there is a limited number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Connection,
    /// A connection whose handshake is not done.
    Handshake,
    Lane,
}

const PLACES: usize = 3;

/// What the processes hold.
#[derive(Debug)]
pub(crate) struct Shares {
    max: [usize; PLACES],
    /// Whose processes are not taken together.
    own_uid: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    whole: [usize; PLACES],
    by: HashMap<Holder, Holding>,
}

/// What one holder has.
#[derive(Debug, Default)]
struct Holding {
    places: [usize; PLACES],
    doing: Arc<Doing>,
}

/// Whom places are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// All processes of one user that lie outside our pid namespace are one.
    Process(u32, Option<i32>),
    /// All processes of another user than ours, where a policy lets them in.
    User(u32),
    Certificate(CertificateId),
    /// Everybody of whom nothing is proved, also those who know the secret.
    Unproven,
}

/// A place; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    shares: Arc<Shares>,
    peer: Peer,
    place: Place,
    doing: Arc<Doing>,
}

impl Permit {
    /// What its holder is doing.
    pub(super) fn doing(&self) -> &Doing {
        &self.doing
    }

    /// The same, for what outlives the permit.
    pub(super) fn shared_doing(&self) -> Arc<Doing> {
        Arc::clone(&self.doing)
    }
}

impl Shares {
    pub(crate) fn new(connections_max: usize, handshakes_max: usize, lanes_max: usize) -> Self {
        Self {
            max: [connections_max, handshakes_max, lanes_max],
            own_uid: rustix::process::geteuid().as_raw(),
            held: Mutex::default(),
        }
    }

    /// `None`: there is none left, or `peer` has its share.
    pub(crate) fn take(self: &Arc<Self>, peer: Peer, place: Place) -> Option<Permit> {
        let at = place as usize;
        let mut held = lock(&self.held);
        let free = self.max[at].saturating_sub(held.whole[at]);
        let has_room = |holder| room(held.by.get(&holder).map_or(0, |holding| holding.places[at]), free) > 0;
        if !self.holders(peer).all(has_room) {
            return None;
        }
        held.whole[at] += 1;
        let mut doing = Arc::default();
        for holder in self.holders(peer) {
            let holding = held.by.entry(holder).or_default();
            holding.places[at] += 1;
            // The last holder counts: all processes of another user together.
            doing = Arc::clone(&holding.doing);
        }
        Some(Permit { shares: Arc::clone(self), peer, place, doing })
    }

    /// How many are held by all together.
    pub(crate) fn held(&self, place: Place) -> usize {
        lock(&self.held).whole[place as usize]
    }

    fn holders(&self, peer: Peer) -> impl Iterator<Item = Holder> + use<> {
        let (first, second) = match peer {
            Peer::Process(Process { uid, pid, .. }) => {
                (Holder::Process(uid, pid), (uid != self.own_uid).then_some(Holder::User(uid)))
            }
            Peer::Certificate(id) => (Holder::Certificate(id), None),
            Peer::Secret | Peer::Unproven => (Holder::Unproven, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// How many more somebody may have who has `own` while `free` are left: each as long as it has fewer than [`SHARE`] times
/// what is left then.
pub(super) fn room(own: usize, free: usize) -> usize {
    free.saturating_mul(SHARE).saturating_sub(own).div_ceil(SHARE + 1).min(free)
}

impl Drop for Permit {
    fn drop(&mut self) {
        let at = self.place as usize;
        let mut held = lock(&self.shares.held);
        held.whole[at] = held.whole[at].saturating_sub(1);
        for holder in self.shares.holders(self.peer) {
            if let Entry::Occupied(mut entry) = held.by.entry(holder) {
                let places = &mut entry.get_mut().places;
                places[at] = places[at].saturating_sub(1);
                if *places == [0; PLACES] {
                    entry.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32) -> Peer {
        Peer::Process(Process { pid: Some(pid), ..Process::own() })
    }

    fn take_all(shares: &Arc<Shares>, peer: Peer) -> Vec<Permit> {
        std::iter::from_fn(|| shares.take(peer, Place::Lane)).collect()
    }

    #[test]
    fn greedy_process_leaves_a_fifth_to_the_next_one() {
        let shares = Arc::new(Shares::new(0, 0, 1_000));
        let first = take_all(&shares, process(1));
        assert_eq!(first.len(), 800);
        let second = take_all(&shares, process(2));
        assert_eq!(second.len(), 160);
        assert!(shares.take(process(3), Place::Lane).is_some());
        drop(first);
        assert!(take_all(&shares, process(3)).len() > 600);
    }

    #[test]
    fn few_places_can_all_be_taken() {
        let shares = Arc::new(Shares::new(0, 0, 3));
        assert_eq!(take_all(&shares, process(1)).len(), 3);
    }

    #[test]
    fn processes_of_another_user_share_one_share() {
        let shares = Arc::new(Shares::new(0, 0, 1_000));
        let own = Process::own();
        let foreign = |pid| Peer::Process(Process { uid: own.uid + 1, pid: Some(pid), ..own });
        let held: Vec<_> = (1..=20).map(|pid| take_all(&shares, foreign(pid))).collect();
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 800);
        assert_eq!(take_all(&shares, process(99)).len(), 160);
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let shares = Arc::new(Shares::new(8, 8, 8));
        let permits: Vec<_> =
            [Place::Connection, Place::Handshake, Place::Lane].map(|place| shares.take(process(1), place)).into();
        assert!(permits.iter().all(Option::is_some));
        assert_eq!(shares.held(Place::Handshake), 1);
        drop(permits);
        assert_eq!(shares.held(Place::Connection), 0);
        assert!(lock(&shares.held).by.is_empty());
    }
}
