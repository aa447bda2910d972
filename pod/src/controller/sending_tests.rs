//! Steer, follow up, interrupt: the whole table, in a real pod of this process, and what then happens.

use rpc::CallError;

use crate::fixture::{Act, Puppet, Said, within};
use crate::id::{TurnId, WorkId};
use crate::protocol::{
    Method, Next, Pause, PodState, SendKind, SendRejection, SendToPod, Sent, ShutdownMode, Told, TurnResult,
};
use crate::store::{HistoryItem, TurnCause, TurnOutcome};
use crate::worker::TurnEnd;

const KEY: WorkId = WorkId(77);

async fn send(puppet: &Puppet, key: WorkId, how: SendKind, text: &str) -> Result<Sent, SendRejection> {
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    match within("an answer", client.call(SendToPod { key, how, text: text.into() })).await {
        Ok(sent) => Ok(sent),
        Err(CallError::Rejected(rejection)) => Err(rejection),
        Err(error) => panic!("{error}"),
    }
}

/// A pod in that state; where there is a turn, it is turn 1.
async fn pod(state: PodState) -> Puppet {
    let mut puppet = Puppet::new().await;
    if state == PodState::Blocked {
        puppet.pod.commit(|tx| tx.set_meta_number("blocked_until", u64::from(u32::MAX) * 1000)).await.unwrap();
        puppet.pod.request_stop(ShutdownMode::Now);
        puppet = puppet.again(true).await;
    } else if state != PodState::Idle {
        assert!(matches!(send(&puppet, WorkId(1), SendKind::FollowUp, "the first").await, Ok(Sent::Staged { .. })));
        puppet.expect(Said::Started(TurnCause::Run)).await;
        match state {
            PodState::Paused => {
                puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
                rpc::Client::<Method>::new(&puppet.pod.address()).call(Pause).await.unwrap();
            }
            PodState::Stopping => puppet.pod.request_stop(ShutdownMode::Graceful),
            _ => {}
        }
    }
    puppet.state(state).await;
    puppet
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_is_told_has_its_own_outcome_in_every_state() {
    use PodState as P;
    use SendKind as S;
    let one = Some(TurnId(1));
    let next = |turn| Some(Next { turn: TurnId(turn), work: KEY, ahead: 0 });
    let staged = |turn, behind| Ok(Sent::Staged { turn: TurnId(turn), work: KEY, behind, ahead: 0 });
    let steered = |told| Ok(Sent::Steered { told });
    let interrupted = |turn, next| Ok(Sent::Interrupted { turn, next });
    let table = [
        (P::Idle, S::Steer, "x", steered(Told::NewTurn)),
        (P::Idle, S::FollowUp, "x", staged(1, None)),
        (P::Idle, S::Interrupt, "x", interrupted(None, next(1))),
        (P::Idle, S::Interrupt, " ", Err(SendRejection::NothingToInterrupt)),
        (P::Running, S::Steer, "x", steered(Told::NextRequest { turn: TurnId(1) })),
        (P::Running, S::FollowUp, "x", staged(2, one)),
        (P::Running, S::Interrupt, "x", interrupted(one, next(2))),
        (P::Running, S::Interrupt, "", interrupted(one, None)),
        (P::Paused, S::Steer, "x", steered(Told::Later { state: P::Paused })),
        (P::Paused, S::FollowUp, "x", Err(SendRejection::Paused)),
        (P::Paused, S::Interrupt, "x", interrupted(one, next(2))),
        (P::Paused, S::Interrupt, "", interrupted(one, None)),
        (P::Blocked, S::Steer, "x", steered(Told::Later { state: P::Blocked })),
        (P::Blocked, S::FollowUp, "x", staged(1, None)),
        (P::Blocked, S::Interrupt, "x", interrupted(None, next(1))),
        (P::Blocked, S::Interrupt, "", Err(SendRejection::NothingToInterrupt)),
        (P::Stopping, S::Steer, "x", steered(Told::Later { state: P::Stopping })),
        (P::Stopping, S::FollowUp, "x", Err(SendRejection::Stopping)),
        (P::Stopping, S::Interrupt, "x", Err(SendRejection::Stopping)),
        (P::Stopping, S::Interrupt, "", interrupted(one, None)),
    ];
    for (state, how, text, expected) in table {
        let puppet = pod(state).await;
        assert_eq!(send(&puppet, KEY, how, text).await, expected, "{state} {how:?} `{text}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_ups_start_in_their_order_when_the_turn_before_has_ended_and_a_steer_is_part_of_it() {
    let mut puppet = pod(PodState::Running).await;
    for (key, ahead) in [(2, 0), (3, 1)] {
        let sent = send(&puppet, WorkId(key), SendKind::FollowUp, "more").await.unwrap();
        assert_eq!(sent, Sent::Staged { turn: TurnId(key), work: WorkId(key), behind: Some(TurnId(1)), ahead });
    }
    send(&puppet, WorkId(9), SendKind::Steer, "mind this").await.unwrap();
    assert_eq!(puppet.told().await.len(), 1, "it is told in the turn that runs");
    puppet.answered().await;
    for _ in 0..2 {
        puppet.act(Act::End(TurnEnd::Finished)).await;
        puppet.expect(Said::Started(TurnCause::Run)).await;
    }
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    let inputs = inputs(&puppet).await;
    assert_eq!(inputs, [(1, "the first".to_owned()), (2, "more".to_owned()), (3, "more".to_owned())]);
}

async fn inputs(puppet: &Puppet) -> Vec<(u64, String)> {
    let rows = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    let inputs = rows.into_iter().filter_map(|row| match row.item {
        HistoryItem::UserInput { text, .. } => Some((row.turn?.0, text)),
        _ => None,
    });
    inputs.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_cancels_the_turn_and_does_the_other_thing_once_however_often_it_is_sent() {
    let mut puppet = pod(PodState::Running).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    let first = send(&puppet, KEY, SendKind::Interrupt, "instead").await.unwrap();
    let next = Some(Next { turn: TurnId(2), work: KEY, ahead: 0 });
    assert_eq!(first, Sent::Interrupted { turn: Some(TurnId(1)), next });
    puppet.expect(Said::Asked).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    // Sent again: the turn that it started is not the one that it was to end.
    let again = send(&puppet, KEY, SendKind::Interrupt, "instead").await.unwrap();
    assert_eq!(again, Sent::Interrupted { turn: None, next });
    assert_eq!(puppet.told().await.len(), 0, "the second turn was asked to end");
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    let rows = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    let ends: Vec<_> = rows
        .into_iter()
        .filter_map(|row| match row.item {
            HistoryItem::TurnEnded { outcome: TurnOutcome::Ended { result } } => Some(result),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [TurnResult::Cancelled, TurnResult::Finished]);
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_up_behind_a_turn_that_is_paused_waits_until_that_one_is_resumed() {
    let mut puppet = pod(PodState::Running).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
    send(&puppet, KEY, SendKind::FollowUp, "later").await.unwrap();
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    client.call(Pause).await.unwrap();
    puppet.expect(Said::Asked).await;
    puppet.state(PodState::Paused).await;
    client.call(crate::protocol::Resume).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(inputs(&puppet).await.last().unwrap().1, "later");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_behind_which_a_follow_up_waits_is_a_pause_in_the_next_life_too() {
    let mut puppet = pod(PodState::Running).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
    send(&puppet, KEY, SendKind::FollowUp, "later").await.unwrap();
    rpc::Client::<Method>::new(&puppet.pod.address()).call(Pause).await.unwrap();
    puppet.state(PodState::Paused).await;
    puppet.pod.request_stop(ShutdownMode::Now);
    puppet = puppet.again(true).await;
    assert_eq!(puppet.pod.status().await.unwrap().state, PodState::Paused, "the follow-up took its place");
    rpc::Client::<Method>::new(&puppet.pod.address()).call(crate::protocol::Resume).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(inputs(&puppet).await.last().unwrap().1, "later");
    // A run lifts it, also if its process ends before it starts.
    puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
    rpc::Client::<Method>::new(&puppet.pod.address()).call(Pause).await.unwrap();
    puppet.state(PodState::Paused).await;
    let run = crate::store::NewRun { work: WorkId(78), origin: crate::store::Origin::Host, input: "now".into() };
    let commit = puppet.pod.store().write(move |tx| {
        let staged = tx.stage_run(&run)?;
        tx.lift_with(staged.accepted.turn)
    });
    commit.await.unwrap();
    puppet.pod.request_stop(ShutdownMode::Now);
    puppet = puppet.again(true).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(inputs(&puppet).await.last().unwrap().1, "now");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_reads_no_reports_is_not_steered_and_the_answer_says_so() {
    let puppet = Puppet::at(tempfile::TempDir::new().unwrap(), false, false).await;
    let sent = send(&puppet, KEY, SendKind::Steer, "x").await;
    assert_eq!(sent, Ok(Sent::Steered { told: Told::Recorded }));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_and_nothing_is_refused_and_changes_nothing() {
    let puppet = pod(PodState::Running).await;
    for key in 0..super::STAGED_MAX as u64 {
        send(&puppet, WorkId(1000 + key), SendKind::FollowUp, "x").await.unwrap();
    }
    let full = send(&puppet, KEY, SendKind::FollowUp, "x").await;
    assert_eq!(full, Err(SendRejection::Full { max: 64 }));
    // What was taken is known, full or not.
    let again = send(&puppet, WorkId(1003), SendKind::FollowUp, "x").await.unwrap();
    assert!(matches!(again, Sent::Staged { turn: TurnId(5), ahead: 0, .. }), "{again:?}");
    for (how, text) in
        [(SendKind::Steer, String::new()), (SendKind::FollowUp, " ".into()), (SendKind::Steer, "x".repeat(20_000))]
    {
        assert!(matches!(send(&puppet, KEY, how, &text).await, Err(SendRejection::Invalid { .. })));
    }
    let staged = puppet.pod.store().read(|reads| Ok(reads.control()?.runs_staged)).await.unwrap();
    assert_eq!(staged, super::STAGED_MAX as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_that_waits_behind_a_follow_up_does_not_undo_the_pause_of_that_in_the_next_life() {
    let mut puppet = pod(PodState::Running).await;
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    send(&puppet, WorkId(6), SendKind::FollowUp, "next").await.unwrap();
    let sent = send(&puppet, WorkId(7), SendKind::Interrupt, "instead").await.unwrap();
    assert!(matches!(sent, Sent::Interrupted { turn: Some(TurnId(1)), next: Some(Next { ahead: 1, .. }) }), "{sent:?}");
    puppet.expect(Said::Asked).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
    client.call(Pause).await.unwrap();
    puppet.expect(Said::Asked).await;
    puppet.state(PodState::Paused).await;
    assert_eq!(puppet.pod.status().await.unwrap().turn, Some(TurnId(2)), "it is shown as what it is");
    puppet.pod.request_stop(ShutdownMode::Now);
    puppet = puppet.again(true).await;
    assert_eq!(puppet.pod.status().await.unwrap().state, PodState::Paused, "what somebody has paused gave way");
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    client.call(crate::protocol::Resume).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(inputs(&puppet).await.last().unwrap().1, "instead");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_ends_no_other_turn_than_the_one_that_it_was_sent_for() {
    let limits = crate::manifest::Limits { turns: 9, ..Default::default() };
    let mut puppet = Puppet::bounded(limits).await;
    send(&puppet, WorkId(1), SendKind::FollowUp, "the first").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    send(&puppet, WorkId(2), SendKind::FollowUp, "the second").await.unwrap();
    // Until it is counted, the turn that it is to end has ended by itself, and the next one runs.
    let held = puppet.pod.shared().member.registry().hold();
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let request = SendToPod { key: KEY, how: SendKind::Interrupt, text: "instead".into() };
    let mut interrupting = std::pin::pin!(client.call(request));
    assert!(futures::poll!(&mut interrupting).is_pending());
    client.call(crate::protocol::Status).await.unwrap();
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    drop(held);
    let next = Some(Next { turn: TurnId(3), work: KEY, ahead: 0 });
    assert_eq!(within("the answer", interrupting).await.unwrap(), Sent::Interrupted { turn: None, next });
    assert_eq!(puppet.told().await.len(), 0, "the second turn was asked to end");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_that_comes_while_a_turn_is_about_to_begin_ends_that_one() {
    let limits = crate::manifest::Limits { turns: 9, ..Default::default() };
    let mut puppet = Puppet::bounded(limits).await;
    let held = puppet.pod.shared().member.registry().hold();
    assert!(puppet.pod.notify("do this").await.unwrap().woke);
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let request = SendToPod { key: KEY, how: SendKind::Interrupt, text: "instead".into() };
    let mut interrupting = std::pin::pin!(client.call(request));
    assert!(futures::poll!(&mut interrupting).is_pending());
    client.call(crate::protocol::Status).await.unwrap();
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    drop(held);
    let sent = within("the answer", interrupting).await.unwrap();
    assert!(matches!(sent, Sent::Interrupted { turn: Some(_), next: Some(Next { ahead: 0, .. }) }), "{sent:?}");
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    puppet.expect(Said::Asked).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_reaches_a_turn_that_was_put_off_when_it_begins() {
    let mut puppet = Puppet::with_outbox(3).await;
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    send(&puppet, WorkId(1), SendKind::FollowUp, "the first").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    puppet.state(PodState::Paused).await;
    puppet.pod.store().write(|tx| tx.set_meta_number("next_seq", 4)).await.unwrap();
    // Answered when its start was put off.
    assert_eq!(within("the answer", client.call(crate::protocol::Resume)).await.unwrap().turn, None);
    let sent = send(&puppet, KEY, SendKind::Interrupt, "instead").await.unwrap();
    assert!(matches!(sent, Sent::Interrupted { turn: None, next: Some(_) }), "{sent:?}");
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    puppet.pod.store().write(|tx| tx.set_meta_number("acked_seq", 3)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    puppet.expect(Said::Asked).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(inputs(&puppet).await.last().unwrap().1, "instead");
}
