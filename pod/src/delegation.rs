//! Work whose child was perhaps never reached is sent again, under its own id, until that is known.
//!
//! A child takes a work once, however often it is sent, and names the same turn each time: to send it again is always right,
//! and to leave it at a doubt would leave it open for ever. It is sent again as what it was, a run or a follow-up: the one makes a
//! paused turn give way, the other waits behind it. What was to interrupt is sent again as a follow-up, for the turn that it was
//! meant for is over by then, or may be. It ends when the child has taken the work, has refused it, or has ended; never by giving
//! up, and nobody waits for it.
//!
//! Begun by `handle` and `tools` for a call that stayed unknown, and by `start` for what an earlier life left so.

use std::time::Duration;

use rpc::CallError;

use crate::handle::Shared;
use crate::id::{PodId, TurnId, WorkId};
use crate::protocol::{Accepted, Method, Run, RunRejection, SendKind, SendRejection, SendToPod, Sent};
use crate::store::{Direction, GivenAs, StoreError};

/// Before the second attempt, and twice as long before each further one. LIMIT: a doubt is rare, and what made it one lasts
/// for a while.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// LIMIT: how soon a child that answers again is given its work.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What an attempt has told.
enum Told {
    /// The work is known to be the child's, or not to be, or is over.
    Known,
    /// Nothing, yet.
    Nothing,
}

/// Sends `work` to `child` in a task of its own until it is known what became of it, or the pod has ended.
pub(crate) fn send_until_known(shared: &Shared, child: PodId, work: WorkId) {
    let shared = shared.clone();
    tokio::spawn(async move {
        // CANCEL SAFETY: the next life of the pod goes on with it.
        tokio::select! {
            () = shared.stopped() => {}
            () = until_known(&shared, &child, work) => {}
        }
    });
}

/// Goes on with what an earlier life of the pod had left in doubt: of the children that live still.
///
/// # Errors
/// If the store cannot be read.
pub(crate) async fn send_what_was_left(shared: &Shared) -> Result<(), StoreError> {
    let open = shared.store.read(|reads| reads.works(Direction::Delegated, true)).await?;
    for work in open.into_iter().filter(|work| work.turn.is_none()) {
        if let Some(child) = work.child {
            send_until_known(shared, child, work.work);
        }
    }
    Ok(())
}

/// The same for a child that has become this pod's: what it was to be given and was perhaps never sent.
pub(crate) async fn send_what_came_with(shared: &Shared, child: &PodId) {
    let open = match shared.store.read(|reads| reads.works(Direction::Delegated, true)).await {
        Ok(open) => open,
        // The next life of the pod goes on with it.
        Err(error) => {
            return tracing::error!(pod = %shared.id, %child, error = error.chain(), "what an adopted child is to do cannot be read");
        }
    };
    for work in open.into_iter().filter(|work| work.turn.is_none() && work.child.as_ref() == Some(child)) {
        send_until_known(shared, child.clone(), work.work);
    }
}

async fn until_known(shared: &Shared, child: &PodId, work: WorkId) {
    // One client for all attempts: what an earlier one has left on its way is fenced off or comes first.
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(shared.roots.pod(&child.name).socket()));
    let mut pause = PAUSE_FIRST;
    loop {
        match attempt(shared, &client, child, work).await {
            Ok(Told::Known) | Err(StoreError::Closed) => return,
            Ok(Told::Nothing) => {}
            Err(error) => {
                tracing::warn!(pod = %shared.id, %work, error = error.chain(), "what became of a work cannot be recorded; it is sent again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn attempt(
    shared: &Shared,
    client: &rpc::Client<Method>,
    child: &PodId,
    work: WorkId,
) -> Result<Told, StoreError> {
    // Its reports, or its child's end, may have settled it meanwhile.
    let Some((given_as, input)) = shared.store.read(move |reads| reads.delegated_input(work)).await? else {
        return Ok(Told::Known);
    };
    let answer = match given_as {
        GivenAs::Run => client.call(Run { work, input: input.into() }).await.map_or_else(run_refused, said),
        GivenAs::FollowUp => {
            let request = SendToPod { key: work, how: SendKind::FollowUp, text: input.into() };
            client.call(request).await.map_or_else(follow_up_refused, staged)
        }
    };
    match answer {
        Answer::Taken { turn } => {
            shared.commit(move |tx| tx.delegation_accepted(work, turn)).await?;
            tracing::info!(pod = %shared.id, %child, %work, %turn, "work in doubt is known to be taken on");
        }
        Answer::Never => {
            let settled = shared.commit(move |tx| tx.delegation_refused(work)).await?;
            shared.registry.refused(child, work);
            shared.registry.settled(&settled);
        }
        Answer::NotNow(why) => {
            tracing::debug!(pod = %shared.id, %child, %work, why, "work in doubt stays so");
            return Ok(Told::Nothing);
        }
    }
    Ok(Told::Known)
}

/// What the child has said.
enum Answer {
    Taken {
        turn: TurnId,
    },
    /// It takes no more work, or not this.
    Never,
    /// Nothing that lasts: an attempt that is still on its way may find it otherwise, and so may we.
    NotNow(String),
}

fn said(accepted: Accepted) -> Answer {
    Answer::Taken { turn: accepted.turn }
}

fn staged(sent: Sent) -> Answer {
    match sent {
        Sent::Staged { turn, .. } => Answer::Taken { turn },
        other => Answer::NotNow(format!("{other:?}")),
    }
}

fn run_refused(error: CallError<Run>) -> Answer {
    match error {
        CallError::Rejected(RunRejection::Stopping | RunRejection::Invalid { .. } | RunRejection::Cap { .. }) => {
            Answer::Never
        }
        other => Answer::NotNow(other.to_string()),
    }
}

fn follow_up_refused(error: CallError<SendToPod>) -> Answer {
    match error {
        CallError::Rejected(SendRejection::Stopping | SendRejection::Invalid { .. } | SendRejection::Cap { .. }) => {
            Answer::Never
        }
        other => Answer::NotNow(other.to_string()),
    }
}

#[cfg(test)]
#[path = "delegation_tests.rs"]
mod tests;
