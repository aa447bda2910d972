//! A worker of the kind that talks to a model, written with nothing but what the crate shows: that it fits in is the claim.
//!
//! It has no memory of its own. Each request is made from what is committed, so that a crash, a rewind and a compaction
//! need nothing from it. The model is a function of the request.

use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use pod::id::TurnId;
use pod::protocol::{Compact, ListRewindTargets, PodState, RewindAck, RewindChildren, RewindTo, Status};
use pod::store::{HistoryItem, OutputKind};
use pod::worker::{Compaction, LiveItem, Signal, Usage};
use pod::{Method, PodController, PodHandle, PodOptions, Roots, Worker, WorkerError, WorkerSpec, Workers};
use pod::{TurnContext, TurnEnd, TurnResult, WorkEnd};
use tempfile::TempDir;

/// Messages that a request may hold before it has to be made shorter.
const MESSAGES_MAX: usize = 12;
const SOON: Duration = Duration::from_secs(20);

struct Agent;

/// What a model says to a request.
struct Reply {
    text: String,
    tools: Vec<String>,
    /// What was produced before the attempt failed, if it did.
    failed: Option<&'static str>,
}

fn model(request: &[String], attempt: u32) -> Reply {
    let last = request.last().map_or("", String::as_str);
    let tools = match last.strip_prefix("user: look at ") {
        Some(places) => places.split(" and ").map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let failed = (attempt == 0 && last.ends_with("twice")).then_some("half an ans");
    Reply { text: format!("{} messages, the last one: {last}", request.len()), tools, failed }
}

/// What the model is asked: the summary, and all that counts behind it.
async fn request(cx: &TurnContext) -> Result<Vec<String>, WorkerError> {
    let summary = cx.summary().await?.map(|summary| format!("so far: {}", summary.text));
    let mut messages: Vec<String> = summary.into_iter().collect();
    let mut cursor = 0;
    loop {
        let page = cx.context_after(cursor).await?;
        let Some(last) = page.last() else { return Ok(messages) };
        cursor = last.seq;
        messages.extend(page.iter().filter_map(|row| match &row.item {
            HistoryItem::UserInput { text, .. } => Some(format!("user: {text}")),
            HistoryItem::Output { output: OutputKind::Text, text } => Some(format!("agent: {text}")),
            HistoryItem::SystemItem(item) => Some(format!("report: {}", item.text())),
            HistoryItem::ToolResult { text, .. } => Some(format!("tool: {text}")),
            _ => None,
        }));
    }
}

impl Worker for Agent {
    fn compacts(&self) -> bool {
        true
    }

    fn rewinds(&self) -> bool {
        true
    }

    fn turn<'a>(&'a mut self, cx: &'a mut TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                cx.next_request().await?;
                let messages = request(cx).await?;
                if messages.len() > MESSAGES_MAX {
                    let summary = format!("{} messages", messages.len());
                    cx.compacted(Compaction { summary, upto: None }).await?;
                    cx.continuing("the context was too long").await?;
                    continue;
                }
                let reply = model(&messages, attempt);
                if let Some(produced) = reply.failed {
                    attempt += 1;
                    cx.delta(OutputKind::Text, produced);
                    cx.retrying(attempt, Duration::from_millis(1), "overloaded").await?;
                    match cx.rest(Duration::from_millis(1)).await {
                        Some(Signal::Pause) => return Ok(TurnEnd::Paused),
                        Some(Signal::Cancel | Signal::Shutdown) => return Ok(TurnEnd::Cancelled),
                        None => continue,
                    }
                }
                cx.response_received().await?;
                for piece in reply.text.split_inclusive(' ') {
                    cx.delta(OutputKind::Text, piece);
                }
                cx.output(&reply.text).await?;
                cx.usage(Usage { input_tokens: messages.len() as u64, output_tokens: 1, cached_tokens: 0 }).await?;
                if reply.tools.is_empty() {
                    return Ok(TurnEnd::Finished);
                }
                try_join_all(reply.tools.iter().map(|place| look(cx, place))).await?;
            }
        })
    }

    fn compact<'a>(&'a mut self, cx: &'a mut TurnContext) -> BoxFuture<'a, Result<Compaction, WorkerError>> {
        Box::pin(async move {
            let summary = format!("{} messages", request(cx).await?.len());
            Ok(Compaction { summary, upto: None })
        })
    }
}

async fn look(cx: &TurnContext, place: &str) -> Result<String, WorkerError> {
    let used = cx.tool("look", serde_json::json!({ "at": place })).await?;
    used.progress("looking");
    used.done(&format!("{place} is there")).await
}

