//! A worker of the kind that talks to a model, written with nothing but what the crate shows: that it fits in is the claim.
//!
//! It has no memory of its own. Each request is made from what is committed, so that a crash, a rewind and a compaction
//! need nothing from it. The model is a function of the request.

use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use pod::id::TurnId;
use pod::protocol::{Cancel, Compact, ListRewindTargets, Pause, PodState, RewindAck, RewindChildren, RewindTo, Status};
use pod::store::{HistoryItem, HistoryRow, OutputKind, ToolEnd};
use pod::worker::{ARGUMENTS_BYTES_MAX, Attachment, Compaction, FailureKind, LiveItem, Producing, Signal};
use pod::worker::{ToolCall, ToolOutput, Usage};
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

    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
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
                        Some(Signal::Limit) => return Ok(TurnEnd::LimitReached),
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

    fn compact<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<Compaction, WorkerError>> {
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
    let used = cx.tool(ToolCall::new("look", serde_json::json!({ "at": place })).provider(provider)).await?;
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

/// Does in its turn what a test says, and tells the test what came of it.
struct Does(fn(TurnContext) -> BoxFuture<'static, Result<String, WorkerError>>);

impl Worker for Does {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let came = (self.0)(cx.clone()).await?;
            cx.output(&came).await?;
            Ok(TurnEnd::Finished)
        })
    }
}

