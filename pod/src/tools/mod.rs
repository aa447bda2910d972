//! What an agent can do with its children, as tools for a model and as methods for people.
//!
//! One file a tool: its description, what it is told, and a plain function that does it. A model's use goes through
//! [`use_tool`], which has it in history before it does anything and gives it one result there; a person's comes as a method
//! of the same name. What is asked for is carried out also if nobody waits for it any more.
//!
//! Never decides about a turn: that is the pod's own business, which `controller` decides.

mod attach_or_restore_pod;
mod find_pods;
mod list_pods;
mod read_pod_output;
mod send_to_pod;
mod spawn_pod;
mod stop_pod;
mod target;

use rpc::Responder;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::attach_or_restore_pod::{AttachOrRestorePodInput, attach_or_restore_pod};
pub use self::find_pods::{InspectPodInput, ListVisiblePodsInput, inspect_pod, list_completions, list_visible_pods};
pub use self::list_pods::{ListPodsInput, list_pods};
pub use self::read_pod_output::{ReadPodOutputInput, read, read_pod_output};
pub use self::send_to_pod::{SendToPodInput, send_to_pod};
pub use self::spawn_pod::{Right, SpawnPodInput, spawn_pod};
pub use self::stop_pod::{StopPodInput, stop_pod};
use crate::handle::PodHandle;
use crate::id::{TurnId, WorkId};
use crate::protocol::MethodCall;
use crate::store::StoreError;
use crate::worker::{Signal, ToolCall, TurnContext, WorkerError};

/// What a model is told about a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// What it does, in words for a model.
    pub description: &'static str,
    /// What it is told: a JSON schema.
    pub parameters: &'static str,
}

/// The tools, in the order in which a model is told about them.
pub const ALL: [Description; 8] = [
    spawn_pod::DESCRIPTION,
    send_to_pod::DESCRIPTION,
    read_pod_output::DESCRIPTION,
    stop_pod::DESCRIPTION,
    list_pods::DESCRIPTION,
    find_pods::LIST,
    find_pods::INSPECT,
    attach_or_restore_pod::DESCRIPTION,
];

/// Who uses a tool: a pod, the turn that does, and the work for which it does. A turn that is over changes nothing.
#[derive(Clone, Debug)]
pub struct Caller {
    pod: PodHandle,
    turn: Option<TurnId>,
    work: Option<WorkId>,
}

/// What became of one use of a tool; what the agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The result as JSON, or why there is none, in words. It is committed.
    pub text: String,
    /// Whether the tool did not do what it was told.
    pub failed: bool,
}

impl Caller {
    /// A pod that acts for nobody's work.
    pub fn of_pod(pod: &PodHandle) -> Self {
        Self { pod: pod.clone(), turn: None, work: None }
    }

    /// The pod of a turn: what it delegates belongs to the turn's work.
    pub fn of_turn(cx: &TurnContext) -> Self {
        Self { pod: cx.pod().clone(), turn: Some(cx.turn()), work: cx.works().first().copied() }
    }

    /// The pod.
    pub fn pod(&self) -> &PodHandle {
        &self.pod
    }
}

/// Uses a tool of [`ALL`] in a turn, as a model asks for it. A name or arguments that are wrong are a result that says so, and so is
/// everything that the tool refuses; a turn that is asked to end does not wait for it.
///
/// # Errors
/// What was done could not be committed.
pub async fn use_tool(cx: &TurnContext, call: ToolCall) -> Result<Used, WorkerError> {
    if let Err(wrong) = call.check() {
        let told = cx.refuse_tool(call, &wrong.to_string()).await?;
        return Ok(Used { text: told.text, failed: true });
    }
    let (name, arguments) = (call.tool().to_owned(), call.arguments().clone());
    let begun = cx.tool(call).await?;
    let caller = Caller::of_turn(cx);
    // CANCEL SAFETY: what changes something does it in a task of its own, or reads.
    let done = tokio::select! {
        biased;
        done = dispatch(&caller, &name, arguments) => done,
        signal = cx.signalled() => Err(given_up(signal).to_owned()),
    };
    match done {
        Ok(result) => Ok(Used { text: begun.done(result).await?.text, failed: false }),
        Err(reason) => Ok(Used { text: begun.failed(reason).await?.text, failed: true }),
    }
}

