//! The shell around the state, in a real pod of this process: store, sockets and calls are real, the worker is a puppet.

use std::collections::BTreeMap;

use rpc::CallError;

use crate::event::{Reporter, fire_and_forget};
use crate::fixture::{Act, Puppet, Said, within};
use crate::id::{PodId, Seq, StreamId, TurnId, WorkId};
use crate::manifest::Limits;
use crate::protocol::*;
use crate::spawn::WorkEnd;
use crate::store::{HistoryItem, TurnCause};
use crate::worker::TurnEnd;
use crate::{SpawnError, SpawnPod, WorkerSpec};

fn client(puppet: &Puppet) -> rpc::Client<Method> {
    rpc::Client::new(&puppet.pod.address())
}

fn run(work: u64) -> Run {
    Run { work: WorkId(work), input: "do it".into() }
}

/// A child's `seq`th report.
async fn report(puppet: &Puppet, child: &PodId, seq: u64) -> Result<EventAck, CallError<PodEventOffer>> {
    let event =
        PodEvent::TurnEnded { pod: child.clone(), work: WorkId(99), turn: TurnId(seq), result: TurnResult::Finished };
    let offer = PodEventOffer { from: child.clone(), stream: StreamId(5), seq: Seq(seq), event };
    within("the ack", client(puppet).call(offer)).await
}

async fn woke(puppet: &Puppet, child: &PodId, seq: u64) -> bool {
    report(puppet, child, seq).await.unwrap().woke
}

