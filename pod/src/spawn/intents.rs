//! What the end of a child leaves to be done outside the store: rights and names to give back, files to remove.
//!
//! Each is a row that the transaction of the end has left. Done as often as it takes, by this life or by the next; doing it
//! twice does nothing more.
//!
//! Called when an end is committed, and when a pod starts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::handle::Shared;
use crate::store::{IntentKind, StoreError, carry_out};

/// Between two attempts at what is left to be done outside the store. LIMIT: each may read the whole process table, and
/// wait for another pod's transaction.
const CARRY_OUT_EVERY: Duration = Duration::from_millis(500);
/// LIMIT: the longest pause between two attempts: what a dead child had is nobody's until then.
const CARRY_OUT_MAX: Duration = Duration::from_secs(10);

/// Carries out what transactions have left to be done outside the store: all that was left until now, by this call or by
/// another one. What cannot be done yet is tried again until it is, by this life or by the next.
pub(crate) async fn carry_out_intents(shared: &Shared) {
    let tried = shared.ends.intents.join(|| try_intents(shared)).await;
    if tried == Some(false) && !shared.carrying_out.swap(true, Ordering::SeqCst) {
        tokio::spawn(keep_trying(shared.clone()));
    }
}

async fn keep_trying(shared: Shared) {
    let (mut pause, mut done) = (CARRY_OUT_EVERY, shared.done.subscribe());
    loop {
        if tokio::time::timeout(pause, done.wait_for(|done| *done)).await.is_ok() {
            return;
        }
        // First: what somebody leaves behind from here on is theirs to try again.
        shared.carrying_out.store(false, Ordering::SeqCst);
        let tried = shared.ends.intents.join(|| try_intents(&shared)).await;
        if tried != Some(false) || shared.carrying_out.swap(true, Ordering::SeqCst) {
            return;
        }
        pause = (pause * 2).min(CARRY_OUT_MAX);
    }
}

/// Tries each once, those of children's rights together. Returns whether nothing is left that this life could do later.
async fn try_intents(shared: &Shared) -> bool {
    let intents = match shared.store.read(|reads| reads.intents()).await {
        Ok(intents) => intents,
        Err(error) => return matches!(error, StoreError::Closed),
    };
    let (mut done, mut to_return, mut all_done) = (Vec::new(), Vec::new(), true);
    for intent in intents {
        let id = intent.id;
        match &intent.kind {
            // `supervisor` does that, in its time.
            IntentKind::Restart { .. } => {}
            IntentKind::ReturnLeases { pod } => to_return.push((id, pod.clone())),
            _ => match tokio::task::spawn_blocking(move || carry_out(&intent)).await {
                Ok(Ok(())) => done.push(id),
                Ok(Err(error)) => all_done &= not_yet(shared, &error.to_string()),
                Err(panic) => all_done &= not_yet(shared, &panic.to_string()),
            },
        }
    }
    if !to_return.is_empty() {
        let pods = to_return.iter().map(|(_, pod)| pod.clone()).collect();
        match shared.member.take_back(pods, &shared.roots).await {
            Ok(back) => {
                for (id, pod) in to_return {
                    if back.contains(&pod) {
                        done.push(id);
                    } else {
                        let why = format!("{pod}, or something that it has started, is not proven dead");
                        all_done &= not_yet(shared, &why);
                    }
                }
            }
            Err(error) => all_done &= not_yet(shared, &error.to_string()),
        }
    }
    if !done.is_empty() {
        let recorded = shared.store.write(move |tx| done.into_iter().try_for_each(|id| tx.intent_done(id)));
        if let Err(error) = recorded.await {
            all_done &= matches!(error, StoreError::Closed);
            tracing::warn!(pod = %shared.id, error = error.chain(), "something was done and could not be recorded; it will be done once more");
        }
    }
    all_done
}

fn not_yet(shared: &Shared, error: &str) -> bool {
    tracing::warn!(pod = %shared.id, error, "what an end leaves to be done cannot be done yet; it is tried again");
    false
}
