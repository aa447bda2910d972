//! Whoever reports as a child that it is not is refused, and the log says who, as whom, and to whom.
//!
//! What is logged is heard on this test's own thread, on which the whole pod runs.

use std::io::Write;
use std::sync::{Arc, Mutex};

use rpc::CallError;

use crate::event::settle_dead_child;
use crate::fixture::Puppet;
use crate::id::{Incarnation, PodId, Seq, StreamId};
use crate::protocol::{
    ChildReady, ChildRejection, EventRejection, LostReason, Method, PodEvent, PodEventOffer, TurnResult,
};
use crate::store::EndOfLife;

/// What is logged, as it would be written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// One line has all of these words, and it is the only one that was refused since the last look.
    #[track_caller]
    fn says(&self, words: &[&str]) {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| line.contains("pod::refused")).collect();
        let [line] = lines[..] else { panic!("not one refusal, but {lines:?}") };
        for word in words {
            assert!(line.contains("WARN") && line.contains(word), "`{word}` is not in: {line}");
        }
    }
}

fn offer(from: &PodId, seq: u64, about: &PodId) -> PodEventOffer {
    let event = PodEvent::TurnEnded {
        pod: about.clone(),
        work: crate::id::WorkId(1),
        turn: crate::id::TurnId(1),
        result: TurnResult::Finished,
    };
    PodEventOffer { from: from.clone(), stream: StreamId(5), seq: Seq(seq), event }
}

#[tokio::test]
async fn forged_sender_and_stale_life_are_refused_and_logged() {
    let (log, _listening) = Log::listen();
    let puppet = Puppet::new().await;
    let child = puppet.adopt_this_process("child").await;
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let rejection = async |offer: PodEventOffer| match client.call(offer).await {
        Err(CallError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    };
    let own = format!("pid: Some({})", std::process::id());
    let says = async |offer: PodEventOffer, expected: EventRejection, words: &[&str]| {
        let claims = format!("claims={}", offer.from);
        assert_eq!(rejection(offer).await, expected);
        log.says(&[&[own.as_str(), "pod=puppet", claims.as_str()], words].concat());
    };
    // As a sibling, or as a life that this process is not.
    let sibling = PodId::new("sibling".parse().unwrap(), Incarnation(7));
    says(offer(&sibling, 1, &sibling), EventRejection::NotYourChild, &["not that child"]).await;
    let old = PodId { incarnation: Incarnation(6), ..child.clone() };
    says(offer(&old, 1, &old), EventRejection::NotYourChild, &["not that child"]).await;
    // As itself, when its life is over for its parent.
    let end = EndOfLife::Dead(LostReason::Killed { signal: 9 });
    settle_dead_child(puppet.pod.store(), &child, end).await.unwrap();
    let stale = EventRejection::StaleIncarnation { current: child.incarnation };
    says(offer(&child, 9, &child), stale, &["rejection="]).await;

    let ready = |pod: &PodId| ChildReady {
        pod: pod.clone(),
        stream: StreamId(5),
        pid: 1,
        socket: "/s".into(),
        detached: false,
    };
    let refused = client.call(ready(&sibling)).await;
    assert!(matches!(refused, Err(CallError::Rejected(ChildRejection::NotYourChild))), "{refused:?}");
    log.says(&["says that it is ready", "sibling"]);
    let refused = client.call(ready(&child)).await;
    assert!(matches!(refused, Err(CallError::Rejected(_))), "{refused:?}");
    log.says(&["says that it is ready", "child@", "rejection="]);
}
