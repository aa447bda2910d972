//! Observers of a real pod, over its socket.

use std::collections::BTreeMap;

use rpc::CallError;
use tempfile::TempDir;

use super::*;
use crate::fixture::{Puppet, within};
use crate::handle::{PodController, PodHandle, PodOptions};
use crate::manifest::WorkerSpec;
use crate::protocol::{Method, PodState};
use crate::runtime_dir::Roots;
use crate::store::{HistoryItem, OutputKind};
use crate::worker::{Producing, ToolCall, TurnContext, TurnEnd, Worker, WorkerError, Workers};

async fn watch(pod: &PodHandle, from: u64) -> Watch {
    let client = rpc::Client::<Method>::new(&pod.address());
    within("the subscription", Watch::open(&client, from)).await.unwrap()
}

async fn next(watch: &mut Watch) -> Seen {
    within("what comes next", watch.next()).await.expect("the stream goes on").unwrap()
}

/// Reads up to and including the entry `upto`.
async fn read_to(watch: &mut Watch, upto: u64) {
    while watch.cursor() < upto {
        next(watch).await;
    }
}

async fn write(pod: &PodHandle, text: &str) {
    let item = HistoryItem::Output { output: OutputKind::Text, text: text.to_owned() };
    pod.commit(move |tx| tx.append(None, None, &item)).await.unwrap();
}

