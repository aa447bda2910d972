//! SendToPod: steer a child, send it more work, or interrupt it.

use rpc::CallError;
use serde::{Deserialize, Serialize};

use super::spawn_pod::fits;
use super::{Caller, Description, still_running, target};
use crate::id::{PodName, TurnId, WorkId};
use crate::protocol::{Method, RUN_INPUT_BYTES_MAX, SendKind, SendRejection, SendToPod, Sent, Text};
use crate::store::{ChildRow, GivenAs, StoreError, Tx};

pub(super) const DESCRIPTION: Description = Description {
    name: "SendToPod",
    description: "Tell a child something. 'steer': it is told with the next request of the turn that runs, which goes \
                  on. 'follow_up': it does this when its turn has ended; it is work of its own, whose end you are told. \
                  'interrupt': its turn is cancelled, and it does this instead; without a text it is only cancelled. The \
                  answer says what became of it, which depends on what the child did at that moment.",
    parameters: r#"{
        "type": "object",
        "properties": {
            "pod": {"type": "string"},
            "how": {"type": "string", "enum": ["steer", "follow_up", "interrupt"]},
            "text": {"type": "string"}
        },
        "required": ["pod", "how"],
        "additionalProperties": false
    }"#,
};

/// What the tool is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendToPodInput {
    /// Whom.
    pub pod: PodName,
    /// In which way.
    pub how: SendKind,
    /// What.
    #[serde(default)]
    pub text: String,
}

impl TryFrom<SendToPodInput> for (PodName, SendToPod) {
    type Error = String;

    /// What does not fit is refused, not cut.
    fn try_from(input: SendToPodInput) -> Result<Self, String> {
        fits("text", &input.text, RUN_INPUT_BYTES_MAX)?;
        let request = SendToPod { key: WorkId::random(), how: input.how, text: input.text.into() };
        Ok((input.pod, request))
    }
}

/// Sends to a child. What is staged is delegated: recorded here before it is sent, on behalf of the caller's work, and
/// settled by the child's reports.
///
/// # Errors
/// [`SendRejection`]; only its `Unknown` may have been done.
///
/// # Cancel safety
/// Dropped early, it may be sent all the same.
pub async fn send_to_pod(caller: &Caller, pod: &PodName, request: SendToPod) -> Result<Sent, SendRejection> {
    let (caller, pod) = (caller.clone(), pod.clone());
    let task = tokio::spawn(async move { send(&caller, &pod, request).await });
    task.await.unwrap_or_else(|error| Err(SendRejection::Unavailable { reason: Text::clipped(error.to_string()) }))
}

async fn send(caller: &Caller, pod: &PodName, request: SendToPod) -> Result<Sent, SendRejection> {
    let row = target::living(&caller.pod, pod).await.map_err(|error| unavailable(&error))?;
    let row = row.map_err(SendRejection::Target)?;
    let delegated = request.how != SendKind::Steer && !request.text.trim().is_empty();
    if !delegated {
        still_running(caller).await.map_err(|error| unavailable(&error))?;
        return ask(&row, request).await.0;
    }
    let (work, to, text) = (request.key, row.pod.clone(), request.text.as_str().to_owned());
    let (summary, turn, belongs_to) = (text.clone(), caller.turn, caller.work);
    let shared = caller.pod.shared();
    // Before it is sent: work that is under way is never unknown to us.
    let record = move |tx: &Tx<'_>| {
        turn.map(|turn| tx.running(turn)).transpose()?;
        // An interrupt is sent again as a follow-up, too: it was meant for the turn that ran now, and for no later one.
        tx.delegate_as(GivenAs::FollowUp, work, &to, belongs_to, &summary)
    };
    let recorded = shared.commit(record).await;
    recorded.map_err(|error| unavailable(&error))?;
    drop(shared.registry.delegated(&row.pod, work, &text));
    let (answer, taken) = ask(&row, request).await;
    let recorded = match (&answer, taken) {
        (_, Some(turn)) => shared.commit(move |tx| tx.delegation_accepted(work, turn)).await,
        // It stays open, and is sent again as a follow-up until it is known whether the child has it.
        (Err(SendRejection::Unknown { .. }), None) => {
            crate::delegation::send_until_known(shared, row.pod, work);
            return answer;
        }
        (_, None) => {
            let refused = shared.commit(move |tx| tx.delegation_refused(work)).await;
            refused.map(|settled| {
                shared.registry.refused(&row.pod, work);
                shared.registry.settled(&settled);
            })
        }
    };
    let Err(error) = recorded else { return answer };
    // What the child has taken on it does, whatever is recorded of it here. The work is open, and is sent again until it is known.
    tracing::warn!(pod = %caller.pod.id(), %work, error = error.chain(), "what a child has answered could not be recorded");
    crate::delegation::send_until_known(shared, row.pod, work);
    match answer {
        Ok(sent) => Ok(sent),
        // Sent again it may be taken: that nothing has changed would be no word to act on.
        Err(no) => {
            let cause = format!("it said `{no}`, which could not be recorded: {}", error.chain());
            Err(SendRejection::Unknown { key: work, cause: Text::clipped(cause) })
        }
    }
}

/// Asks the child, and the turn that it took the work on as. A doubt is asked about once.
async fn ask(row: &ChildRow, request: SendToPod) -> (Result<Sent, SendRejection>, Option<TurnId>) {
    let key = request.key;
    let client = rpc::Client::<Method>::new(&rpc::Address::unix(&row.socket));
    let answer = match client.call(request).await {
        Err(CallError::Unknown(doubt)) => {
            let cause = doubt.to_string();
            match doubt.resolve().await {
                Err(CallError::Unknown(_)) => Err(SendRejection::Unknown { key, cause: Text::clipped(cause) }),
                other => said(other),
            }
        }
        other => said(other),
    };
    let turn = match &answer {
        Ok(Sent::Staged { turn, .. }) => Some(*turn),
        Ok(Sent::Interrupted { next, .. }) => next.as_ref().map(|next| next.turn),
        _ => None,
    };
    (answer, turn)
}

fn said(answer: Result<Sent, CallError<SendToPod>>) -> Result<Sent, SendRejection> {
    answer.map_err(|error| match error {
        CallError::Rejected(rejection) => rejection,
        other => SendRejection::Unavailable { reason: Text::clipped(format!("the pod could not be reached: {other}")) },
    })
}

fn unavailable(error: &StoreError) -> SendRejection {
    SendRejection::Unavailable { reason: Text::clipped(error.chain()) }
}
