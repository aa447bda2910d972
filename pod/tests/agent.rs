//! A worker of the kind that talks to a model, written with nothing but what the crate shows: that it fits in is the claim.
//!
//! It has no memory of its own. Each request is made from what is committed, so that a crash, a rewind and a compaction
//! need nothing from it. The model is a function of the request.

use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use pod::id::TurnId;
use pod::protocol::{Compact, ListRewindTargets, PodState, RewindAck, RewindChildren, RewindTo, Status};
use pod::store::{HistoryItem, HistoryRow, OutputKind, ToolEnd};
use pod::worker::{Attachment, Compaction, FailureKind, LiveItem, Signal, ToolOutput, Usage};
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
    /// It will not answer, and why.
    refused: Option<(FailureKind, &'static str)>,
}

fn model(request: &[String], attempt: u32) -> Reply {
    let last = request.last().map_or("", String::as_str);
    let tools = match last.strip_prefix("user: look at ") {
        Some(places) => places.split(" and ").map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let failed = (attempt == 0 && last.ends_with("twice")).then_some("half an ans");
    let refused = match last {
        "user: without a key" => Some((FailureKind::Auth, "401: the key is not known")),
        "user: too much" => Some((FailureKind::ContextTooLong, "400: 9 tokens are too many")),
        _ => None,
    };
    Reply { text: format!("{} messages, the last one: {last}", request.len()), tools, failed, refused }
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
                cx.answering().await?;
                cx.produce_with(OutputKind::Thinking, "", signature(&reply.text)).await?;
                for piece in reply.text.split_inclusive(' ') {
                    cx.delta(OutputKind::Text, piece);
                }
                cx.output(&reply.text).await?;
                cx.usage(Usage::new(messages.len() as u64, 1)).await?;
                if let Some((kind, message)) = reply.refused {
                    return Err(WorkerError::of_kind(kind, message));
                }
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

/// What a provider wants to be told again with what its model said.
fn signature(text: &str) -> serde_json::Value {
    serde_json::json!({ "signature": text.len() })
}

async fn look(cx: &TurnContext, place: &str) -> Result<(), WorkerError> {
    let provider = serde_json::json!({ "id": format!("use of {place}") });
    let used = cx.tool_with("look", serde_json::json!({ "at": place }), provider).await?;
    used.progress("looking");
    match place {
        // Given up, as by a timeout of the agent's own.
        "nowhere" => {}
        "a picture" => {
            let seen = ToolOutput::from("a picture").structured(serde_json::json!({ "width": 3 }));
            used.done(seen.attach(Attachment::new("it", "image/png", "/pictures/1.png"))).await?;
        }
        "the secret" => drop(used.failed("it is secret").await?),
        place => drop(used.done(&format!("{place} is there")).await?),
    }
    Ok(())
}

/// One message of an agent, as its provider wants it told: what it said in answer to one request.
#[derive(Debug, Default, PartialEq)]
struct Message {
    text: String,
    /// What stands with the texts and the uses of tools, in order.
    provider: Vec<serde_json::Value>,
    /// The uses that were asked for together, and what each came to.
    calls: Vec<(String, Option<(ToolEnd, String)>)>,
}

/// The messages of a turn, from nothing but its entries.
fn messages(rows: &[HistoryRow]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for row in rows {
        if matches!(row.item, HistoryItem::Answering { .. }) {
            messages.push(Message::default());
        }
        let Some(message) = messages.last_mut() else { continue };
        match &row.item {
            HistoryItem::Output { output: OutputKind::Text, text } => message.text.push_str(text),
            HistoryItem::Provider { data, .. } => message.provider.push(data.clone()),
            HistoryItem::ToolCall { arguments, .. } => {
                message.calls.push((arguments["at"].as_str().unwrap_or_default().to_owned(), None));
            }
            HistoryItem::ToolResult { call, how, text, .. } => {
                // Uses are counted within the turn; here all of them are of one message.
                let of = usize::try_from(call.0).unwrap() - 1;
                message.calls[of].1 = Some((*how, text.clone()));
            }
            _ => {}
        }
    }
    messages
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

async fn rows(pod: &PodHandle) -> Vec<HistoryRow> {
    pod.store().read(|reads| reads.history_after(0, 1000)).await.unwrap()
}

async fn items(pod: &PodHandle) -> Vec<HistoryItem> {
    rows(pod).await.into_iter().map(|row| row.item).collect()
}

async fn outputs(pod: &PodHandle) -> Vec<String> {
    let texts = items(pod).await.into_iter().filter_map(|item| match item {
        HistoryItem::Output { output: OutputKind::Text, text } => Some(text),
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

#[tokio::test(flavor = "multi_thread")]
async fn agent_finds_its_messages_their_tools_and_what_its_provider_wants_told_again_in_what_is_committed() {
    let dir = TempDir::new().unwrap();
    let pod = start(&dir).await;
    say(&pod, "look at here and nowhere and the secret and a picture").await;
    let all = rows(&pod).await;
    let found = messages(&all);
    let called = |place: &str, how, text: &str| (place.to_owned(), Some((how, text.to_owned())));
    assert_eq!(found.len(), 2, "two requests were answered");
    let first = &found[0];
    assert!(first.text.starts_with("1 messages"), "{first:?}");
    // One was given up in the middle of the turn: it has its result before the next request is made.
    let mut calls = first.calls.iter().map(|(place, end)| (place.clone(), end.clone())).collect::<Vec<_>>();
    calls.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        calls,
        [
            called("a picture", ToolEnd::Done, "a picture"),
            called("here", ToolEnd::Done, "here is there"),
            called("nowhere", ToolEnd::Abandoned, "it was given up before it had a result"),
            called("the secret", ToolEnd::Failed, "it is secret"),
        ]
    );
    assert_eq!(first.provider[0], signature(&first.text));
    assert_eq!(first.provider.len(), 5, "what was thought and each use: {:?}", first.provider);
    assert!(found[1].text.starts_with("6 messages, the last one: tool: "), "{:?}", found[1]);
    assert!(found[1].calls.is_empty());
    // Each stands right behind the entry that it belongs to.
    for pair in all.windows(2) {
        if let HistoryItem::Provider { of, .. } = &pair[1].item {
            assert_eq!(*of, pair[0].seq);
        }
    }
    let picture = all.iter().find_map(|row| match &row.item {
        HistoryItem::ToolResult { structured: Some(value), attachments, .. } => Some((value, attachments)),
        _ => None,
    });
    let (value, attachments) = picture.unwrap();
    assert_eq!((&value["width"], attachments[0].reference.as_str()), (&3.into(), "/pictures/1.png"));
    pod.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_an_agent_is_shown_with_its_kind_until_a_turn_finishes() {
    let dir = TempDir::new().unwrap();
    let pod = start(&dir).await;
    let fail = async |text: &str| {
        idle(&pod).await;
        let work = pod.run(text).await.unwrap();
        let end = tokio::time::timeout(SOON, work.ended()).await.unwrap();
        assert!(matches!(end, WorkEnd::Errored { .. }), "{end:?}");
        let failure = pod.status().await.unwrap().last_failure.unwrap();
        (failure.turn, failure.kind, failure.message.to_string())
    };
    assert_eq!(fail("without a key").await, (TurnId(1), FailureKind::Auth, "401: the key is not known".to_owned()));
    assert_eq!(
        fail("too much").await,
        (TurnId(2), FailureKind::ContextTooLong, "400: 9 tokens are too many".to_owned())
    );
    say(&pod, "hello").await;
    assert_eq!(pod.status().await.unwrap().last_failure, None);
    pod.shutdown().await;
}
