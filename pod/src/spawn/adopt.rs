//! Becoming the parent of a child whose parent is dead.
//!
//! The old parent's life lock is held from the first look into its store to the last: so it is proven dead, and does not come
//! back in between. What is written into which store, and why a death at any point leaves the child with one parent, says
//! `store::adoption`; what moves in the registry is claimed before the step that decides. The child is told by its old parent's store, which it reads while it waits for that parent (`parent`).
//!
//! Asked by `controller/calls` and the facade. What could not be finished is tried again, by this life and by its next one; a pod
//! that stops begins nothing more, and is waited for by nobody who wants to adopt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::supervisor;
use crate::error::{SpawnError, in_one_line};
use crate::handle::Shared;
use crate::id::{PodId, PodName, Seq};
use crate::life_lock::{self, Life, LifeLock, LifeLockError};
use crate::protocol::{AdoptRejection, Adopted, PodState, Text};
use crate::registry::ClaimError;
use crate::store::{
    Adoption, Again, ChildRow, Durability, Own, Owner, Store, StoreError, StoreOptions, StoreReader, Whose,
};

/// The first pause between two attempts at what was begun: another one may hold the old parent's lock that is not it, since somebody
/// adopts from it, too; or a disk is full.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// LIMIT: the longest: each attempt opens the old parent's store and holds its life lock meanwhile, which is in the way of whoever
/// restores that parent.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Makes `child` of the dead pod `from` a child of ours.
///
/// # Errors
/// Why it is not; it is then still its old parent's, unless the reason is `Unavailable`: what was begun is tried again, and asked
/// again, it goes on.
///
/// # Cancel safety
/// What was begun is gone on with by the pod's next life.
pub(crate) async fn adopt(shared: &Shared, child: &PodName, from: &PodName) -> Result<Adopted, AdoptRejection> {
    // Of two at once the one would take the other's hold on the old parent's lock for the old parent.
    // CANCEL SAFETY: to wait for one's turn changes nothing.
    let mut resumes = tokio::select! {
        biased;
        () = stops(shared) => return Err(AdoptRejection::Stopping),
        resumes = shared.adopting.lock() => resumes,
    };
    let adopted = adopt_alone(shared, child, from).await;
    if matches!(adopted, Err(AdoptRejection::Unavailable { .. })) && !*resumes {
        *resumes = true;
        tokio::spawn(resume(shared.clone()));
    }
    adopted
}

/// Waits until the pod stops.
async fn stops(shared: &Shared) {
    let mut phase = shared.phase.subscribe();
    // Its sender is in what we hold.
    let _ = phase.wait_for(|phase| *phase == PodState::Stopping).await;
}

fn is_stopping(shared: &Shared) -> bool {
    *shared.phase.borrow() == PodState::Stopping
}

async fn adopt_alone(shared: &Shared, child: &PodName, from: &PodName) -> Result<Adopted, AdoptRejection> {
    if is_stopping(shared) {
        return Err(AdoptRejection::Stopping);
    }
    if *from == shared.id.name || *child == shared.id.name {
        let reason = format!("pod `{}` cannot take a child from itself, and is no child of its own", shared.id.name);
        return Err(AdoptRejection::NameTaken { reason: Text::clipped(reason) });
    }
    let paths = shared.roots.pod(from);
    if !paths.store().exists() {
        return Err(missing(format!("there is no pod `{from}`; `pod ls` lists them")));
    }
    let lock = match LifeLock::acquire(&paths.life_lock(), &shared.id) {
        Ok(lock) => lock,
        Err(LifeLockError::Held { holder, .. }) => {
            return Err(AdoptRejection::ParentLives { holder: Text::clipped(holder.to_string()) });
        }
        Err(error) => return Err(unavailable(error)),
    };
    let store = open(paths.store(), from).await?;
    let taken = take(shared, &store, child, from).await;
    store.close().await;
    let (row, watermark, works) = taken?;
    drop(lock);
    if let Some(row) = row {
        follow(shared, row).await;
    }
    let pod = shared.store.read({
        let child = child.clone();
        move |reads| Ok(reads.child_by_name(&child)?.map(|row| row.pod))
    });
    let child = pod.await.map_err(stored)?.ok_or_else(|| missing(format!("`{child}` is no child of this pod")))?;
    Ok(Adopted { child, watermark, works: u32::try_from(works).unwrap_or(u32::MAX) })
}

