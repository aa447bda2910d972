//! Becoming the parent of a child whose parent is dead.
//!
//! The old parent's life lock is held from the first look into its store to the last: so it is proven dead, and does not come
//! back in between. What is written into which store, and why a death at any point leaves the child with one parent, says
//! `store::adoption`; what moves in the registry is claimed before the step that decides. The child is told by its old parent's store, which it reads while it waits for that parent (`parent`).
//!
//! Asked by `controller/calls` and the facade; what a life has begun its next one goes on with.

use std::path::PathBuf;
use std::time::Duration;

use super::supervisor;
use crate::error::{SpawnError, in_one_line};
use crate::handle::Shared;
use crate::id::{PodId, PodName, Seq};
use crate::life_lock::{self, Life, LifeLock, LifeLockError};
use crate::protocol::{AdoptRejection, Adopted, PodState, Text};
use crate::registry::ClaimError;
use crate::store::{Adoption, ChildRow, Durability, Own, Owner, Store, StoreError, StoreOptions, StoreReader, Whose};

/// Between two looks at an old parent whose lock another one holds that is not it: somebody adopts from it, too.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes `child` of the dead pod `from` a child of ours.
///
/// # Errors
/// Why it is not; it is then still its old parent's, unless the reason is `Unavailable`: asked again, it goes on.
pub(crate) async fn adopt(shared: &Shared, child: &PodName, from: &PodName) -> Result<Adopted, AdoptRejection> {
    // Of two at once the one would take the other's hold on the old parent's lock for the old parent.
    let _alone = shared.adopting.lock().await;
    adopt_alone(shared, child, from).await
}

async fn adopt_alone(shared: &Shared, child: &PodName, from: &PodName) -> Result<Adopted, AdoptRejection> {
    if *shared.phase.borrow() == PodState::Stopping {
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

/// Goes on with what an earlier life of ours had begun, or finds that the child has stayed where it was.
pub(crate) async fn resume(shared: Shared) {
    let begun = shared.store.read(|reads| reads.adoptions()).await.unwrap_or_default();
    for Adoption { child, from, .. } in begun {
        while !resume_one(&shared, &child, &from).await {
            // CANCEL SAFETY: waiting changes nothing.
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shared.stopped() => return,
            }
        }
    }
}

/// False as long as it cannot be known whose the child is.
async fn resume_one(shared: &Shared, child: &PodId, from: &PodName) -> bool {
    let _alone = shared.adopting.lock().await;
    let name = child.name.clone();
    // Whoever has asked again meanwhile may have come to its end.
    if !matches!(shared.store.read(move |reads| reads.is_being_adopted(&name)).await, Ok(true)) {
        return true;
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
            if holder.is_none_or(|holder| holder.name != *from) {
                return false;
            }
            return stay_or_finish(shared, child, from).await;
        }
        Err(AdoptRejection::NoSuchChild { .. } | AdoptRejection::NameTaken { .. } | AdoptRejection::Refused { .. }) => {
            give_up(shared, &child.name).await;
        }
        Err(error) => return not_yet(shared, child, error.to_string()),
    }
    true
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
                let reason = format!("pod `{own}` has a child `{child}` already: {by}");
                return Err(AdoptRejection::NameTaken { reason: Text::clipped(reason) });
            }
            crate::failpoint!("adopt_after_copy");
            if let Err(error) = shared.member.adopt(&pod).await {
                // Nothing is given up, and nothing was taken.
                let name = child.clone();
                shared.commit(move |tx| tx.drop_adoption(&name)).await.map_err(stored)?;
                return Err(match error {
                    ClaimError::Registry(error) => unavailable(error),
                    error => AdoptRejection::Refused { reason: Text::clipped(in_one_line(&error)) },
                });
            }
            old.write(move |tx| tx.give_away(&pod, &own)).await.map_err(stored)?;
            crate::failpoint!("adopt_after_mark");
            known
        }
        // It was decided before: what is left to be done here is done.
        Whose::MovedTo(adoption, to) if to == own => {
            let (known, pod) = ((adoption.watermark, adoption.works.len()), adoption.child.clone());
            let name = child.clone();
            let known_here =
                shared.store.read(move |reads| Ok((reads.child(&pod)?.is_some(), reads.is_being_adopted(&name)?)));
            let (is_known, is_begun) = known_here.await.map_err(stored)?;
            if !is_known && !is_begun {
                // Our store is older than that: what the old parent's has kept of it makes the child ours. What ours has kept
                // is never replaced by it: the old parent's next life has closed what it had given away.
                shared.commit(move |tx| tx.begin_adoption(&adoption)).await.map_err(stored)?;
            }
            if is_known { (Seq(0), 0) } else { known }
        }
        Whose::MovedTo(_, to) => return Err(missing(format!("`{child}` is a child of pod `{to}` now"))),
        Whose::Nobodys => return Err(missing(format!("pod `{from}` has no child `{child}` that could be adopted"))),
    };
    let name = child.clone();
    let row = shared.commit(move |tx| tx.finish_adoption(&name)).await.map_err(stored)?;
    crate::failpoint!("adopt_after_take");
    Ok((row, watermark, works))
}

/// The old parent is back: its store says whether it had given the child away. False as long as that cannot be known or done.
async fn stay_or_finish(shared: &Shared, child: &PodId, from: &PodName) -> bool {
    let (store, parent, name) = (shared.roots.pod(from).store(), from.clone(), child.name.clone());
    let whose = StoreReader::open(&store).and_then(|reader| reader.look(|reads| reads.whose(&parent, &name)));
    match whose {
        Ok(Whose::MovedTo(_, to)) if to == shared.id.name => {
            let name = child.name.clone();
            match shared.commit(move |tx| tx.finish_adoption(&name)).await {
                Ok(Some(row)) => follow(shared, row).await,
                Ok(None) => {}
                Err(error) => return not_yet(shared, child, error.chain()),
            }
        }
        Ok(_) => give_up(shared, &child.name).await,
        Err(error) => return not_yet(shared, child, error.chain()),
    }
    true
}

fn not_yet(shared: &Shared, child: &PodId, error: String) -> bool {
    tracing::error!(pod = %shared.id, %child, error, "an adoption cannot be finished yet; it is tried again");
    false
}

async fn give_up(shared: &Shared, child: &PodName) {
    tracing::info!(pod = %shared.id, %child, "an adoption that was begun has come to nothing: the child is its old parent's");
    let name = child.clone();
    if let Err(error) = shared.commit(move |tx| tx.drop_adoption(&name)).await {
        tracing::error!(pod = %shared.id, %child, error = error.chain(), "an adoption cannot be dropped");
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
    let Ok(stop) = shared.registry.add(&row, || Ok::<_, std::convert::Infallible>(None));
    tokio::spawn(supervisor::supervise_adopted(shared.clone(), row, stop));
    crate::delegation::send_what_came_with(shared, &child).await;
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

fn missing(reason: String) -> AdoptRejection {
    AdoptRejection::NoSuchChild { reason: Text::clipped(reason) }
}

fn unavailable(error: impl std::error::Error) -> AdoptRejection {
    AdoptRejection::Unavailable { reason: Text::clipped(error.to_string()) }
}

fn stored(error: StoreError) -> AdoptRejection {
    AdoptRejection::Unavailable { reason: Text::clipped(error.chain()) }
}
