//! What is said over the wire, told to the ledger and counted.
//!
//! Reads frames as they pass; changes nothing and decides nothing.
//!
//! Called by `client` and `driver` for each frame, before the lane takes it.

use rpc::wire::header::{self, Kind, NackCode, ResolutionCode, split_u32};

use super::env::Env;
use super::ledger::Answer;

/// A frame from whoever answers: what a memory says about an id must never change.
pub(super) fn answer(env: &mut Env, memory: Option<usize>, frame: &[u8]) {
    let Ok(Some(frame)) = header::parse(frame) else { return };
    let answer = match frame.kind {
        Kind::Ack => Answer::Ack(frame.body.to_vec()),
        Kind::Nack => Answer::Nack(frame.aux, frame.body.to_vec()),
        Kind::Failed => Answer::Failed(frame.aux),
        Kind::Goodbye | Kind::Drain => {
            return env.trace(|| format!("client reads {:?}: code {}, above {}", frame.kind, frame.aux, frame.id));
        }
        Kind::Resolution => {
            let (code, body) = split_u32(frame.body).unwrap_or((0, &[]));
            let (name, answer) = match ResolutionCode::from_number(frame.aux) {
                ResolutionCode::Applied => ("answer: applied", Some(Answer::Ack(frame.body.to_vec()))),
                ResolutionCode::Nacked => ("answer: nacked", Some(Answer::Nack(code, body.to_vec()))),
                ResolutionCode::Failed => ("answer: failed", Some(Answer::Failed(code))),
                ResolutionCode::NeverSeen => {
                    ("answer: never seen", Some(Answer::Nack(NackCode::Burnt.number(), Vec::new())))
                }
                ResolutionCode::Running => ("answer: running", None),
                _ => ("answer: forgotten", None),
            };
            env.coverage.hit(name);
            env.trace(|| format!("client reads resolution of {}, {name}", frame.id));
            let Some(answer) = answer else { return };
            answer
        }
        _ => return,
    };
    match memory {
        Some(memory) => env.ledger.answered(env.now, memory, frame.id, &answer),
        None => env.ledger.violate(env.now, "protocol", format!("{:?} before any Welcome", frame.kind)),
    }
}

/// A frame from whoever asks.
pub(super) fn request(env: &mut Env, memory: usize, frame: &[u8]) {
    let Ok(Some(frame)) = header::parse(frame) else { return };
    match frame.kind {
        Kind::Void => env.coverage.hit("server: void skipped"),
        Kind::Park if !frame.body.is_empty() => env.coverage.hit("server: id parked"),
        _ => {}
    }
    env.trace(|| format!("memory {memory}: reads {:?} {} floor {}", frame.kind, frame.id, frame.floor));
}