async fn head(pod: &PodHandle) -> u64 {
    pod.store().read(|reads| reads.history_head()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_sees_every_entry_once_in_order_and_then_every_commit() {
    let puppet = Puppet::new().await;
    // More than a batch.
    for _ in 0..4 {
        write(&puppet.pod, &"x".repeat(BATCH_BYTES / 2)).await;
    }
    let committed = head(&puppet.pod).await;
    // A gap or an overlap is an error of the watch.
    let mut all = watch(&puppet.pod, 0).await;
    while !matches!(next(&mut all).await, Seen::CaughtUp) {}
    assert_eq!((all.cursor(), all.is_whole(), all.state()), (committed, true, Some(PodState::Idle)));
    for number in 1..=3 {
        write(&puppet.pod, "new").await;
        assert!(matches!(next(&mut all).await, Seen::Entry { head, .. } if head.seq == committed + number));
    }
    let mut later = watch(&puppet.pod, committed).await;
    assert!(matches!(next(&mut later).await, Seen::Entry { head, .. } if head.seq == committed + 1), "goes on");
    puppet.pod.shutdown().await;
    while within("the end of the stream", all.next()).await.is_some_and(|seen| seen.is_ok()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_that_knows_more_than_there_is_is_told_so() {
    let puppet = Puppet::new().await;
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let committed = head(&puppet.pod).await;
    let refused = within("the answer", Watch::open(&client, committed + 1)).await;
    let beyond = SubscribeRejection::BeyondHead { head: committed };
    assert!(matches!(refused, Err(CallError::Rejected(why)) if why == beyond));
    // What is committed in this very moment is there, however far the tail has come.
    for _ in 0..50 {
        write(&puppet.pod, "new").await;
        let committed = head(&puppet.pod).await;
        let mut watch = watch(&puppet.pod, committed).await;
        while !matches!(next(&mut watch).await, Seen::CaughtUp) {}
        assert_eq!(watch.cursor(), committed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_last_is_shown_before_a_stream_ends_without_an_error() {
    let dir = TempDir::new().unwrap();
    let puppet = Puppet::at(dir, true, false).await;
    let mut reads = watch(&puppet.pod, 0).await;
    while !matches!(next(&mut reads).await, Seen::CaughtUp) {}
    let mut limits = rpc::Limits::default();
    (limits.stream_items, limits.stream_bytes) = (2, 4096);
    let narrow = rpc::Client::<Method>::with_limits(&puppet.pod.address(), limits);
    let mut sleeps = within("the subscription", Watch::open(&narrow, 0)).await.unwrap();
    // Many who watch are shown what is new seldom: it is not shown before the end by chance.
    let seats: Vec<_> =
        (0..OBSERVERS_MAX / 2).map(|_| puppet.pod.shared().tail.sit(puppet.pod.shared(), Some(1)).unwrap()).collect();
    read_to(&mut reads, head(&puppet.pod).await).await;
    for _ in 0..10 {
        write(&puppet.pod, &"x".repeat(50_000)).await;
    }
    write(&puppet.pod, "the last word").await;
    let store = puppet.pod.roots().pod(&puppet.pod.id().name).store();
    within("the end of the pod", puppet.pod.shutdown()).await;
    let committed = crate::store::StoreReader::open(store).unwrap().look(|reads| reads.history_head()).unwrap();
    loop {
        match within("the end of the stream", reads.next()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("{error}: whoever reads is shown all of it"),
            None => break,
        }
    }
    assert_eq!(reads.cursor(), committed);
    let end = loop {
        match within("the end of the stream", sleeps.next()).await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_some() || sleeps.cursor() == committed, "it was cut off at {} and not told so", sleeps.cursor());
    drop(seats);
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_that_is_missing_ends_a_stream_with_an_error() {
    let puppet = Puppet::new().await;
    for _ in 0..5 {
        write(&puppet.pod, "x").await;
    }
    let gone = head(&puppet.pod).await - 2;
    let delete = move |tx: &crate::store::Tx<'_>| tx.run("DELETE FROM history WHERE seq = ?1", [gone.cast_signed()]);
    puppet.pod.store().write(delete).await.unwrap();
    let mut watch = watch(&puppet.pod, 0).await;
    let error = loop {
        match within("what comes next", watch.next()).await.expect("no end without an error") {
            Ok(seen) => assert!(!matches!(seen, Seen::CaughtUp), "entry {gone} was passed over"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, WatchError::Stream(rpc::StreamError::Aborted)), "{error:?}");
    assert!(watch.cursor() < gone, "{} is shown behind {gone}, which is missing", watch.cursor());
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_do_not_wait_for_whoever_reads_the_store_for_the_pod() {
    let puppet = Puppet::new().await;
    write(&puppet.pod, "x").await;
    let committed = head(&puppet.pod).await;
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    let store = puppet.pod.store().clone();
    let holds = tokio::spawn(async move {
        let hold = move |_: &crate::store::Reads<'_>| {
            began.send(()).unwrap();
            held.recv().ok();
            Ok(())
        };
        store.read(hold).await
    });
    begun.await.unwrap();
    let mut watch = watch(&puppet.pod, 0).await;
    read_to(&mut watch, committed).await;
    go_on.send(()).unwrap();
    holds.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_beyond_the_bound_is_refused_and_takes_no_seat() {
    let puppet = Puppet::new().await;
    let tail = &puppet.pod.shared().tail;
    let seats: Vec<_> =
        (0..OBSERVERS_MAX).map(|number| tail.sit(puppet.pod.shared(), Some(number.cast_signed())).unwrap()).collect();
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let refused = within("the answer", Watch::open(&client, 0)).await;
    let full = SubscribeRejection::TooManyObservers { max: OBSERVERS_MAX };
    assert!(matches!(refused, Err(CallError::Rejected(why)) if why == full));
    assert_eq!(tail.observers(), OBSERVERS_MAX);
    drop(seats);
    let gone = watch(&puppet.pod, 0).await;
    assert_eq!(tail.observers(), 1);
    drop(gone);
    // Who goes is noticed at the latest when another one comes; nothing need be committed for that.
    within("the free seat", async {
        while tail.observers() > 0 {
            let seat = tail.sit(puppet.pod.shared(), None);
            tokio::task::yield_now().await;
            drop(seat);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_takes_all_seats_that_it_may_leaves_some_to_others() {
    let puppet = Puppet::new().await;
    let (tail, shared) = (&puppet.pod.shared().tail, puppet.pod.shared());
    let mut seats = Vec::new();
    for process in 1..=2 {
        let before = seats.len();
        let refused = loop {
            match tail.sit(shared, Some(process)) {
                Ok(seat) => seats.push(seat),
                Err(refused) => break refused,
            }
        };
        let own = seats.len() - before;
        assert_eq!(refused, NoSeat::OneProcess(u32::try_from(own).unwrap()));
        assert!(own >= 5, "process {process} got {own}");
    }
    // One that comes later, by the front door.
    let mut later = watch(&puppet.pod, 0).await;
    while !matches!(next(&mut later).await, Seen::CaughtUp) {}
    let mine: Vec<_> = std::iter::from_fn(|| tail.sit(shared, Some(std::process::id().cast_signed())).ok()).collect();
    let client = rpc::Client::<Method>::new(&puppet.pod.address());
    let refused = within("the answer", Watch::open(&client, 0)).await;
    let max = u32::try_from(mine.len() + 1).unwrap();
    assert!(matches!(refused, Err(CallError::Rejected(why)) if why == SubscribeRejection::TooManyOfOneProcess { max }));
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_of_which_nobody_is_left_ends_and_begins_again() {
    let puppet = Puppet::new().await;
    for round in 0..3 {
        let mut watch = watch(&puppet.pod, 0).await;
        write(&puppet.pod, &round.to_string()).await;
        let committed = head(&puppet.pod).await;
        read_to(&mut watch, committed).await;
        drop(watch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn observer_that_does_not_read_delays_no_commit_and_finds_all_of_it_later() {
    let puppet = Puppet::new().await;
    let mut late = watch(&puppet.pod, 0).await;
    // More than the ring, the queue of a stream and the socket hold together.
    let text = "x".repeat(60_000);
    let mut prompt = watch(&puppet.pod, 0).await;
    for _ in 0..160 {
        write(&puppet.pod, &text).await;
    }
    let committed = head(&puppet.pod).await;
    read_to(&mut prompt, committed).await;
    read_to(&mut late, committed).await;
}

/// Numbers, streamed and then committed, of two kinds; what is given up is streamed again.
struct Counting {
    seed: u64,
}

impl Counting {
    fn dice(&mut self, sides: u64) -> u64 {
        // Knuth's constants for a linear congruential generator; the upper bits are good enough for a test.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % sides
    }
}

impl Worker for Counting {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> futures::future::BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let steps: u64 = cx.input().and_then(|input| input.parse().ok()).unwrap();
            let mut counted = BTreeMap::new();
            for step in 0..steps {
                let output = if self.dice(3) == 0 { OutputKind::Thinking } else { OutputKind::Text };
                let from = *counted.entry(output as u8).or_insert(1_u64);
                let upto = from + self.dice(40);
                let numbers =
                    |range: std::ops::Range<u64>| range.map(|number| format!("{number} ")).collect::<String>();
                for number in from..upto {
                    cx.delta(output, &numbers(number..number + 1));
                    if self.dice(8) == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                match self.dice(6) {
                    0 => cx.retrying(1, Duration::ZERO, "again").await?,
                    1 => {
                        let tool = cx.tool(ToolCall::new("count", serde_json::json!({ "step": step }))).await?;
                        tool.progress("half");
                        tool.done("counted").await?;
                        cx.produce(output, &numbers(from..upto)).await?;
                        counted.insert(output as u8, upto);
                    }
                    _ => {
                        cx.produce(output, &numbers(from..upto)).await?;
                        counted.insert(output as u8, upto);
                    }
                }
            }
            Ok(TurnEnd::Finished)
        })
    }
}

/// What one observer makes of a turn of [`Counting`]: per kind, how far it was counted by entries.
#[derive(Default)]
struct Count {
    committed: BTreeMap<String, u64>,
    checked: u64,
}

impl Count {
    fn see(&mut self, watch: &Watch, seen: &Seen) {
        if let Seen::Entry { head, line } = seen
            && head.kind == "output"
        {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let output = entry["output"].as_str().unwrap().to_owned();
            let next = self.committed.entry(output).or_insert(1);
            for number in entry["text"].as_str().unwrap().split_whitespace() {
                assert_eq!(number.parse::<u64>().unwrap(), *next, "in {line}");
                *next += 1;
            }
        }
        if !watch.is_whole() {
            return;
        }
        for piece in &watch.picture().pieces {
            // What is in flight begins where what is committed ends, and has each number once.
            let next = *self.committed.get(&piece.output).unwrap_or(&1);
            assert_eq!(piece.left_out, 0, "nothing is left out that is whole: {piece:?}");
            for (next, number) in (next..).zip(piece.text.split_whitespace()) {
                assert_eq!(number.parse::<u64>().unwrap(), next, "behind {seen:?}: {piece:?}");
            }
            self.checked += 1;
        }
    }
}

async fn counting(dir: &TempDir, seed: u64) -> PodHandle {
    let workers = Workers::builtin().with("counting", move |_| Ok(Box::new(Counting { seed })));
    let options = PodOptions::new("counting".parse().unwrap(), WorkerSpec::of_kind("counting"))
        .workers(workers)
        .roots(Roots::at(&dir.path().join("pods")).unwrap())
        .program("/bin/false");
    PodController::spawn(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_that_come_at_any_moment_show_every_byte_once_and_end_with_what_is_committed() {
    let dir = TempDir::new().unwrap();
    let pod = counting(&dir, 42).await;
    let work = pod.run("300").await.unwrap();
    let observing = (0..12_u32).map(|number| {
        let pod = pod.clone();
        tokio::spawn(async move {
            // Some of them take little at a time, so that much is left out for them.
            let mut limits = rpc::Limits::default();
            if number % 3 == 2 {
                (limits.stream_items, limits.stream_bytes) = (2, 4096);
            }
            let client = rpc::Client::<Method>::with_limits(&pod.address(), limits);
            let (mut count, mut lives) = (Count::default(), 0);
            let mut cursor = 0;
            'watching: loop {
                let mut watch = within("the subscription", Watch::open(&client, cursor)).await.unwrap();
                lives += 1;
                let mut seen = 0;
                loop {
                    let next = next(&mut watch).await;
                    count.see(&watch, &next);
                    cursor = watch.cursor();
                    if matches!(&next, Seen::Entry { head, .. } if head.kind == "turn_ended") {
                        break 'watching;
                    }
                    seen += 1;
                    // Most go and come again in the middle of everything.
                    if number % 4 != 0 && seen > 40 + number {
                        break;
                    }
                    if number % 3 == 2 {
                        tokio::task::yield_now().await;
                    }
                }
            }
            (count.committed, count.checked, lives)
        })
    });
    let observing: Vec<_> = observing.collect();
    within("the end", work.ended()).await;
    let rows = pod.store().read(|reads| reads.history_after(0, u32::MAX)).await.unwrap();
    let mut committed: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        if let HistoryItem::Output { output, text } = row.item {
            let output = if output == OutputKind::Text { "text" } else { "thinking" };
            *committed.entry(output.to_owned()).or_insert(1) += text.split_whitespace().count() as u64;
        }
    }
    let mut pieces = 0;
    for observer in observing {
        let (found, checked, _) = within("what it has seen", observer).await.unwrap();
        assert_eq!(found, committed);
        pieces += checked;
    }
    assert!(pieces > 0, "nobody saw anything in flight");
    pod.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_is_faster_than_everybody_is_shown_whole_in_the_end() {
    let puppet = Puppet::new().await;
    let mut watch = watch(&puppet.pod, 0).await;
    while !matches!(next(&mut watch).await, Seen::CaughtUp) {}
    let (live, turn) = (&puppet.pod.shared().live, crate::id::TurnId(9));
    live.begin(turn);
    // Far more than its queue holds, without a pause; and what follows when the queue has been given up.
    let mut said = String::new();
    for number in 0..5000 {
        let text = format!("{number} ");
        live.delta(turn, Producing::Output(OutputKind::Text), &text);
        said.push_str(&text);
    }
    let whole = |watch: &Watch| watch.is_whole() && watch.picture().pieces.iter().any(|piece| piece.text == said);
    while !whole(&watch) {
        next(&mut watch).await;
    }
    live.delta(turn, Producing::Output(OutputKind::Text), "more");
    while !watch.picture().pieces.iter().any(|piece| piece.text.ends_with(" more")) {
        next(&mut watch).await;
    }
    live.over(turn);
    while !watch.picture().pieces.is_empty() {
        next(&mut watch).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_in_mid_turn_is_shown_what_is_in_flight() {
    let dir = TempDir::new().unwrap();
    let spec = WorkerSpec::scripted(
        "runs = [[{ delta = 'he' }, { delta = 'llo' },
                  { tool = { name = 'wait', progress = ['never'], pause_ms = 600000 } }]]",
        "the script",
    );
    let options = PodOptions::new("shown".parse().unwrap(), spec.unwrap())
        .roots(Roots::at(&dir.path().join("pods")).unwrap())
        .program("/bin/false");
    let pod = PodController::spawn(options).await.unwrap();
    pod.run("do it").await.unwrap();
    let mut first = watch(&pod, 0).await;
    // What is in flight may be left out for a moment, and then comes whole: until all of it is there.
    let is_whole = |picture: &Picture| {
        picture.pieces.first().is_some_and(|piece| piece.text == "hello") && !picture.calls.is_empty()
    };
    while !is_whole(first.picture()) {
        next(&mut first).await;
    }
    let mut second = watch(&pod, first.cursor()).await;
    while !matches!(next(&mut second).await, Seen::CaughtUp) {}
    assert_eq!(second.picture(), first.picture());
    let piece = &second.picture().pieces[0];
    assert_eq!((piece.output.as_str(), piece.text.as_str(), piece.left_out), ("text", "hello", 0));
    assert_eq!(second.picture().calls[0].tool, "wait");
    assert_eq!(second.state(), Some(PodState::Running));
    rpc::Client::<Method>::new(&pod.address()).call(crate::protocol::Cancel).await.unwrap();
    while second.picture() != &Picture::default() {
        next(&mut second).await;
    }
    within("the end", pod.shutdown()).await;
}
