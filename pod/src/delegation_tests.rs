//! Work in doubt, with a child that this test plays: its socket is real, its life lock is held, its answers are a script.

use crate::RunError;
use crate::fixture::{Puppet, adopt_this_process, within};
use crate::id::{PodId, TurnId, WorkId};
use crate::life_lock::LifeLock;
use crate::protocol::{Accepted, Method, MethodCall, Run, RunRejection, WorkResult};
use crate::store::{Direction, WorkRow};

/// A child whose answers are given here.
struct Played {
    pod: PodId,
    calls: rpc::Calls<Method>,
    _server: rpc::Server,
    _lock: LifeLock,
}

impl Played {
    async fn of(puppet: &Puppet) -> Self {
        let pod = adopt_this_process(&puppet.pod, "child").await;
        let paths = puppet.pod.roots().pod(&pod.name);
        paths.make_state_dir().unwrap();
        let lock = LifeLock::acquire(&paths.life_lock(), &pod).unwrap();
        paths.claim(&pod).unwrap();
        let (server, calls) = rpc::serve_calls::<Method>(&rpc::Address::unix(paths.socket()), 16).await.unwrap();
        Self { pod, calls, _server: server, _lock: lock }
    }

    /// The next run that it is asked for.
    async fn asked(&mut self) -> (Run, rpc::Responder<Run>) {
        within("the run", async {
            loop {
                if let MethodCall::Run(run, responder) = self.calls.recv().await.unwrap() {
                    return (run, responder);
                }
            }
        })
        .await
    }
}

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
    let mut child = Played::of(&puppet).await;
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
    let mut child = Played::of(&puppet).await;
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
    let mut child = Played::of(&puppet).await;
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
