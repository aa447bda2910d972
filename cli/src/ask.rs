//! One call to a pod, its four answers as people read them, and the exit code of each.
//!
//! A doubt is asked about once, within the time that the person was promised; what then remains unknown is said, with what
//! to do about it.
//!
//! Used by `send`, `control`, `compact` and `rewind`.

use std::time::Duration;

use pod::Method;
use rpc::{CallError, Client, Has, NotDelivered, Request};

use crate::exit::Exit;
use crate::failure::Failure;

/// Asks, and returns the ack. `said` puts a rejection into words; `unsure` says what to do about a doubt.
pub(crate) async fn ask<R: Request>(
    client: &Client<Method>,
    request: R,
    timeout: Duration,
    unsure: &str,
    said: impl FnOnce(&R::Rejection) -> String,
) -> Result<R::Ack, Failure>
where
    Method: Has<R>,
{
    let until = tokio::time::Instant::now() + timeout;
    let first = client.call(request).deadline(timeout).await;
    let answer = match first {
        // Asked again only while there is time left: the person was promised an answer by then.
        Err(CallError::Unknown(doubt)) if tokio::time::Instant::now() < until => {
            let told = format!("{doubt}");
            match tokio::time::timeout_at(until, doubt.resolve()).await {
                Ok(answer) => answer,
                Err(_) => return Err(unknown(&told, unsure)),
            }
        }
        answer => answer,
    };
    match answer {
        Ok(ack) => Ok(ack),
        Err(CallError::Rejected(rejection)) => {
            Err(Failure::new(Exit::Rejected, format!("rejected, nothing was applied: {}", said(&rejection))))
        }
        Err(CallError::NotDelivered(why)) => Err(not_delivered(why)),
        Err(CallError::Unknown(doubt)) => Err(unknown(&doubt.to_string(), unsure)),
    }
}

fn unknown(why: &str, unsure: &str) -> Failure {
    Failure::new(Exit::Unknown, format!("unknown whether it was applied: {why}; {unsure}"))
}

fn not_delivered(why: NotDelivered) -> Failure {
    if let NotDelivered::Unauthorized(why) = &why {
        return Failure::new(Exit::Rejected, format!("refused, nothing was applied: {why}"));
    }
    let message = format!("not delivered, nobody saw it and nobody will: {why}; it is safe to send it again");
    Failure::new(Exit::NotDelivered, message)
}
