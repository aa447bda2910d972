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

/// Carries out what transactions have left to be done outside the store. What cannot be done yet is tried again until it
/// is, by this life or by the next.
pub(crate) async fn carry_out_intents(shared: &Shared) {
    if !try_intents(shared).await && !shared.carrying_out.swap(true, Ordering::SeqCst) {
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
        if try_intents(&shared).await || shared.carrying_out.swap(true, Ordering::SeqCst) {
            return;
        }
        pause = (pause * 2).min(CARRY_OUT_MAX);
    }
}

/// Tries each once. Returns whether nothing is left that this life could do later.
async fn try_intents(shared: &Shared) -> bool {
    let intents = match shared.store.read(|reads| reads.intents()).await {
        Ok(intents) => intents,
        Err(error) => return matches!(error, StoreError::Closed),
    };
    let mut all_done = true;
    for intent in intents {
        let id = intent.id;
        let done = match &intent.kind {
            IntentKind::ReturnLeases { pod } => match shared.member.take_back(pod, &shared.roots).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("{pod}, or something that it has started, is not proven dead")),
                Err(error) => Err(error.to_string()),
            },
            _ => match tokio::task::spawn_blocking(move || carry_out(&intent)).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(panic) => Err(panic.to_string()),
            },
        };
        match done {
            Ok(()) => {
                if let Err(error) = shared.store.write(move |tx| tx.intent_done(id)).await {
                    all_done &= matches!(error, StoreError::Closed);
                    tracing::warn!(pod = %shared.id, error = error.chain(), "something was done and could not be recorded; it will be done once more");
                }
            }
            Err(error) => {
                all_done = false;
                tracing::warn!(pod = %shared.id, %error, "what an end leaves to be done cannot be done yet; it is tried again");
            }
        }
    }
    all_done
}