#[tokio::test(flavor = "multi_thread")]
async fn report_at_each_point_of_a_turn_is_in_its_next_request_or_starts_the_next() {
    let mut puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    assert!(woke(&puppet, &child, 1).await, "an idle pod is woken");
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    assert!(!woke(&puppet, &child, 2).await, "a running one is not");
    // What came with the turn, and what has come since.
    assert_eq!(puppet.told().await.len(), 2);
    assert!(!woke(&puppet, &child, 3).await);
    puppet.answered().await;
    assert_eq!(puppet.told().await.len(), 1);
    puppet.answered().await;
    // Behind the last request.
    assert!(!woke(&puppet, &child, 4).await);
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    assert_eq!(puppet.told().await.len(), 1);
    puppet.answered().await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    let again = report(&puppet, &child, 4).await.unwrap();
    assert_eq!((again.disposition, again.durable_seq, again.woke), (Disposition::Duplicate, Seq(4), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn report_that_was_not_answered_is_told_again_after_a_pause() {
    let mut puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    assert!(woke(&puppet, &child, 1).await);
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    let first = puppet.told().await;
    puppet.act(Act::Fail).await;
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    assert_eq!(puppet.told().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_of_a_process_that_is_not_the_child_is_refused() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let other = PodId { incarnation: crate::id::Incarnation(8), ..child.clone() };
    for stranger in [crate::store::fixture::pod("stranger", 1), other] {
        let refused = report(&puppet, &stranger, 1).await;
        assert!(matches!(refused, Err(CallError::Rejected(EventRejection::NotYourChild))), "{refused:?}");
    }
    puppet.pod.shared().registry.reaped(&child);
    let refused = report(&puppet, &child, 1).await;
    assert!(matches!(refused, Err(CallError::Rejected(EventRejection::NotYourChild))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_repeated_while_paused_is_told_its_turn_and_changes_nothing() {
    let mut puppet = Puppet::new().await;
    let accepted = client(&puppet).call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(client(&puppet).call(run(1)).await.unwrap(), accepted, "while it runs");
    let busy = client(&puppet).call(run(2)).await;
    assert!(matches!(busy, Err(CallError::Rejected(RunRejection::AlreadyRunning { turn })) if turn == accepted.turn));
    puppet.act(Act::End(TurnEnd::Paused)).await;
    puppet.state(PodState::Paused).await;
    assert_eq!(client(&puppet).call(run(1)).await.unwrap(), accepted, "while it is paused");
    assert_eq!(client(&puppet).call(Status).await.unwrap().state, PodState::Paused);
    client(&puppet).call(Resume).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_ended_is_told_with_its_turn_however_it_ends() {
    let mut puppet = Puppet::new().await;
    let failed = WorkEnd::Errored { message: "as it was told".into() };
    let ends = [
        (Act::End(TurnEnd::Finished), WorkEnd::TurnEnded(TurnResult::Finished)),
        (Act::End(TurnEnd::LimitReached), WorkEnd::TurnEnded(TurnResult::LimitReached)),
        (Act::End(TurnEnd::Cancelled), WorkEnd::TurnEnded(TurnResult::Cancelled)),
        (Act::End(TurnEnd::RolledBack), WorkEnd::TurnEnded(TurnResult::RolledBack)),
        (Act::Fail, failed),
        (Act::PanicAtOnce, WorkEnd::TurnEnded(TurnResult::Finished)),
    ];
    for (act, end) in ends {
        // Waits in the queue, so that the turn may end before `run` returns.
        puppet.act(act).await;
        let work = puppet.pod.run("do it").await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        assert_eq!(within("the end", work.ended()).await, end);
        puppet.state(PodState::Idle).await;
    }
    // Before its future is there.
    let work = puppet.pod.run("do it").await.unwrap();
    let WorkEnd::Errored { message } = within("the end", work.ended()).await else { panic!("no error") };
    assert!(message.contains("the worker panicked: as it was told"), "{message}");
    puppet.state(PodState::Idle).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    let work = puppet.pod.run("do it").await.unwrap();
    assert_eq!(within("the end", work.settled()).await, WorkResult::Finished, "with a new worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_deaf_to_signals_is_ended_and_its_late_word_harms_no_later_turn() {
    for (ends, end) in [(MethodKindToEnd::Cancel, TurnResult::Cancelled), (MethodKindToEnd::Pause, TurnResult::Paused)]
    {
        let mut puppet = Puppet::new().await;
        let work = puppet.pod.run("do it").await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        let ack = match ends {
            MethodKindToEnd::Cancel => client(&puppet).call(Cancel).await.unwrap(),
            MethodKindToEnd::Pause => client(&puppet).call(Pause).await.unwrap(),
        };
        assert_eq!(ack, ControlAck { state: PodState::Running, turn: Some(TurnId(1)), staged: true });
        assert_eq!(within("the end", work.ended()).await, WorkEnd::TurnEnded(end));
        puppet.act(Act::End(TurnEnd::Finished)).await;
        let next = puppet.pod.run("next").await.unwrap();
        assert_eq!(within("the end", next.ended()).await, WorkEnd::TurnEnded(TurnResult::Finished));
    }
}

enum MethodKindToEnd {
    Cancel,
    Pause,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_answered_while_a_turn_runs_and_while_the_pod_stops() {
    let mut puppet = Puppet::new().await;
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    let client = client(&puppet);
    assert_eq!(client.call(Status).await.unwrap().state, PodState::Running);
    let busy = client.call(Resume).await;
    assert!(matches!(busy, Err(CallError::Rejected(ControlRejection::AlreadyRunning { .. }))), "{busy:?}");
    client.call(Shutdown { mode: ShutdownMode::Graceful }).await.unwrap();
    assert_eq!(client.call(Status).await.unwrap().state, PodState::Stopping);
    let stopping = client.call(run(7)).await;
    assert!(matches!(stopping, Err(CallError::Rejected(RunRejection::Stopping))), "{stopping:?}");
    let spawn = SpawnPod::new("late".parse().unwrap(), WorkerSpec::ledger());
    assert!(matches!(puppet.pod.spawn_pod(spawn).await, Err(SpawnError::Stopping { .. })));
    let queued = puppet.pod.notify("kept for the next life").await.unwrap();
    assert!(!queued.woke);
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    client.call(Shutdown { mode: ShutdownMode::Now }).await.unwrap();
    puppet.expect(Said::Asked).await;
    assert_eq!(within("the end", work.ended()).await, WorkEnd::TurnEnded(TurnResult::Interrupted));
    let mut puppet = puppet.again(true).await;
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    assert_eq!(puppet.told().await, ["kept for the next life"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_pod_is_paused_in_its_next_life_and_says_so_at_once() {
    let mut puppet = Puppet::new().await;
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    puppet.state(PodState::Paused).await;
    assert!(!puppet.pod.notify("kept").await.unwrap().woke);
    puppet.pod.shutdown().await;
    // It is settled in a later life: whoever waits in this one is not left waiting.
    assert_eq!(within("the end", work.settled()).await, WorkResult::Interrupted);
    let mut puppet = puppet.again(true).await;
    assert_eq!(puppet.pod.status().await.unwrap().state, PodState::Paused);
    client(&puppet).call(Resume).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    assert_eq!(puppet.told().await, ["kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_of_a_reader_is_filed_when_the_next_life_reads_none() {
    let mut puppet = Puppet::new().await;
    let _work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert!(!puppet.pod.notify("kept").await.unwrap().woke);
    puppet.act(Act::EndWhenAsked(TurnEnd::Cancelled)).await;
    puppet.pod.shutdown().await;
    let puppet = puppet.again(false).await;
    let status = puppet.pod.status().await.unwrap();
    assert_eq!((status.state, status.inbox_waiting), (PodState::Idle, 0));
    // And nothing turns in circles: the history rests.
    let head = puppet.pod.store().history_head();
    let before = *head.borrow();
    assert_eq!(client(&puppet).call(Status).await.unwrap().history, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn child_whose_caller_went_away_has_its_end_and_holds_no_name() {
    let puppet = Puppet::new().await;
    let spawn = || SpawnPod::new("child".parse().unwrap(), WorkerSpec::ledger());
    {
        // The first poll begins it.
        let mut spawning = std::pin::pin!(puppet.pod.spawn_pod(spawn()));
        assert!(futures::poll!(&mut spawning).is_pending());
    }
    let ended = |lines: &[crate::ChildStatus]| lines.iter().any(|line| line.terminal.is_some()).then_some(());
    within("the child's end", puppet.pod.children_until(ended)).await;
    let error = puppet.pod.spawn_pod(spawn()).await.unwrap_err();
    assert!(matches!(error, SpawnError::DiedEarly { .. }), "{error}");
    let open = puppet.pod.store().read(|reads| Ok(reads.live_children()?.len())).await.unwrap();
    assert_eq!(open, 0);
    within("the end of the pod", puppet.pod.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_not_ready_is_signalled_when_the_pod_stops() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::TempDir::new().unwrap();
    let program = dir.path().join("never-ready");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let puppet = Puppet::with(tempfile::TempDir::new().unwrap(), true, false, &program).await;
    let pod = puppet.pod.clone();
    let spawning =
        tokio::spawn(async move { pod.spawn_pod(SpawnPod::new("child".parse().unwrap(), WorkerSpec::ledger())).await });
    within("the child's line", puppet.pod.children_until(|lines| (!lines.is_empty()).then_some(()))).await;
    within("the end of the pod", puppet.pod.shutdown()).await;
    let error = within("the answer", spawning).await.unwrap().unwrap_err();
    assert!(matches!(error, SpawnError::DiedEarly { .. }), "{error}");
    let ends: BTreeMap<_, _> = puppet.pod.children().into_iter().map(|line| (line.pod.name, line.terminal)).collect();
    let lost = crate::Terminal::Lost { reason: LostReason::Killed { signal: 15 } };
    assert_eq!(ends.into_values().collect::<Vec<_>>(), [Some(lost)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reporter_without_parent_says_nothing_and_stops_nothing() {
    let puppet = Puppet::new().await;
    fire_and_forget(puppet.pod.reporter(), PodEvent::ShutDown { pod: puppet.pod.id().clone() });
    fire_and_forget(&Reporter::none(), PodEvent::ShutDown { pod: puppet.pod.id().clone() });
    within("the end of the pod", puppet.pod.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_turn_that_they_are_about_and_cancel_of_a_paused_one_is_committed() {
    let mut puppet = Puppet::new().await;
    let client = client(&puppet);
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
    let pause = client.call(Pause).await.unwrap();
    assert_eq!(pause, ControlAck { state: PodState::Running, turn: Some(TurnId(1)), staged: true });
    puppet.expect(Said::Asked).await;
    puppet.state(PodState::Paused).await;
    let again = client.call(Pause).await.unwrap();
    assert_eq!(again, ControlAck { state: PodState::Paused, turn: Some(TurnId(1)), staged: false });
    let resumed = client.call(Resume).await.unwrap();
    assert_eq!(resumed, ControlAck { state: PodState::Running, turn: Some(TurnId(2)), staged: false });
    puppet.expect(Said::Started(TurnCause::Resume)).await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    puppet.state(PodState::Paused).await;
    let cancelled = client.call(Cancel).await.unwrap();
    assert_eq!(cancelled, ControlAck { state: PodState::Idle, turn: Some(TurnId(2)), staged: false });
    // With the answer it is so: nothing of it is left for a later life.
    let control = puppet.pod.store().read(|reads| reads.control()).await.unwrap();
    assert_eq!((control.state, control.turn), (PodState::Idle, None));
    assert_eq!(within("the end", work.settled()).await, WorkResult::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_cancel_and_resume_that_come_as_soon_as_an_end_is_told_are_taken() {
    let mut puppet = Puppet::new().await;
    let client = client(&puppet);
    // Whoever watches the file knows of an end as soon as it is committed, and often before the pod does.
    let mut head = puppet.pod.store().history_head();
    let mut told = 0;
    let store = puppet.pod.store().clone();
    let mut ended = async |times: usize| {
        within("the end", async {
            while told < times {
                head.changed().await.unwrap();
                let rows = store.read(|reads| reads.history_after(0, 100_000)).await.unwrap();
                told = rows.iter().filter(|row| row.item.kind() == "turn_ended").count();
            }
        })
        .await;
    };
    let mut ends = 0;
    for round in 0..20 {
        client.call(run(3 * round)).await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        puppet.act(Act::End(TurnEnd::Finished)).await;
        ends += 1;
        ended(ends).await;
        client.call(run(3 * round + 1)).await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        puppet.act(Act::End(TurnEnd::Paused)).await;
        ends += 1;
        ended(ends).await;
        client.call(Resume).await.unwrap();
        puppet.expect(Said::Started(TurnCause::Resume)).await;
        puppet.act(Act::End(TurnEnd::Paused)).await;
        ends += 1;
        ended(ends).await;
        assert!(!client.call(Cancel).await.unwrap().staged);
        ends += 1;
        client.call(run(3 * round + 2)).await.unwrap();
        puppet.expect(Said::Started(TurnCause::Run)).await;
        puppet.act(Act::Fail).await;
        ends += 1;
        ended(ends).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spawn_and_delegation_of_a_turn_that_is_over_start_nothing() {
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let spawn = SpawnPod::new("late".parse().unwrap(), WorkerSpec::ledger());
    let error = puppet.pod.spawn_pod_in(Some(TurnId(3)), spawn).await.unwrap_err();
    assert!(matches!(&error, SpawnError::Store(source) if source.to_string().contains("turn 3 is over")), "{error:?}");
    let error = puppet.pod.delegate(&child.name, Some(TurnId(3)), None, "x".into()).await.unwrap_err();
    assert!(
        matches!(&error, crate::RunError::Store(source) if source.to_string().contains("turn 3 is over")),
        "{error:?}"
    );
    let left = puppet
        .pod
        .store()
        .read(|reads| Ok((reads.live_children()?.len(), reads.works_open(crate::store::Direction::Delegated)?)));
    assert_eq!(left.await.unwrap(), (1, 0), "one was there before, and nothing was added");
}

/// Makes the store refuse that a turn becomes `state`, until it is let again: its end is then being committed for as long.
async fn hold(puppet: &Puppet, state: &'static str) {
    let sql = format!(
        "CREATE TRIGGER held BEFORE UPDATE OF state ON turns WHEN NEW.state = '{state}'
         BEGIN SELECT RAISE(ABORT, 'held by a test'); END"
    );
    puppet.pod.store().write(move |tx| tx.run(&sql, [])).await.unwrap();
}

async fn release(puppet: &Puppet) {
    puppet.pod.store().write(|tx| tx.run("DROP TRIGGER held", [])).await.unwrap();
}

/// Waits until the pod is trying to commit the end of its turn: from then on there is no turn that could be paused.
async fn ending(puppet: &Puppet) {
    within("the end that is being committed", async {
        while !matches!(client(puppet).call(Pause).await, Err(CallError::Rejected(ControlRejection::NotRunning))) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_comes_while_an_end_is_being_committed_is_taken_and_is_the_next() {
    let mut puppet = Puppet::new().await;
    let client = client(&puppet);
    client.call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    hold(&puppet, "ended").await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Finished)).await;
    ending(&puppet).await;
    puppet.expect(Said::Asked).await;
    let accepted = within("the answer", client.call(run(2))).await.unwrap();
    assert_eq!(accepted.turn, TurnId(2));
    let busy = within("the answer", client.call(run(3))).await;
    assert!(matches!(busy, Err(CallError::Rejected(RunRejection::AlreadyRunning { .. }))), "{busy:?}");
    assert_eq!(client.call(run(2)).await.unwrap(), accepted, "sent again it is told the same");
    release(&puppet).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_that_comes_while_a_turn_is_being_paused_is_answered_when_it_is_given_up() {
    let mut puppet = Puppet::new().await;
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    hold(&puppet, "paused").await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    let client = client(&puppet);
    over(&puppet).await;
    let cancelling = tokio::spawn(async move { client.call(Cancel).await });
    release(&puppet).await;
    let ack = within("the answer", cancelling).await.unwrap().unwrap();
    assert!(!ack.staged, "{ack:?}");
    let control = puppet.pod.store().read(|reads| reads.control()).await.unwrap();
    assert_eq!((control.state, control.turn), (PodState::Idle, None));
    assert_eq!(within("the end", work.settled()).await, WorkResult::Cancelled);
}

/// Waits until nothing of the worker is under way any more: the end of its turn is being committed.
async fn over(puppet: &Puppet) {
    within("the end that is being committed", async {
        while puppet.pod.live().0.turn.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_is_taken_before_the_end_it_follows_is_committed_starts_though_that_turn_is_paused() {
    let mut puppet = Puppet::new().await;
    let client = client(&puppet);
    client.call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    hold(&puppet, "paused").await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    over(&puppet).await;
    // Committed while the end is refused: what would lift a pause comes before the pause.
    within("the answer", client.call(run(2))).await.unwrap();
    let late = within("the answer", client.call(Resume)).await;
    assert!(matches!(late, Err(CallError::Rejected(ControlRejection::AlreadyRunning { .. }))), "{late:?}");
    release(&puppet).await;
    puppet.expect(Said::Started(TurnCause::Run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_of_what_is_never_paused_because_the_pod_stops_without_its_store_is_refused() {
    let mut puppet = Puppet::new().await;
    let _work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    hold(&puppet, "paused").await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    over(&puppet).await;
    let client = client(&puppet);
    let mut cancelling = std::pin::pin!(client.call(Cancel));
    assert!(futures::poll!(&mut cancelling).is_pending());
    client.call(Shutdown { mode: ShutdownMode::Graceful }).await.unwrap();
    let answer = within("the answer", cancelling).await;
    assert!(matches!(answer, Err(CallError::Rejected(ControlRejection::Unavailable { .. }))), "{answer:?}");
    within("the end of the pod", puppet.pod.wait()).await;
}

async fn refused_run(puppet: &Puppet, work: u64) -> RunRejection {
    match within("the answer", client(puppet).call(run(work))).await {
        Err(CallError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    }
}

/// A turn for reports, from its beginning to its end.
async fn tell(puppet: &mut Puppet) -> Vec<String> {
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    let told = puppet.told().await;
    puppet.answered().await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_beyond_the_bound_of_the_tree_is_refused_and_what_waits_is_kept_until_that_is_raised() {
    let cap = TurnCap::Turns { max: 2 };
    let mut puppet = Puppet::bounded(Limits { turns: 2, ..Limits::default() }).await;
    for note in ["first", "second"] {
        puppet.pod.notify(note).await.unwrap();
        assert_eq!(tell(&mut puppet).await, [note]);
    }
    puppet.pod.notify("third").await.unwrap();
    puppet.state(PodState::Blocked).await;
    let status = puppet.pod.status().await.unwrap();
    assert_eq!((status.state, status.blocked_by, status.inbox_waiting), (PodState::Blocked, Some(cap), 1));
    let report = crate::discovery::inspect(puppet.pod.roots(), &puppet.pod.id().name).unwrap();
    assert_eq!((report.state, report.blocked_by), (PodState::Blocked, Some(cap)));
    assert_eq!(refused_run(&puppet, 1).await, RunRejection::Cap { cap });
    let how = SendKind::FollowUp;
    let sent = client(&puppet).call(SendToPod { key: WorkId(2), how, text: "x".into() }).await;
    assert!(matches!(sent, Err(CallError::Rejected(SendRejection::Cap { cap: said })) if said == cap), "{sent:?}");
    let rows = puppet.pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    let blocks: Vec<_> = rows
        .into_iter()
        .filter_map(|row| match row.item {
            HistoryItem::Blocked { cap, reason } => Some((cap, reason)),
            _ => None,
        })
        .collect();
    assert_eq!(blocks, [(Some(cap), cap.to_string())]);
    assert!(cap.to_string().contains("`limits.turns`"), "{cap}");
    // A next life is of the same tree.
    puppet.pod.shutdown().await;
    let mut puppet = puppet.again(true).await;
    puppet.state(PodState::Blocked).await;
    assert_eq!(refused_run(&puppet, 1).await, RunRejection::Cap { cap });
    puppet.pod.shutdown().await;
    puppet.limits.turns = 4;
    let mut puppet = puppet.again(true).await;
    assert_eq!(tell(&mut puppet).await, ["third"]);
    assert_eq!(puppet.pod.status().await.unwrap().blocked_by, None);
    let accepted = client(&puppet).call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    // Sent again it is told the same, and not counted again.
    assert_eq!(client(&puppet).call(run(1)).await.unwrap(), accepted);
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    assert_eq!(client(&puppet).call(run(1)).await.unwrap(), accepted);
    assert_eq!(refused_run(&puppet, 3).await, RunRejection::Cap { cap: TurnCap::Turns { max: 4 } });
    assert_eq!(puppet.pod.status().await.unwrap().state, PodState::Idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_beyond_the_bound_of_the_tree_is_refused_and_leaves_what_is_paused() {
    let mut puppet = Puppet::bounded(Limits { turns: 1, ..Limits::default() }).await;
    let client = client(&puppet);
    client.call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::End(TurnEnd::Paused)).await;
    puppet.state(PodState::Paused).await;
    let resumed = within("the answer", client.call(Resume)).await;
    let cap = TurnCap::Turns { max: 1 };
    assert!(matches!(&resumed, Err(CallError::Rejected(ControlRejection::Cap { cap: said })) if *said == cap));
    assert_eq!(puppet.pod.status().await.unwrap().state, PodState::Paused);
    assert!(!within("the answer", client.call(Cancel)).await.unwrap().staged);
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_another_process_holds_stops_no_call_and_no_turn_for_longer() {
    let mut puppet = Puppet::bounded(Limits { turns: 9, ..Limits::default() }).await;
    let held = rusqlite::Connection::open(puppet.pod.roots().registry()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let client = client(&puppet);
    let mut running = std::pin::pin!(client.call(run(1)));
    assert!(futures::poll!(&mut running).is_pending());
    assert_eq!(client.call(Status).await.unwrap().state, PodState::Idle);
    let answer = within("the answer", running).await;
    assert!(matches!(answer, Err(CallError::Rejected(RunRejection::Unavailable { .. }))), "{answer:?}");
    puppet.pod.notify("kept").await.unwrap();
    puppet.state(PodState::Running).await;
    held.execute_batch("ROLLBACK").unwrap();
    assert_eq!(tell(&mut puppet).await, ["kept"]);
    client.call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_is_repeated_while_it_is_counted_is_told_its_turn_and_what_is_not_taken_costs_no_turn() {
    let mut puppet = Puppet::bounded(Limits { turns: 2, ..Limits::default() }).await;
    let client = client(&puppet);
    // What the store refuses is not counted for the next one.
    let refuse = "CREATE TRIGGER held BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    puppet.pod.store().write(move |tx| tx.run(refuse, [])).await.unwrap();
    for work in 10..15 {
        assert!(matches!(refused_run(&puppet, work).await, RunRejection::Unavailable { .. }));
    }
    release(&puppet).await;
    client.call(run(1)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    let accepted = client.call(run(2)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    assert_eq!(client.call(run(2)).await.unwrap(), accepted);
    puppet.act(Act::End(TurnEnd::Finished)).await;
    puppet.state(PodState::Idle).await;
    assert!(matches!(refused_run(&puppet, 3).await, RunRejection::Cap { .. }));

    // Nobody can count before both have come: the second one is a repeat of what is neither known nor refused yet.
    let mut puppet = Puppet::bounded(Limits { turns: 1, ..Limits::default() }).await;
    let held = puppet.pod.shared().member.registry().hold();
    let (one, other) = (self::client(&puppet), self::client(&puppet));
    let mut first = std::pin::pin!(one.call(run(7)));
    assert!(futures::poll!(&mut first).is_pending());
    assert_eq!(one.call(Status).await.unwrap().state, PodState::Idle);
    let mut second = std::pin::pin!(other.call(run(7)));
    assert!(futures::poll!(&mut second).is_pending());
    assert_eq!(other.call(Status).await.unwrap().state, PodState::Idle);
    drop(held);
    let accepted = Accepted { turn: TurnId(1), work: WorkId(7) };
    assert_eq!(within("the answer", first).await.unwrap(), accepted);
    assert_eq!(within("the answer", second).await.unwrap(), accepted);
    puppet.expect(Said::Started(TurnCause::Run)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_the_store_in_a_turn_is_said_to_be_the_stores_and_not_the_agents() {
    let mut puppet = Puppet::new().await;
    let work = puppet.pod.run("do it").await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.pod.notify("not staged").await.unwrap();
    let full = "CREATE TRIGGER held BEFORE UPDATE OF state ON inbox WHEN NEW.state = 'staged'
                BEGIN SELECT RAISE(ABORT, 'held by a test'); END";
    puppet.pod.store().write(move |tx| tx.run(full, [])).await.unwrap();
    puppet.act(Act::Request).await;
    let end = within("the end", work.ended()).await;
    assert!(matches!(&end, WorkEnd::Errored { message } if message.contains("held by a test")), "{end:?}");
    let failure = puppet.pod.status().await.unwrap().last_failure.unwrap();
    assert_eq!((failure.turn, failure.kind), (TurnId(1), FailureKind::Store));
    release(&puppet).await;
    puppet.expect(Said::Started(TurnCause::Reports)).await;
    assert_eq!(puppet.told().await, ["not staged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_whose_parent_has_left_too_much_unacknowledged_takes_work_and_starts_it_when_there_is_room() {
    let mut puppet = Puppet::with_outbox(3).await;
    // As if it had raised three events of which none is acked.
    puppet.pod.store().write(|tx| tx.set_meta_number("next_seq", 4)).await.unwrap();
    let client = client(&puppet);
    let accepted = client.call(run(1)).await.unwrap();
    // Answered when a start was put off; and asked of the one that follows.
    let ack = within("the answer", client.call(Pause)).await.unwrap();
    assert_eq!(ack, ControlAck { state: PodState::Running, turn: None, staged: true });
    assert!(puppet.pod.notify("kept").await.is_ok());
    let status = client.call(Status).await.unwrap();
    assert_eq!((status.runs_staged, status.inbox_waiting, status.works_received_open), (1, 1, 1));
    let rows = puppet.pod.store().read(|reads| reads.history_after(0, 100)).await.unwrap();
    assert!(rows.iter().all(|row| row.item.kind() != "turn_started"), "{rows:?}");
    puppet.pod.store().write(|tx| tx.set_meta_number("acked_seq", 3)).await.unwrap();
    puppet.expect(Said::Started(TurnCause::Run)).await;
    puppet.act(Act::EndWhenAsked(TurnEnd::Paused)).await;
    puppet.expect(Said::Asked).await;
    puppet.state(PodState::Paused).await;
    assert_eq!(client.call(Status).await.unwrap().turn, Some(accepted.turn));
}