async fn start(dir: &TempDir) -> PodHandle {
    let options = PodOptions::new("agent".parse().unwrap(), WorkerSpec::of_kind("agent"))
        .workers(Workers::builtin().with("agent", |_| Ok(Box::new(Agent))))
        .roots(Roots::at(&dir.path().join("pods")).unwrap());
    PodController::spawn(options).await.unwrap()
}

/// Asks the agent, and returns the last thing that it has said then.
async fn say(pod: &PodHandle, text: &str) -> String {
    idle(pod).await;
    let work = pod.run(text).await.unwrap();
    let end = tokio::time::timeout(SOON, work.ended()).await.unwrap();
    assert_eq!(end, WorkEnd::TurnEnded(TurnResult::Finished));
    outputs(pod).await.pop().unwrap()
}

async fn idle(pod: &PodHandle) {
    let client = rpc::Client::<Method>::new(&pod.address());
    let rests = async {
        while client.call(Status).await.unwrap().state != PodState::Idle {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, rests).await.unwrap();
}

async fn items(pod: &PodHandle) -> Vec<HistoryItem> {
    let rows = pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap();
    rows.into_iter().map(|row| row.item).collect()
}

async fn outputs(pod: &PodHandle) -> Vec<String> {
    let texts = items(pod).await.into_iter().filter_map(|item| match item {
        HistoryItem::Output { text, .. } => Some(text),
        _ => None,
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_without_memory_goes_on_after_its_end_and_forgets_what_it_is_told_to() {
    let dir = TempDir::new().unwrap();
    let pod = start(&dir).await;
    assert_eq!(say(&pod, "hello").await, "1 messages, the last one: user: hello");
    assert_eq!(say(&pod, "again").await, "3 messages, the last one: user: again");
    pod.shutdown().await;
    let pod = start(&dir).await;
    assert_eq!(say(&pod, "and now").await, "5 messages, the last one: user: and now");
    idle(&pod).await;
    let client = rpc::Client::<Method>::new(&pod.address());
    let head = client.call(ListRewindTargets).await.unwrap().head;
    let request = RewindTo { target: TurnId(2), expected_head: head, children: RewindChildren::Refuse };
    let RewindAck::Rewound(back) = client.call(request).await.unwrap() else { panic!("not rewound") };
    assert_eq!(back.input.as_deref(), Some("again"));
    assert_eq!(say(&pod, "otherwise").await, "3 messages, the last one: user: otherwise");
    idle(&pod).await;
    client.call(Compact).await.unwrap();
    assert_eq!(say(&pod, "what was it").await, "2 messages, the last one: user: what was it");
    pod.shutdown().await;
    let pod = start(&dir).await;
    assert_eq!(say(&pod, "and since").await, "4 messages, the last one: user: and since");
    pod.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_uses_tools_side_by_side_repeats_what_failed_and_shows_what_it_does() {
    let dir = TempDir::new().unwrap();
    let pod = start(&dir).await;
    let (_, mut live) = pod.live();
    let answer = say(&pod, "look at here and there").await;
    assert!(answer.starts_with("4 messages, the last one: tool: "), "{answer}");
    say(&pod, "say it twice").await;
    let history = items(&pod).await;
    let count = |kind: &str| history.iter().filter(|item| item.kind() == kind).count();
    assert_eq!((count("tool_call"), count("tool_result"), count("retrying"), count("usage")), (2, 2, 1, 3));
    let said = outputs(&pod).await;
    let (mut shown, mut discarded, mut piece) = (Vec::new(), 0, String::new());
    let mut turns = 0;
    while turns < 2 {
        match tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap() {
            LiveItem::Delta { text, .. } => piece.push_str(&text),
            LiveItem::PieceOver { committed: true, .. } => shown.push(std::mem::take(&mut piece)),
            LiveItem::PieceOver { committed: false, .. } => {
                discarded += 1;
                assert_eq!(std::mem::take(&mut piece), "half an ans");
            }
            LiveItem::TurnOver { .. } => turns += 1,
            LiveItem::Progress { text, .. } => assert_eq!(text, "looking"),
            LiveItem::Missed => panic!("missed"),
        }
    }
    assert_eq!((shown, discarded), (said, 1), "what was shown is what is committed");
    pod.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_whose_context_is_too_long_makes_it_shorter_in_the_middle_of_a_turn() {
    let dir = TempDir::new().unwrap();
    let pod = start(&dir).await;
    for _ in 0..6 {
        say(&pod, "more").await;
    }
    // Twelve messages and the new input are too many: what this turn was asked is known by the summary alone.
    assert_eq!(say(&pod, "once more").await, "1 messages, the last one: so far: 13 messages");
    pod.notify("by the way").await.unwrap();
    let told = async {
        while !outputs(&pod).await.iter().any(|text| text.ends_with("report: by the way")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, told).await.unwrap();
    pod.shutdown().await;
}