async fn dispatch(caller: &Caller, name: &str, arguments: Value) -> Result<String, String> {
    match name {
        "SpawnPod" => {
            let input: SpawnPodInput = told(name, arguments)?;
            answer(spawn_pod(caller, input.try_into()?).await)
        }
        "SendToPod" => {
            let input: SendToPodInput = told(name, arguments)?;
            let (pod, request) = input.try_into()?;
            answer(send_to_pod(caller, &pod, request).await)
        }
        "ReadPodOutput" => {
            let input: ReadPodOutputInput = told(name, arguments)?;
            answer(read_pod_output::for_model(caller, input.try_into()?).await)
        }
        "StopPod" => {
            let input: StopPodInput = told(name, arguments)?;
            answer(stop_pod(caller, input.into()).await)
        }
        "ListPods" => {
            let input: ListPodsInput = told(name, arguments)?;
            answer(list_pods(caller, input.into()).await)
        }
        "ListVisiblePods" => {
            let input: ListVisiblePodsInput = told(name, arguments)?;
            answer(list_visible_pods(caller, input.into()).await)
        }
        "InspectPod" => {
            let input: InspectPodInput = told(name, arguments)?;
            answer(inspect_pod(caller, input.into()).await)
        }
        "AttachOrRestorePod" => {
            let input: AttachOrRestorePodInput = told(name, arguments)?;
            answer(attach_or_restore_pod(caller, input.into()).await)
        }
        unknown => {
            let names: Vec<&str> = ALL.iter().map(|tool| tool.name).collect();
            Err(format!("there is no tool `{}`; there are {}", crate::protocol::clip(unknown, 64), names.join(", ")))
        }
    }
}

/// What a tool is told, or what is wrong with it.
fn told<T: DeserializeOwned>(tool: &str, arguments: Value) -> Result<T, String> {
    // A model that has nothing to say says nothing.
    let arguments = if arguments.is_null() { Value::Object(serde_json::Map::new()) } else { arguments };
    serde_json::from_value(arguments).map_err(|error| crate::manifest::explain(tool, &error.to_string()).to_string())
}

fn answer<T: serde::Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Result<String, String> {
    match result {
        Ok(value) => serde_json::to_string(&value).map_err(|error| format!("the result cannot be shown: {error}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the caller's turn, if it is one, still runs: whoever has ended it reckons with nothing more from it.
async fn still_running(caller: &Caller) -> Result<(), StoreError> {
    match caller.turn {
        Some(turn) => caller.pod.store().write(move |tx| tx.running(turn)).await,
        None => Ok(()),
    }
}

fn given_up(signal: Signal) -> &'static str {
    match signal {
        Signal::Pause => {
            "not waited for: the turn is to pause; what was asked for may still be done, ListPods shows it"
        }
        Signal::Limit => {
            "not waited for: the turn's time is over; what was asked for may still be done, ListPods shows it"
        }
        Signal::Cancel => {
            "not waited for: the turn was cancelled; what was asked for may still be done, ListPods shows it"
        }
        Signal::Shutdown => "not waited for: the pod is stopping, and its children with it",
    }
}

/// Carries a method out, in a task of its own.
pub(crate) fn serve(pod: &PodHandle, call: MethodCall) {
    let caller = Caller::of_pod(pod);
    match call {
        MethodCall::SpawnPod(request, responder) => {
            run(responder, async move { spawn_pod(&caller, request).await });
        }
        MethodCall::ReadPodOutput(request, responder) => {
            run(responder, async move { read_pod_output(&caller, request).await });
        }
        MethodCall::StopPod(request, responder) => run(responder, async move { stop_pod(&caller, request).await }),
        MethodCall::ListPods(request, responder) => run(responder, async move { list_pods(&caller, request).await }),
        MethodCall::ListVisiblePods(request, responder) => {
            run(responder, async move { list_visible_pods(&caller, request).await });
        }
        MethodCall::InspectPod(request, responder) => {
            run(responder, async move { inspect_pod(&caller, request).await });
        }
        MethodCall::AttachOrRestorePod(request, responder) => {
            run(responder, async move { attach_or_restore_pod(&caller, request).await });
        }
        MethodCall::ListCompletions(request, responder) => {
            run(responder, async move { list_completions(&caller, request).await });
        }
        // The controller sends nothing else here; a responder that is dropped answers that it was not taken.
        _ => tracing::error!(pod = %pod.id(), "a method that is no tool came to the tools"),
    }
}

fn run<R: rpc::Request>(
    responder: Responder<R>,
    work: impl Future<Output = Result<R::Ack, R::Rejection>> + Send + 'static,
) {
    tokio::spawn(async move { responder.answer(work.await) });
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