/// Goes on with what was begun, by an earlier life of ours or by this one, or finds that the child has stayed where it was. One at a
/// time: whoever spawns it has said so in `adopting`.
pub(crate) async fn resume(shared: Shared) {
    let mut pause = PAUSE_MIN;
    let mut said: BTreeMap<PodId, String> = BTreeMap::new();
    loop {
        {
            let mut resumes = shared.adopting.lock().await;
            // Looked at while nobody can begin another one.
            match shared.store.read(|reads| Ok(reads.adoptions()?.is_empty())).await {
                Ok(true) | Err(StoreError::Closed) => {
                    *resumes = false;
                    return;
                }
                Ok(false) | Err(_) => *resumes = true,
            }
        }
        let begun = shared.store.read(|reads| reads.adoptions()).await.unwrap_or_default();
        for Adoption { child, from, .. } in begun {
            // A pod that stops leaves it to its next life.
            if is_stopping(&shared) {
                return;
            }
            if let Err(why) = resume_one(&shared, &child, &from).await {
                // Once for each reason: it may take days until somebody restores a store.
                if said.insert(child.clone(), why.clone()).as_ref() != Some(&why) {
                    tracing::error!(pod = %shared.id, %child, %from, why, "an adoption cannot be finished yet; it is tried again");
                }
            }
        }
        // CANCEL SAFETY: waiting changes nothing.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stops(&shared) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One attempt. What cannot be known or done yet stays begun.
///
/// # Errors
/// Why.
async fn resume_one(shared: &Shared, child: &PodId, from: &PodName) -> Result<(), String> {
    let _alone = shared.adopting.lock().await;
    let name = child.name.clone();
    // Whoever has asked again meanwhile may have come to its end.
    if !matches!(shared.store.read(move |reads| reads.is_being_adopted(&name)).await, Ok(true)) {
        return Ok(());
    }
    if !shared.roots.pod(from).store().exists() {
        return without_old(shared, child, from).await;
    }
    match adopt_alone(shared, &child.name, from).await {
        Ok(_) => tracing::info!(pod = %shared.id, %child, %from, "an adoption that was begun is done"),
        Err(AdoptRejection::ParentLives { .. }) => {
            let lock = shared.roots.pod(from).life_lock();
            let holder = match life_lock::probe(&lock) {
                Ok(Life::Held(holder)) => holder.pod,
                _ => None,
            };
            // Another adopter holds it in the old parent's stead: that decides nothing.
            if holder.is_some_and(|holder| holder.name == *from) {
                return stay_or_finish(shared, child, from).await;
            }
        }
        Err(AdoptRejection::NoSuchChild { .. } | AdoptRejection::NameTaken { .. } | AdoptRejection::Refused { .. }) => {
            give_up(shared, &child.name).await;
        }
        Err(AdoptRejection::Stopping) => {}
        Err(error @ AdoptRejection::Unavailable { .. }) => return Err(error.to_string()),
    }
    Ok(())
}

/// The old parent's files are gone, and with them the word that decided. What is kept here is the only one of a child that lives:
/// it is not dropped.
async fn without_old(shared: &Shared, child: &PodId, from: &PodName) -> Result<(), String> {
    let paths = shared.roots.pod(&child.name);
    let (store, lock, own) = (paths.store(), paths.life_lock(), shared.id.name.clone());
    let found = tokio::task::spawn_blocking(move || (StoreReader::owner_of(store), life_lock::probe(&lock)));
    let (owner, life) = found.await.map_err(|error| error.to_string())?;
    // It has read that it was moved here before they were.
    if owner == Some(Owner::Parent(own)) {
        return finish(shared, child).await;
    }
    if matches!(life, Ok(Life::Free)) {
        give_up(shared, &child.name).await;
        return Ok(());
    }
    Err(format!(
        "the files of pod `{from}` are gone, and whether it had given `{child}` away; put them back, or stop `{}`",
        child.name
    ))
}

/// The steps, under the old parent's lock. The row is there if the child became ours by them.
async fn take(
    shared: &Shared,
    old: &Store,
    child: &PodName,
    from: &PodName,
) -> Result<(Option<ChildRow>, Seq, usize), AdoptRejection> {
    let (own, name, parent) = (shared.id.name.clone(), child.clone(), from.clone());
    let whose = old.read(move |reads| reads.whose(&parent, &name)).await.map_err(stored)?;
    let (watermark, works) = match whose {
        Whose::Ours(adoption) => {
            let (known, pod) = ((adoption.watermark, adoption.works.len()), adoption.child.clone());
            if let Some(by) = shared.commit(move |tx| tx.begin_adoption(&adoption)).await.map_err(stored)? {
                return Err(taken(&own, child, &by));
            }
            crate::failpoint!("adopt_after_copy");
            // Not asked behind it: where the child has moved in the registry it has to move here, too, or its old parent could not start
            // beside the rights that it holds.
            let refused = if is_stopping(shared) {
                Some(AdoptRejection::Stopping)
            } else {
                match shared.member.adopt(&pod).await {
                    Ok(()) => None,
                    Err(ClaimError::Registry(error)) => Some(unavailable(error)),
                    Err(error) => Some(AdoptRejection::Refused { reason: Text::clipped(in_one_line(&error)) }),
                }
            };
            if let Some(refused) = refused {
                // Nothing is given up.
                let name = child.clone();
                shared.commit(move |tx| tx.drop_adoption(&name)).await.map_err(stored)?;
                return Err(refused);
            }
            old.write(move |tx| tx.give_away(&pod, &own)).await.map_err(stored)?;
            crate::failpoint!("adopt_after_mark");
            known
        }
        // It was decided before: what is left to be done here is done.
        Whose::MovedTo(adoption, to) if to == own => {
            let (known, pod) = ((adoption.watermark, adoption.works.len()), adoption.child.clone());
            match shared.commit(move |tx| tx.adopt_again(&adoption)).await.map_err(stored)? {
                Again::Finish => known,
                Again::Done => (Seq(0), 0),
                Again::Over => {
                    let reason = format!(
                        "pod `{own}` had adopted {pod}, and that life is over; `pod restore {child}` starts another"
                    );
                    return Err(missing(reason));
                }
                Again::Moved(to) => {
                    return Err(missing(format!("pod `{own}` had adopted {pod}, and gave it to pod `{to}` since")));
                }
                Again::NameTaken(by) => return Err(taken(&own, child, &by)),
            }
        }
        Whose::MovedTo(_, to) => return Err(missing(format!("`{child}` is a child of pod `{to}` now"))),
        Whose::Nobodys => return Err(missing(format!("pod `{from}` has no child `{child}` that could be adopted"))),
    };
    let name = child.clone();
    let row = shared.commit(move |tx| tx.finish_adoption(&name)).await.map_err(stored)?;
    crate::failpoint!("adopt_after_take");
    Ok((row, watermark, works))
}

/// The old parent is back: its store says whether it had given the child away.
async fn stay_or_finish(shared: &Shared, child: &PodId, from: &PodName) -> Result<(), String> {
    let (store, parent, name) = (shared.roots.pod(from).store(), from.clone(), child.name.clone());
    let whose = StoreReader::open(&store).and_then(|reader| reader.look(|reads| reads.whose(&parent, &name)));
    match whose {
        Ok(Whose::MovedTo(_, to)) if to == shared.id.name => finish(shared, child).await,
        Ok(_) => {
            give_up(shared, &child.name).await;
            Ok(())
        }
        Err(error) => Err(error.chain()),
    }
}

/// The last step, which alone is left.
async fn finish(shared: &Shared, child: &PodId) -> Result<(), String> {
    let name = child.name.clone();
    match shared.commit(move |tx| tx.finish_adoption(&name)).await {
        Ok(Some(row)) => follow(shared, row).await,
        Ok(None) => {}
        Err(error) => return Err(error.chain()),
    }
    Ok(())
}

async fn give_up(shared: &Shared, child: &PodName) {
    tracing::info!(pod = %shared.id, %child, "an adoption that was begun has come to nothing: the child is its old parent's");
    let name = child.clone();
    if let Err(error) = shared.commit(move |tx| tx.drop_adoption(&name)).await {
        tracing::error!(pod = %shared.id, %child, error = error.chain(), "an adoption cannot be dropped");
    }
    // It may have moved in the registry, and back: what it holds is not lent by us then.
    if let Err(error) = shared.member.look_at_lent().await {
        tracing::warn!(pod = %shared.id, %child, %error, "what is lent cannot be looked at");
    }
}

/// Whether a life of `name`, which we have claimed and which is dead, may begin as ours: its store and ours say so, or its old
/// parent's store, which has moved it here. A child that lived on has written down itself that it was moved; for one that did
/// not, that is done here.
pub(crate) async fn may_begin(shared: &Shared, name: &PodName) -> Result<(), SpawnError> {
    let (own, paths, child) = (shared.id.name.clone(), shared.roots.pod(name), name.clone());
    let not_ours = |owner| Err(SpawnError::NotOurs { name: name.clone(), owner });
    let known = shared.store.read(move |reads| reads.child_by_name(&child)).await?;
    if let Some(to) = known.and_then(|row| row.moved_to).filter(|to| *to != own) {
        return not_ours(Owner::Parent(to));
    }
    let (store, roots, child) = (paths.store(), shared.roots.clone(), name.clone());
    let found = tokio::task::spawn_blocking(move || {
        let owner = StoreReader::owner_of(store)?;
        let moved_to = match &owner {
            Owner::Parent(from) => StoreReader::open(roots.pod(from).store())
                .and_then(|reader| reader.look(|reads| reads.whose(from, &child)))
                .ok(),
            Owner::Nobody => None,
        };
        Some((owner, moved_to))
    });
    match found.await.ok().flatten() {
        None => Ok(()),
        Some((Owner::Parent(parent), _)) if parent == own => Ok(()),
        Some((_, Some(Whose::MovedTo(_, to)))) if to == own => {
            let options = StoreOptions::new(stranger(name)).durability(Durability::Power);
            let opened = tokio::task::spawn_blocking(move || Store::open(paths.store(), options)).await;
            let store = opened.unwrap_or(Err(StoreError::Closed))?;
            let moved = store.write(move |tx| tx.move_to(&own)).await;
            store.close().await;
            Ok(moved?)
        }
        Some((owner, _)) => not_ours(owner),
    }
}

/// Follows it like a child of an earlier life of ours. What it holds is lent by us now, and what it was to be given is sent.
async fn follow(shared: &Shared, row: ChildRow) {
    if let Err(error) = shared.member.adopted(vec![row.pod.clone()]).await {
        tracing::warn!(pod = %shared.id, child = %row.pod, %error, "an adopted child is not registered as this pod's yet; it is at the next start");
    }
    let child = row.pod.clone();
    // One that comes while the pod stops is left to its next life: whoever is waited for was told to end before.
    let Ok(stop) = shared.registry.add(&row, || Ok::<_, std::convert::Infallible>(None));
    tokio::spawn(supervisor::supervise_adopted(shared.clone(), row, stop));
    if !is_stopping(shared) {
        crate::delegation::send_what_came_with(shared, &child).await;
    }
}

/// The store of a dead pod whose life lock we hold.
async fn open(path: PathBuf, pod: &PodName) -> Result<Store, AdoptRejection> {
    // How it was kept is not known here, and what is written decides whose the child is: it is to outlast a power failure.
    let options = StoreOptions::new(stranger(pod)).durability(Durability::Power);
    let opened = tokio::task::spawn_blocking(move || Store::open(path, options)).await;
    opened.unwrap_or(Err(StoreError::Closed)).map_err(stored)
}

/// Whoever writes into the store of a dead pod.
fn stranger(pod: &PodName) -> Own {
    Own {
        pod: PodId { name: pod.clone(), incarnation: crate::id::Incarnation::random() },
        // Nothing that is written is for its parent, and its agent is told when it is back.
        has_parent: false,
        reads_reports: true,
    }
}

fn taken(own: &PodName, child: &PodName, by: &PodId) -> AdoptRejection {
    AdoptRejection::NameTaken { reason: Text::clipped(format!("pod `{own}` has a child `{child}` already: {by}")) }
}

fn missing(reason: String) -> AdoptRejection {
    AdoptRejection::NoSuchChild { reason: Text::clipped(reason) }
}

fn unavailable(error: impl std::error::Error) -> AdoptRejection {
    AdoptRejection::Unavailable { reason: Text::clipped(error.to_string()) }
}

fn stored(error: StoreError) -> AdoptRejection {
    AdoptRejection::Unavailable { reason: Text::clipped(error.chain()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Puppet, within};
    use crate::store::fixture::{self, new_child};
    use crate::store::{Lifetime, NewChild};

    #[tokio::test(flavor = "multi_thread")]
    async fn adoption_that_waits_for_its_turn_is_told_that_the_pod_stops_and_holds_up_nothing() {
        let puppet = Puppet::new().await;
        let shared = puppet.pod.shared().clone();
        // Another one is on its way, and does not come to its end.
        let other = shared.adopting.lock().await;
        let waits = tokio::spawn({
            let shared = shared.clone();
            async move { adopt(&shared, &"a".parse().unwrap(), &"old".parse().unwrap()).await }
        });
        within("the end of the pod", puppet.pod.shutdown()).await;
        let answer = within("the answer", waits).await.unwrap();
        assert_eq!(answer.unwrap_err(), AdoptRejection::Stopping);
        drop(other);
    }

    /// The dead pod `name` with a detached child `child` that lives no more and is not buried.
    async fn dead_parent(shared: &Shared, name: &str, child: &PodId) -> PathBuf {
        let paths = shared.roots.pod(&name.parse().unwrap());
        paths.make_state_dir().unwrap();
        let store = Store::open(paths.store(), fixture::options(name)).unwrap();
        let row = NewChild { lifetime: Lifetime::Detached, ..new_child(child) };
        store.write(move |tx| tx.reserve_child(&row).map(drop)).await.unwrap();
        store.close().await;
        paths.store()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn child_that_has_moved_in_the_registry_is_given_away_though_the_adopter_stops_meanwhile() {
        let puppet = Puppet::new().await;
        let shared = puppet.pod.shared().clone();
        let (child, own) = (fixture::pod("a", 7), shared.id.name.clone());
        let old = dead_parent(&shared, "old", &child).await;
        let held = shared.member.registry().hold();
        let adopting = tokio::spawn({
            let (shared, child) = (shared.clone(), child.name.clone());
            async move { adopt(&shared, &child, &"old".parse().unwrap()).await }
        });
        let name = child.name.clone();
        let begun = async || {
            let name = name.clone();
            shared.store.read(move |reads| reads.is_being_adopted(&name)).await.unwrap()
        };
        within("the adoption to begin", async {
            while !begun().await {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let stopping = tokio::spawn(async move { puppet.pod.shutdown().await });
        within("the pod to stop", stops(&shared)).await;
        drop(held);
        let answer = within("the answer", adopting).await.unwrap();
        // Its own store may be closed by then; its next life goes on with it.
        assert!(matches!(answer, Ok(_) | Err(AdoptRejection::Unavailable { .. })), "{answer:?}");
        let whose = StoreReader::open(&old).unwrap().look(|reads| reads.whose(&"old".parse().unwrap(), &child.name));
        assert!(matches!(whose.unwrap(), Whose::MovedTo(_, to) if to == own), "it has moved in the registry alone");
        within("the end of the pod", stopping).await.unwrap();
    }

    async fn is_ours(shared: &Shared, child: &PodId) -> bool {
        let child = child.clone();
        shared.store.read(move |reads| reads.child(&child)).await.unwrap().is_some()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn adoption_that_could_not_be_finished_is_by_the_same_life_without_being_asked_again() {
        let puppet = Puppet::new().await;
        let shared = puppet.pod.shared().clone();
        let child = fixture::pod("a", 7);
        dead_parent(&shared, "old", &child).await;
        // The last step finds no room, once or twice.
        let refuse =
            "CREATE TEMP TRIGGER no_room BEFORE INSERT ON main.children BEGIN SELECT RAISE(ABORT, 'no room'); END";
        shared.store.write(move |tx| tx.run(refuse, []).map(drop)).await.unwrap();
        let answer = adopt(&shared, &child.name, &"old".parse().unwrap()).await;
        assert!(matches!(answer, Err(AdoptRejection::Unavailable { .. })), "{answer:?}");
        assert!(!is_ours(&shared, &child).await);
        shared.store.write(|tx| tx.run("DROP TRIGGER no_room", []).map(drop)).await.unwrap();
        let becomes = async {
            while !is_ours(&shared, &child).await {
                tokio::task::yield_now().await;
            }
        };
        within("the adoption", becomes).await;
        puppet.pod.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn adoption_that_cannot_be_finished_is_in_no_other_ones_way() {
        let puppet = Puppet::new().await;
        let shared = puppet.pod.shared().clone();
        let (first, second) = (fixture::pod("a", 7), fixture::pod("b", 8));
        let newer = dead_parent(&shared, "newer", &first).await;
        dead_parent(&shared, "old", &second).await;
        for (name, child) in [("newer", &first), ("old", &second)] {
            let (from, name) = (name.parse::<PodName>().unwrap(), child.name.clone());
            let reader = StoreReader::open(shared.roots.pod(&from).store()).unwrap();
            let Whose::Ours(adoption) = reader.look(|reads| reads.whose(&from, &name)).unwrap() else {
                panic!("{name}")
            };
            shared.commit(move |tx| tx.begin_adoption(&adoption).map(drop)).await.unwrap();
        }
        rusqlite::Connection::open(newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
        *shared.adopting.lock().await = true;
        let resumes = tokio::spawn(resume(shared.clone()));
        let becomes = async {
            while !is_ours(&shared, &second).await {
                tokio::task::yield_now().await;
            }
        };
        within("the other adoption", becomes).await;
        let name = first.name.clone();
        assert!(shared.store.read(move |reads| reads.is_being_adopted(&name)).await.unwrap(), "it stays begun");
        within("the end of the pod", puppet.pod.shutdown()).await;
        within("the end of the attempts", resumes).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn adoption_whose_old_parents_files_are_gone_is_what_the_child_says_of_it() {
        let puppet = Puppet::new().await;
        let shared = puppet.pod.shared().clone();
        let (from, child) = ("old".parse::<PodName>().unwrap(), fixture::pod("a", 7));
        dead_parent(&shared, "old", &child).await;
        let reader = StoreReader::open(shared.roots.pod(&from).store()).unwrap();
        let name = child.name.clone();
        let Whose::Ours(adoption) = reader.look(|reads| reads.whose(&from, &name)).unwrap() else {
            panic!("it is old's")
        };
        drop(reader);
        shared.commit(move |tx| tx.begin_adoption(&adoption).map(drop)).await.unwrap();
        std::fs::remove_dir_all(shared.roots.pod(&from).state_dir()).unwrap();
        // It lives, and has not read whose it is.
        let paths = shared.roots.pod(&child.name);
        paths.make_state_dir().unwrap();
        let lives = LifeLock::acquire(&paths.life_lock(), &child).unwrap();
        let why = resume_one(&shared, &child, &from).await.unwrap_err();
        assert!(why.contains("`old` are gone") && !is_ours(&shared, &child).await, "{why}");
        let store = Store::open(paths.store(), fixture::options("a").owned_by(Owner::Parent(from.clone()))).unwrap();
        let own = shared.id.name.clone();
        store.write(move |tx| tx.move_to(&own)).await.unwrap();
        store.close().await;
        resume_one(&shared, &child, &from).await.unwrap();
        assert!(is_ours(&shared, &child).await);
        drop(lives);
        within("the end of the pod", puppet.pod.shutdown()).await;
    }
}
