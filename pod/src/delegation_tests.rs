//! Work in doubt, with a child that this test plays: its socket is real, its life lock is held, its answers are a script.

use crate::RunError;
use crate::fixture::{Act, Played, Puppet, Said, within};
use crate::id::{TurnId, WorkId};
use crate::protocol::{Accepted, PodState, RunRejection, SendKind, SendRejection, SendToPod, Sent, Text, WorkResult};
use crate::store::{Direction, TurnCause, WorkRow};
use crate::tools::{Caller, send_to_pod};
use crate::worker::TurnEnd;

async fn delegated(puppet: &Puppet) -> WorkRow {
    let works = puppet.pod.store().read(|reads| reads.works(Direction::Delegated, false)).await.unwrap();
    assert_eq!(works.len(), 1);
    works.into_iter().next().unwrap()
}

/// Waits until it is known of the work what `known` asks for.
async fn known(puppet: &Puppet, known: impl Fn(&WorkRow) -> bool) -> WorkRow {
    within("what became of the work", async {
        loop {
            let row = delegated(puppet).await;
            if known(&row) {
                return row;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Gives the child work and forgets the answer, so that nobody knows.
async fn in_doubt(puppet: &Puppet, child: &mut Played) -> WorkId {
    let (pod, name) = (puppet.pod.clone(), child.pod.name.clone());
    let giving = tokio::spawn(async move { pod.delegate(&name, None, None, "do it".into()).await });
    let (run, responder) = child.asked().await;
    drop(responder);
    match within("the doubt", giving).await.unwrap() {
        Err(RunError::Unknown { work, .. }) if work == run.work => work,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_in_doubt_is_sent_again_under_its_id_until_it_is_taken() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    let work = in_doubt(&puppet, &mut child).await;
    for answer in 0..4 {
        let (run, responder) = child.asked().await;
        assert_eq!((run.work, run.input.as_str()), (work, "do it"));
        assert_eq!(delegated(&puppet).await.turn, None);
        match answer {
            0 => drop(responder),
            1 => responder.reject(RunRejection::AlreadyRunning { turn: TurnId(3) }),
            2 => responder.not_taken("too much to do"),
            _ => responder.ack(Accepted { turn: TurnId(4), work }),
        }
    }
    let row = known(&puppet, |row| row.turn.is_some()).await;
    assert_eq!((row.turn, row.result), (Some(TurnId(4)), None), "it is the child's, and open");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_in_doubt_that_the_child_will_never_take_is_settled_as_refused() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    let work = in_doubt(&puppet, &mut child).await;
    let mut progress = puppet.pod.shared().registry.expect(work);
    child.asked().await.1.reject(RunRejection::Stopping);
    assert_eq!(known(&puppet, |row| row.result.is_some()).await.result, Some(WorkResult::Refused));
    let told = progress.wait_for(|progress| progress.result.is_some());
    assert_eq!(within("the word to whoever waits", told).await.unwrap().result, Some(WorkResult::Refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_left_in_doubt_is_sent_again_by_the_next_life() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    let work = in_doubt(&puppet, &mut child).await;
    // It stays in doubt in this life: the child is asked, and says nothing. It lives on when its parent has gone.
    puppet.pod.request_stop(crate::protocol::ShutdownMode::Now);
    puppet.pod.shared().registry.leave(&child.pod);
    puppet.pod.shared().child_ended().await;
    let puppet = puppet.again(true).await;
    // What the earlier life had on its way may come first; nobody hears the answer to that.
    let answering = tokio::spawn(async move {
        loop {
            let (run, responder) = child.asked().await;
            assert_eq!(run.work, work);
            responder.ack(Accepted { turn: TurnId(7), work });
        }
    });
    assert_eq!(known(&puppet, |row| row.turn.is_some()).await.turn, Some(TurnId(7)));
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_up_in_doubt_is_sent_again_as_one_and_undoes_no_pause() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    for (work, how) in [(WorkId(71), SendKind::FollowUp), (WorkId(72), SendKind::Interrupt)] {
        let caller = Caller::of_pod(&puppet.pod);
        let sending = tokio::spawn({
            let name = child.pod.name.clone();
            async move { send_to_pod(&caller, &name, SendToPod { key: work, how, text: "later".into() }).await }
        });
        let (first, responder) = child.sent().await;
        assert_eq!((first.key, first.how), (work, how));
        drop(responder);
        let doubt = within("the doubt", sending).await.unwrap();
        assert!(matches!(doubt, Err(SendRejection::Unknown { key, .. }) if key == work), "{doubt:?}");
        // Somebody has paused it meanwhile, then it was full and busy, then it had it all along.
        for answer in 0..5 {
            let (again, responder) = child.sent().await;
            assert_eq!((again.key, again.how, again.text.as_str()), (work, SendKind::FollowUp, "later"));
            match answer {
                0 => responder.reject(SendRejection::Paused),
                1 => responder.reject(SendRejection::Full { max: 64 }),
                2 => responder.reject(SendRejection::Busy { turn: TurnId(3) }),
                3 => responder.reject(SendRejection::Unavailable { reason: Text::clipped("full") }),
                _ => responder.ack(Sent::Staged { turn: TurnId(4), work, behind: None, ahead: 0 }),
            }
        }
        let turn = within("what became of it", async {
            loop {
                let works = puppet.pod.store().read(|reads| reads.works(Direction::Delegated, false)).await.unwrap();
                if let Some(turn) = works.iter().find(|row| row.work == work).unwrap().turn {
                    break turn;
                }
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(turn.await, TurnId(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_up_that_was_left_in_doubt_is_sent_as_one_by_the_next_life() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    let (caller, name) = (Caller::of_pod(&puppet.pod), child.pod.name.clone());
    let request = SendToPod { key: WorkId(71), how: SendKind::FollowUp, text: "later".into() };
    let sending = tokio::spawn(async move { send_to_pod(&caller, &name, request).await });
    drop(child.sent().await);
    assert!(within("the doubt", sending).await.unwrap().is_err());
    puppet.pod.request_stop(crate::protocol::ShutdownMode::Now);
    puppet.pod.shared().registry.leave(&child.pod);
    puppet.pod.shared().child_ended().await;
    let _puppet = puppet.again(true).await;
    let (again, _) = child.sent().await;
    assert_eq!((again.key, again.how), (WorkId(71), SendKind::FollowUp));
}

/// Makes the store refuse what an update of delegated works would change.
async fn full(puppet: &Puppet, column: &str) {
    let sql = format!(
        "CREATE TRIGGER held BEFORE UPDATE OF {column} ON works BEGIN SELECT RAISE(ABORT, 'held by a test'); END"
    );
    puppet.pod.store().write(move |tx| tx.run(&sql, [])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_that_cannot_be_committed_leaves_no_work_open_once_it_can() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    full(&puppet, "state").await;
    let (pod, name) = (puppet.pod.clone(), child.pod.name.clone());
    let giving = tokio::spawn(async move { pod.delegate(&name, None, None, "do it".into()).await });
    let (run, responder) = child.asked().await;
    responder.reject(RunRejection::Stopping);
    let given = within("the answer", giving).await.unwrap();
    assert!(matches!(&given, Err(RunError::Unknown { work, .. }) if *work == run.work), "{given:?}");
    child.asked().await.1.reject(RunRejection::Stopping);
    puppet.pod.store().write(|tx| tx.run("DROP TRIGGER held", [])).await.unwrap();
    let answering = tokio::spawn(async move {
        loop {
            child.asked().await.1.reject(RunRejection::Stopping);
        }
    });
    assert_eq!(known(&puppet, |row| row.result.is_some()).await.result, Some(WorkResult::Refused));
    within("that nothing is open", puppet.pod.settled()).await.unwrap();
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn acceptance_that_cannot_be_committed_is_recorded_once_it_can_and_the_work_is_the_callers() {
    let puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    full(&puppet, "turn").await;
    let (pod, name) = (puppet.pod.clone(), child.pod.name.clone());
    let giving = tokio::spawn(async move { pod.delegate(&name, None, None, "do it".into()).await });
    let (run, responder) = child.asked().await;
    responder.ack(Accepted { turn: TurnId(4), work: run.work });
    assert_eq!(within("the answer", giving).await.unwrap().unwrap().id(), run.work);
    puppet.pod.store().write(|tx| tx.run("DROP TRIGGER held", [])).await.unwrap();
    let answering = tokio::spawn(async move {
        loop {
            let (run, responder) = child.asked().await;
            responder.ack(Accepted { turn: TurnId(4), work: run.work });
        }
    });
    assert_eq!(known(&puppet, |row| row.turn.is_some()).await.turn, Some(TurnId(4)));
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_the_last_that_a_work_waits_for_is_told_to_whoever_waits_for_that_work() {
    let mut puppet = Puppet::new().await;
    let mut child = Played::of(&puppet.pod, "child").await;
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    let (pod, name, own) = (puppet.pod.clone(), child.pod.name.clone(), work.id());
    let giving = tokio::spawn(async move { pod.delegate(&name, None, Some(own), "part of it".into()).await });
    drop(child.asked().await);
    assert!(matches!(within("the doubt", giving).await.unwrap(), Err(RunError::Unknown { .. })));
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    child.asked().await.1.reject(RunRejection::Stopping);
    assert_eq!(within("the end of the work", work.settled()).await, WorkResult::Finished);
}