/// Runs one turn that does this. Returns its last output and all entries.
async fn in_a_turn(
    input: &str,
    does: fn(TurnContext) -> BoxFuture<'static, Result<String, WorkerError>>,
) -> (String, Vec<HistoryRow>) {
    let dir = TempDir::new().unwrap();
    let options = PodOptions::new("does".parse().unwrap(), WorkerSpec::of_kind("does"))
        .workers(Workers::builtin().with("does", move |_| Ok(Box::new(Does(does)))))
        .roots(Roots::at(&dir.path().join("pods")).unwrap());
    let pod = PodController::spawn(options).await.unwrap();
    let came = say(&pod, input).await;
    let rows = rows(&pod).await;
    pod.shutdown().await;
    (came, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_is_given_up_at_any_poll_loses_nothing_that_the_agent_is_told() {
    let (came, rows) = in_a_turn("go", |cx| {
        Box::pin(async move {
            let mut told = Vec::new();
            for polls in 0..40 {
                cx.pod().notify(&format!("note {polls}")).await.map_err(|error| WorkerError::new(error.to_string()))?;
                // Each is dropped after one poll more than the last one.
                let mut request = Box::pin(cx.next_request());
                for _ in 0..polls {
                    if let std::task::Poll::Ready(items) = futures::poll!(&mut request) {
                        told.extend(items?.into_iter().map(|item| item.text().to_owned()));
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(request);
                // So are the answers; what a dropped one had marked is not marked again.
                let mut answer = Box::pin(cx.response_received());
                let _ = futures::poll!(&mut answer);
            }
            told.extend(cx.next_request().await?.into_iter().map(|item| item.text().to_owned()));
            cx.response_received().await?;
            let mut one_by_one = told.clone();
            one_by_one.dedup();
            assert_eq!(told.len(), one_by_one.len(), "told twice");
            Ok(format!("{} told", told.len()))
        })
    })
    .await;
    assert_eq!(came, "40 told");
    let reports = rows.iter().filter(|row| matches!(row.item, HistoryItem::SystemItem(_))).count();
    assert_eq!(reports, 40, "each stands in history once");
    let turns = rows.iter().filter(|row| matches!(row.item, HistoryItem::TurnStarted { .. })).count();
    assert_eq!(turns, 1, "nothing was left that needs another turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_in_a_task_of_its_own_outlives_the_request_that_it_was_asked_in() {
    let (came, rows) = in_a_turn("go", |cx| {
        Box::pin(async move {
            cx.answering().await?;
            let call = ToolCall::new("build", serde_json::json!({ "what": "all" }));
            let used = cx.tool(call).await?;
            let (finish, finished) = tokio::sync::oneshot::channel::<()>();
            let background = tokio::spawn(async move {
                let _ = finished.await;
                used.done("built").await
            });
            // The next request is made and answered meanwhile.
            cx.next_request().await?;
            let second = cx.answering().await?;
            cx.output("I go on").await?;
            let _ = finish.send(());
            let built = background.await.map_err(|error| WorkerError::new(error.to_string()))??;
            // And one that nobody ends: it has its result with the turn.
            let forgotten = cx.tool(ToolCall::new("watch", serde_json::Value::Null)).await?;
            std::mem::forget(forgotten);
            Ok(format!("{} in request {second}", built.text))
        })
    })
    .await;
    assert_eq!(came, "built in request 2");
    let kinds: Vec<&str> = rows.iter().map(|row| row.item.kind()).collect();
    let of = |kind: &str| kinds.iter().enumerate().filter(|(_, is)| **is == kind).map(|(at, _)| at).collect::<Vec<_>>();
    let (begun, ended, requests) = (of("tool_call"), of("tool_result"), of("answering"));
    assert!(begun[0] < requests[1] && requests[1] < ended[0], "{kinds:?}");
    let ends = rows.iter().filter_map(|row| match &row.item {
        HistoryItem::ToolResult { how, .. } => Some(*how),
        _ => None,
    });
    assert_eq!(ends.collect::<Vec<_>>(), [ToolEnd::Done, ToolEnd::Abandoned]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_pods_keep_what_the_provider_wants_and_answer_what_cannot_be_begun() {
    let (came, rows) = in_a_turn("go", |cx| {
        Box::pin(async move {
            cx.answering().await?;
            let known =
                ToolCall::new("ListPods", serde_json::json!({})).provider(serde_json::json!({ "id": "call_1" }));
            let listed = pod::tools::use_tool(&cx, known).await?;
            let long = serde_json::json!({ "text": "x".repeat(ARGUMENTS_BYTES_MAX) });
            let long = ToolCall::new("write", long).provider(serde_json::json!({ "id": "call_2" }));
            let refused = pod::tools::use_tool(&cx, long).await?;
            assert!(refused.failed && refused.text.contains("at most 524288 are allowed"), "{}", refused.text);
            let fits = serde_json::json!({ "text": "x".repeat(ARGUMENTS_BYTES_MAX - 100) });
            cx.tool(ToolCall::new("write", fits)).await?.done("written").await?;
            Ok(format!("listed: {}", !listed.failed))
        })
    })
    .await;
    assert_eq!(came, "listed: true");
    let mut uses = Vec::new();
    for pair in rows.windows(3) {
        if let HistoryItem::ToolCall { tool, arguments, .. } = &pair[0].item {
            let provider = match &pair[1].item {
                HistoryItem::Provider { data, .. } => data["id"].as_str(),
                _ => None,
            };
            uses.push((tool.as_str(), provider, arguments["bytes"].is_u64()));
        }
    }
    assert_eq!(uses, [("ListPods", Some("call_1"), false), ("write", Some("call_2"), true), ("write", None, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_is_cancelled_in_the_middle_of_a_stream_and_of_its_tools_leaves_both_in_order() {
    let dir = TempDir::new().unwrap();
    let options = PodOptions::new("streams".parse().unwrap(), WorkerSpec::of_kind("streams"))
        .workers(Workers::builtin().with("streams", |_| Ok(Box::new(Streams))))
        .roots(Roots::at(&dir.path().join("pods")).unwrap());
    let pod = PodController::spawn(options).await.unwrap();
    let client = rpc::Client::<Method>::new(&pod.address());
    for end in [TurnResult::Cancelled, TurnResult::Paused] {
        idle(&pod).await;
        let (_, mut live) = pod.live();
        let work = pod.run("stream").await.unwrap();
        let both = async {
            let (mut said, mut used) = (false, 0);
            while !said || used < 2 {
                match live.next().await.unwrap() {
                    LiveItem::Delta { output: Producing::Output(_), .. } => said = true,
                    LiveItem::Progress { .. } => used += 1,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(SOON, both).await.unwrap();
        if end == TurnResult::Cancelled {
            client.call(Cancel).await.unwrap();
            assert_eq!(tokio::time::timeout(SOON, work.ended()).await.unwrap(), WorkEnd::TurnEnded(end));
        } else {
            client.call(Pause).await.unwrap();
            let paused = async {
                while client.call(Status).await.unwrap().state != PodState::Paused {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(SOON, paused).await.unwrap();
        }
        assert!(pod.live().0.pieces.is_empty() && pod.live().0.calls.is_empty());
    }
    let all = items(&pod).await;
    let ends: Vec<ToolEnd> = all
        .iter()
        .filter_map(|item| match item {
            HistoryItem::ToolResult { how, .. } => Some(*how),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [ToolEnd::Abandoned; 4]);
    assert!(outputs(&pod).await.is_empty(), "what was shown and not committed does not count");
    pod.shutdown().await;
}

/// Streams and uses two tools until it is asked to end.
struct Streams;

impl Worker for Streams {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            cx.next_request().await?;
            cx.answering().await?;
            cx.arguments_delta(0, "{");
            let tool = |name| cx.tool(ToolCall::new(name, serde_json::Value::Null));
            let (one, other) = (tool("one").await?, tool("other").await?);
            loop {
                cx.delta(OutputKind::Text, "and on ");
                one.progress("on");
                other.progress("on");
                match cx.rest(Duration::from_millis(1)).await {
                    Some(Signal::Pause) => return Ok(TurnEnd::Paused),
                    Some(Signal::Limit) => return Ok(TurnEnd::LimitReached),
                    Some(Signal::Cancel | Signal::Shutdown) => return Ok(TurnEnd::Cancelled),
                    None => {}
                }
            }
        })
    }
}
